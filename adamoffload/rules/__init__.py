"""What is computed: an optimizer's update, elementwise, as in its paper.

Begin with `adamoffload.rules.adam`. Rules know arrays and numbers, nothing of devices or copies.
"""
