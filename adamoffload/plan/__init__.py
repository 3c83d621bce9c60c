"""What a step will do, decided before anything moves: its chunks and its numbers."""
