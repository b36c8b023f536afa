"""Models: where each family keeps its parts, and the nnsight model that a study runs on."""
