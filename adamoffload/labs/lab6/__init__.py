"""Lab 6: Groups and schedules."""
