"""Where adamoffload deliberately answers an argument otherwise than the reference implementation.

Rows of ``oracle/errors.json``: what happens here instead (an exception type, or None for
acceptance), and why. Each is tested.
"""

from __future__ import annotations

NUMPY_SCALAR = "a NumPy real scalar is a number"
NONSENSE = "the reference accepts it and computes nonsense"
LATE = "the reference notices at the first step; here nothing wrong is constructed"
NAMES = "any name will do: state is kept apart from parameters"

FUNCTION = "a function of the step is a learning rate, as it is a weight decay"

# Arguments of AdamOffload.
CONSTRUCTOR: dict[str, tuple[type[Exception] | None, str]] = {
    "lr_07": (ValueError, f"the text '123' became the table 1, 2, 3: {NONSENSE}"),
    "lr_10": (None, NUMPY_SCALAR),
    "lr_12": (None, NUMPY_SCALAR),
    "lr_13": (None, "a 0-D array is a number"),
    "lr_15": (ValueError, LATE),
    "lr_16": (ValueError, LATE),
    "lr_18": (ValueError, LATE),
    "lr_19": (TypeError, f"a dict became the table of its keys: {NONSENSE}"),
    "lr_21": (None, FUNCTION),
    "lr_22": (None, FUNCTION),
    "lr_23": (ValueError, NONSENSE),
    "lr_24": (ValueError, NONSENSE),
    "lr_25": (ValueError, "negative, and refused when it is a Python number"),
    "lr_26": (ValueError, "NaN, and refused when it is a Python number"),
    "lr_27": (ValueError, LATE),
    "lr_28": (TypeError, f"None became NaN: {NONSENSE}"),
    "lr_29": (TypeError, f"bytes became the table of their codes: {NONSENSE}"),
    "beta1_11": (ValueError, LATE),
    "beta1_12": (None, NUMPY_SCALAR),
    "beta1_16": (ValueError, LATE),
    "beta2_11": (ValueError, NONSENSE),
    "beta2_12": (None, NUMPY_SCALAR),
    "beta2_16": (ValueError, "it is 1 in float32, and no parameter would ever move"),
    "eps_08": (ValueError, "it is 0 in float32, and coordinates without gradient become NaN"),
    "eps_09": (None, NUMPY_SCALAR),
    "wd_09": (None, NUMPY_SCALAR),
    "scale_10": (None, NUMPY_SCALAR),
    "grp_lr_generator": (None, "the table is read once and kept; the reference loses it"),
    "param_0d": (None, "a 0-D parameter is a parameter"),
    "param_float16": (TypeError, LATE),
    "param_float64": (TypeError, LATE),
    "param_int32": (TypeError, LATE),
    "param_name_beta1": (None, NAMES),
    "param_name_beta2": (None, NAMES),
    "param_name_eps": (None, NAMES),
    "param_name_beta1_power": (None, NAMES),
    "param_name_moment1": (None, NAMES),
    "param_name_learning_rate": (None, NAMES),
    "param_name_global_step": (None, NAMES),
}

# Gradients of one step of an optimizer of one parameter.
STEP: dict[str, tuple[type[Exception] | None, str]] = {
    "grad_bare_tensor": (TypeError, "a wrong container"),
    "grad_list": (None, "a list of gradients is as good as a tuple"),
    "grad_too_many": (ValueError, "a wrong count"),
    "grad_too_few": (ValueError, "a wrong count"),
    "grad_none": (None, "None is no gradient this time: the parameter is left alone"),
}

# Schedules: (class or function, argument, value); all are accepted here.
SCHEDULES: dict[tuple[str, str, str], str] = {
    (target, argument, "np.int64(3)"): NUMPY_SCALAR
    for target, arguments in {
        "ExponentialDecayLR": ["decay_steps"],
        "NaturalExpDecayLR": ["decay_steps"],
        "InverseDecayLR": ["decay_steps"],
        "CosineDecayLR": ["decay_steps"],
        "PolynomialDecayLR": ["decay_steps"],
        "WarmUpLR": ["warmup_steps"],
        "exponential_decay_lr": ["total_step", "step_per_epoch", "decay_epoch"],
        "natural_exp_decay_lr": ["total_step", "step_per_epoch", "decay_epoch"],
        "inverse_decay_lr": ["total_step", "step_per_epoch", "decay_epoch"],
        "cosine_decay_lr": ["total_step", "step_per_epoch", "decay_epoch"],
        "polynomial_decay_lr": ["total_step", "step_per_epoch", "decay_epoch"],
        "warmup_lr": ["total_step", "step_per_epoch", "warmup_epoch"],
    }.items()
    for argument in arguments
}

# Recordings of other libraries, in 16 and 8 bits.
SIXTEEN_BITS = {
    "torch": "its m is a fused multiply-add, so that one in 500 is rounded to the other side",
    "deepspeed": "betas are rounded to float32 before 1 - beta, and their powers are running "
    "products in float32; here both are computed in float64",
}
