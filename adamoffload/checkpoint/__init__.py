"""What is kept: an optimizer and its parameters in one file."""
