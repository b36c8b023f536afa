"""The paper's experiments, one readable file each."""
