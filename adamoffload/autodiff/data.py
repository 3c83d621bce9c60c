"""A small real data set, and the order in which an epoch visits it.

The digits come with the package (``DIGITS.md`` says whose they are), so that a tutorial trains
on real images without a download. Everything here is host NumPy; nothing knows devices or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from adamoffload.arguments import describe, positive_integer

__all__ = ["Digits", "batches", "load_digits"]

Images: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Integers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_TEST_SIZE = 360  # the file ends with the test images


class Digits(NamedTuple):
    """Handwritten digits, split into images to learn from and images to test on.

    Attributes
    ----------
    train_images : ndarray, shape (1437, 64), float32
        Grey values in [0, 1], multiples of 1/16; 8 rows of 8 pixels, one after the other.
    train_labels : ndarray, shape (1437,), int64
        The digits shown, 0 to 9.
    test_images : ndarray, shape (360, 64), float32
        36 of each digit; otherwise as `train_images`.
    test_labels : ndarray, shape (360,), int64
        As `train_labels`.
    """

    train_images: Images
    train_labels: Integers
    test_images: Images
    test_labels: Integers


def load_digits() -> Digits:
    """Load 1,797 images of handwritten digits, split and shuffled once and for all.

    The split is a part of the stored data: the same in every process and with every NumPy. Images
    of one writer stand on both sides of it, so it says nothing about handwriting never seen.

    Returns
    -------
    Digits
        New arrays in each call, which alias nothing.

    References
    ----------
    E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning
    Repository, 1998, doi:10.24432/C50P49.

    Examples
    --------
    >>> digits = load_digits()
    >>> digits.train_images.shape, digits.test_images.shape
    ((1437, 64), (360, 64))
    >>> digits.train_labels[:5]
    array([2, 4, 2, 8, 4])
    """
    from importlib.resources import files  # here, since it costs 9 ms to import

    with (files("adamoffload.autodiff") / "digits.npz").open("rb") as file, np.load(file) as stored:
        images = stored["images"].astype(np.float32) / np.float32(16)
        labels = stored["labels"].astype(np.int64)
    train, test = slice(None, -_TEST_SIZE), slice(-_TEST_SIZE, None)
    return Digits(
        train_images=images[train].copy(),  # copied, since a view would keep both halves alive
        train_labels=labels[train].copy(),
        test_images=images[test].copy(),
        test_labels=labels[test].copy(),
    )


def batches(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Return the batches of one epoch: indices of examples, in random order.

    Parameters
    ----------
    count : int, >= 1
        How many examples there are.
    batch_size : int, >= 1
        Examples in a batch. The last batch has what is left: each example comes exactly once.
    rng : numpy.random.Generator
        Draws the order, once, in this call.

    Returns
    -------
    iterator of ndarray, shape (<= `batch_size`,), int64
        Views of one permutation.

    Raises
    ------
    TypeError
        If `count` or `batch_size` is no integer, or `rng` no Generator.
    ValueError
        If `count` or `batch_size` is below 1.

    Examples
    --------
    >>> [len(batch) for batch in batches(10, 4, np.random.default_rng(0))]
    [4, 4, 2]
    """
    count = positive_integer("batches", "count", count)
    batch_size = positive_integer("batches", "batch_size", batch_size)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"batches: rng must be a numpy.random.Generator, got {describe(rng)}; "
            f"make one with numpy.random.default_rng(seed)"
        )
    order = rng.permutation(count)
    return (order[start : start + batch_size] for start in range(0, count, batch_size))
