"""How a rule runs on blocks of memory.

`program` traces a rule and makes in-place calls of it, `kernel` runs them on one block, `fused`
compiles them into one loop, and `team` shares the blocks among threads.
"""
