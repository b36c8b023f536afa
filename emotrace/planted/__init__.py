"""Planted models: constructed without training, so that the components that carry an emotion are known."""

from emotrace.planted.build import build
from emotrace.planted.layout import CLASSES
from emotrace.planted.model import Planted

__all__ = ["CLASSES", "Planted", "build"]
