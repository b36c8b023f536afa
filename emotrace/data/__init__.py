"""Scenarios, emotions and prompts: everything that is known before a model is touched."""
