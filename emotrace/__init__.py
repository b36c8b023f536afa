"""Placeholder while the package grows."""
