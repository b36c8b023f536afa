"""Mathematics that knows no model."""
