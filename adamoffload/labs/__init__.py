"""Labs for classes, which grade themselves.

``adamoffload lab start N DIR`` hands one out, ``adamoffload lab check N FILE`` grades it. A lab is
a folder with a statement, a file with gaps and a grader; solutions are no part of the package. A
student's code runs in a process of its own, with limits on its time and memory, and is not sent
what is expected of it. That holds against accidents and curiosity, not against malice: the graders
are on the same machine. Marks that count are made in a container.
"""
