"""The bundled model: corpus grammar, tokenizer, training, evaluation, weights and card."""
