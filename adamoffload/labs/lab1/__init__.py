"""Lab 1: Adam by hand."""
