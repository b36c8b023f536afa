"""Measurements of speed, memory and traffic, against others and against the straightforward way."""
