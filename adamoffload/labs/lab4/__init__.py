"""Lab 4: chunking and overlap."""
