"""Labs for classes, which grade themselves.

``adamoffload lab start N DIR`` hands one out, ``adamoffload lab check N FILE`` grades it. A lab is
a folder with a statement, a file with gaps and a grader; solutions are no part of the package. A
student's code runs in a process of its own, with a limit on its time, and never sees what is
expected of it.
"""
