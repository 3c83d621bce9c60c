"""What to write here instead of what one writes with other libraries."""

from __future__ import annotations

__all__ = ["hint"]

_HOST = "nothing is copied to the host implicitly: call device.asnumpy(x), of a Parameter its .data"
_GRADIENT = (
    "gradients are returned, not kept: "
    "loss, gradients = adamoffload.value_and_grad(loss_fn, parameters)(...)"
)
_HINTS = {
    "grad": _GRADIENT,
    "backward": _GRADIENT,
    "zero_grad": _GRADIENT,
    "requires_grad": "what to differentiate by is the second argument of value_and_grad",
    "requires_grad_": "what to differentiate by is the second argument of value_and_grad",
    "detach": "adamoffload.stop_gradient(x) is x as a constant",
    "numpy": _HOST,
    "cpu": _HOST,
    "get": _HOST,
    "tolist": _HOST,
    "cuda": "device.asarray(x) copies a host array to a device",
    "to": "device.asarray(x) copies a host array to a device; x.astype(dtype) changes the type",
    "permute": "np.transpose(x, axes) is it here",
    "unsqueeze": "np.expand_dims(x, axis) is it here",
}


def hint(name: str) -> str:
    """Return what takes the place of an attribute that arrays have in other libraries.

    Empty if it is none of these.

    Examples
    --------
    >>> hint("detach")
    'adamoffload.stop_gradient(x) is x as a constant'
    """
    return _HINTS.get(name, "")
