"""Where arrays live.

`adamoffload.device.backend` is the whole contract of a device; `array` is what a device library in
NumPy is made of; `parameter` names an array that an optimizer updates; `registry` finds devices.
"""
