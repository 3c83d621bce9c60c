"""What was recorded, in tables, in sentences, and on one page."""
