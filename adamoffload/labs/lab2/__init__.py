"""Lab 2: the delta trick."""
