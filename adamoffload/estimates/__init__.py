"""What training would cost on a machine that one need not have.

`machines` and `models` are figures with their sources, `software` is what a system's own code
costs, `declared` what a strategy says; `clock` and `walk` let the hops take their time on a
machine's lanes, `memory` counts bytes, and `step` puts a training step together.
"""
