"""What is computed: an optimizer's update, elementwise, as in its paper.

They stand in order of difficulty, and each says what it adds to the one before. Rules know arrays
and numbers, nothing of devices or copies.
"""

from adamoffload.rules.adam import Adam

__all__ = ["Adam"]
