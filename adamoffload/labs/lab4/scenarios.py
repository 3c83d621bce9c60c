"""Lab 4 needs no scenarios: plain calls are enough."""
