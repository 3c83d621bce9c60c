"""Who carries a step out.

`optimizer` is what a user constructs, and `pipeline` a chunk's way from gradient to parameter.
"""
