"""The command line: ``emotrace run``, ``merge``, ``protocols``, ``steer`` and ``doctor``."""

from emotrace.cli.app import app, main

__all__ = ["app", "main"]
