"""The packaged digits: what is in them, where they came from, and how an epoch visits them."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from adamoffload.autodiff.data import batches, load_digits

# SHA-256 over scikit-learn 1.9.1's digits.csv.gz: each row (64 pixels, label) as 65 bytes, the rows
# sorted as bytes, so that it does not depend on their order.
SCIKIT_LEARN = "f67d6a29d0e1f70e7f0cd9dcf25816b694881f4b8f27f5cc1db59551f0499fb8"
# The same over our rows in the order of the split, train before test.
IN_ORDER = "a9edef8e9755518b0bca84b67c1d873e70d40010f03b47e8370360158654c6ad"


def rows(images: Any, labels: Any) -> list[bytes]:
    """Return images and labels as the bytes of the original table's rows."""
    table = np.column_stack([images * 16, labels])
    assert np.array_equal(table, table.astype(np.uint8))
    return [row.tobytes() for row in table.astype(np.uint8)]


def sha256(entries: list[bytes]) -> str:
    return hashlib.sha256(b"".join(entries)).hexdigest()


def test_shapes_and_types() -> None:
    digits = load_digits()
    assert [array.shape for array in digits] == [(1437, 64), (1437,), (360, 64), (360,)]
    assert [array.dtype for array in digits] == [np.float32, np.int64, np.float32, np.int64]
    assert all(array.flags.c_contiguous for array in digits)


def test_grey_values_fill_zero_to_one() -> None:
    digits = load_digits()
    for images in (digits.train_images, digits.test_images):
        assert (images.min(), images.max()) == (0, 1)


def test_each_digit_has_its_share_of_both_halves() -> None:
    digits = load_digits()
    assert np.bincount(digits.test_labels).tolist() == [36] * 10
    train = np.bincount(digits.train_labels, minlength=10)
    assert train.min() >= 138
    assert train.max() <= 147


def test_neither_half_is_sorted_by_digit() -> None:
    digits = load_digits()
    for labels in (digits.train_labels, digits.test_labels):
        assert len(set(labels[:50].tolist())) == 10


def test_both_halves_together_are_the_original_numbers() -> None:
    digits = load_digits()
    train = rows(digits.train_images, digits.train_labels)
    test = rows(digits.test_images, digits.test_labels)
    assert sha256(sorted(train + test)) == SCIKIT_LEARN
    assert len(set(train) | set(test)) == 1797  # no image comes twice: the halves are disjoint


def test_the_split_never_changes() -> None:
    digits = load_digits()
    train = rows(digits.train_images, digits.train_labels)
    assert sha256(train + rows(digits.test_images, digits.test_labels)) == IN_ORDER


def test_each_call_returns_arrays_of_its_own() -> None:
    arrays: list[Any] = [*load_digits(), *load_digits()]
    for i, array in enumerate(arrays):
        assert array.flags.owndata
        assert array.flags.writeable
        assert not any(np.shares_memory(array, other) for other in arrays[i + 1 :])


def test_the_file_is_small_and_comes_with_its_attribution() -> None:
    package = files("adamoffload.autodiff")
    assert len((package / "digits.npz").read_bytes()) < 50_000
    attribution = (package / "DIGITS.md").read_text("utf-8")
    assert "10.24432/C50P49" in attribution
    assert "CC BY 4.0" in attribution


@pytest.mark.parametrize(("count", "size"), [(1, 1), (10, 3), (10, 5), (10, 10), (3, 10)])
def test_an_epoch_visits_each_example_once(count: int, size: int) -> None:
    epoch = list(batches(count, size, np.random.default_rng(0)))
    assert [len(batch) for batch in epoch[:-1]] == [size] * ((count - 1) // size)
    assert sorted(np.concatenate(epoch).tolist()) == list(range(count))
    assert all(batch.dtype == np.int64 for batch in epoch)


def test_epochs_differ_and_are_repeatable() -> None:
    rng = np.random.default_rng(7)
    first, second = (np.concatenate(list(batches(100, 9, rng))).tolist() for _ in range(2))
    assert first != second
    assert first != sorted(first)
    again = np.concatenate(list(batches(100, 9, np.random.default_rng(7)))).tolist()
    assert first == again


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((0, 1, np.random.default_rng(0)), ValueError, "count"),
        ((5, 0, np.random.default_rng(0)), ValueError, "batch_size"),
        ((5, 1.0, np.random.default_rng(0)), TypeError, "batch_size"),
        ((5, 1, 0), TypeError, "default_rng"),
    ],
)
def test_bad_arguments_raise_before_the_first_batch(
    arguments: Any, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        batches(*arguments)
