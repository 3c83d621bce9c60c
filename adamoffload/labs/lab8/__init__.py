"""Lab 8: Write a backend."""
