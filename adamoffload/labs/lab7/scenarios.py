"""Lab 7 needs plain calls alone."""

__all__: list[str] = []
