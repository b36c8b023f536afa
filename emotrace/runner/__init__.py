"""Protocols, run folders, the stage cache and manifests."""
