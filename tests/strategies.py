"""Hypothesis strategies that several test modules share."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

shapes = st.lists(
    st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple), min_size=1, max_size=6
)
"""Shapes of the parameters of one optimizer; () is a 0-D parameter."""

settings = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.sampled_from([1e-3, 0.25, 1, [0.1, 0.2, 0.0, 0.3, 0.1]]),
        "beta1": st.sampled_from([0.9, 0.5]),
        "eps": st.sampled_from([1e-8, 1.0]),
        "use_nesterov": st.booleans(),
        "weight_decay": st.sampled_from([0.0, 0.01, 5, lambda step: 0.1 * step]),
        "loss_scale": st.sampled_from([1.0, 3.0, 1024]),
    },
)
"""Keyword arguments of an optimizer."""


@st.composite
def groupings(draw: Any, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Draw (place, hyper-parameters) for each of `count` parameters; equal places are one group."""
    options = draw(
        st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "lr": st.sampled_from([1e-2, 0.5]),
                    "weight_decay": st.sampled_from([0.0, 0.3]),
                    "grad_centralization": st.booleans(),
                },
            ),
            min_size=1,
            max_size=3,
        )
    )
    places = draw(st.lists(st.integers(0, len(options) - 1), min_size=count, max_size=count))
    return [(place, options[place]) for place in places]
