"""Lab 7: Rounding."""
