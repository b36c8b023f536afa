"""Every nnsight trace that the API needs: capture, edits, suffixes, generation."""
