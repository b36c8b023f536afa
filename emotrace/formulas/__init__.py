"""Mathematics that knows no model: torch, numpy and scipy only."""
