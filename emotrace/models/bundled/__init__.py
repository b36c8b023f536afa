"""The bundled model: corpus grammar, tokenizer, training, evaluation, weights and card."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
