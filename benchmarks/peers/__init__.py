"""Peer libraries, each in a virtual environment of its own, driven over a pipe so that all see the same models."""
