"""What is computed: an optimizer's update, elementwise, as in its paper.

In order of difficulty, each with what it adds to those before:

1. `SGD`: the gradient itself; with momentum, a sum of gradients that fades.
2. `Lion`: of such an average, only the sign.
3. `Adagrad`: the gradient over the root of all squares so far, an element's own step size.
4. `rules.Adam`: both, as averages that forget, and corrected for their start at 0.
5. `AdamW`: weight decay that is no part of the gradient.
6. `AMSGrad`: the largest second moment so far, a third slot.

Rules know arrays and numbers, nothing of devices or copies.
"""

from adamoffload.rules.adagrad import Adagrad
from adamoffload.rules.adam import Adam
from adamoffload.rules.adamw import AdamW
from adamoffload.rules.amsgrad import AMSGrad
from adamoffload.rules.lion import Lion
from adamoffload.rules.sgd import SGD

__all__ = ["SGD", "Lion", "Adagrad", "Adam", "AdamW", "AMSGrad"]  # noqa: RUF022  by difficulty
