"""What those try who know another framework's optimizer, and how it is done here."""

from __future__ import annotations

__all__ = ["FIXED", "MISSING"]

_RATE = (
    "the learning rate is `learning_rate`, a number that can be assigned between steps; for some "
    "parameters, set_learning_rate(rate, *parameters)"
)
_GROUPS = (
    "give groups to the constructor, as dicts: {'params': [...], 'lr': ..., 'weight_decay': ...}"
)
_CONSTRUCTED = "it is fixed when the optimizer is constructed; construct one with another value"

MISSING = {
    "zero_grad": "gradients are an argument of each call, so there is nothing to set to zero",
    "backward": "adamoffload.value_and_grad computes gradients",
    "lr": _RATE,
    "param_groups": _GROUPS,
    "add_param_group": _GROUPS,
    "moment1": "the rule's slots are in `state`, by name: opt.state['m']",
    "moment2": "the rule's slots are in `state`, by name: opt.state['v']",
}
"""What an optimizer does not have, and what is there in its place."""

FIXED = {
    "lr": _RATE,
    "betas": _CONSTRUCTED,
    "beta1": _CONSTRUCTED,
    "beta2": _CONSTRUCTED,
    "eps": _CONSTRUCTED,
    "momentum": "Adam's is `beta1`, fixed when the optimizer is constructed",
    "weight_decay": "for one that changes, construct the optimizer with a function of the step",
    "loss_scale": _CONSTRUCTED,
    "use_nesterov": _CONSTRUCTED,
    "on_nonfinite": _CONSTRUCTED,
    "param_groups": _GROUPS,
}
"""What cannot be assigned, where Python would accept it and nothing would happen."""
