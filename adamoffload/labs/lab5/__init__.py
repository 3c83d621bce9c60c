"""Lab 5: A missing wait."""
