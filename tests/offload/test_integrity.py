"""What becomes of a step that raised: nothing, done, or a refusal that names what was touched."""

from __future__ import annotations

import threading

import pytest

from adamoffload.offload.integrity import Integrity, LostUpdate, StepUnderway

NAMES = ("a", "b", "c")


def quiet() -> list[LostUpdate]:
    return []


def test_a_step_that_touched_nothing_leaves_no_trace() -> None:
    integrity, step = Integrity("opt", NAMES), StepUnderway(1)
    integrity.begin(step)
    integrity.conclude(step, ValueError("no"), None, quiet)
    integrity.begin(StepUnderway(1))


def test_a_step_that_touched_something_is_refused_by_name_from_then_on() -> None:
    integrity, step = Integrity("opt", NAMES), StepUnderway(3)
    integrity.begin(step)
    step.touched += [2, 0, 2]
    integrity.conclude(step, OSError("gone"), None, quiet)
    message = r"^opt: step 3 failed half-way \(OSError: gone\), when 'a', 'c' had been touched"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            integrity.check()


def test_a_step_whose_counters_are_in_place_was_done() -> None:
    integrity, step = Integrity("opt", NAMES), StepUnderway(1)
    integrity.begin(step)
    step.touched += [0]
    step.after = object()
    integrity.conclude(step, KeyboardInterrupt(), step.after, lambda: pytest.fail("it is over"))
    integrity.check()


def test_an_update_lost_by_the_step_before_is_told_apart() -> None:
    integrity, step = Integrity("opt", NAMES), StepUnderway(5)
    integrity.begin(step)
    lost = [LostUpdate(4, (1,), OSError("late"))]
    integrity.conclude(step, OSError("late"), None, lambda: lost)
    with pytest.raises(RuntimeError, match=r"the update of 'b' in step 4 was lost \(OSError: late"):
        integrity.check()


def test_a_device_that_cannot_come_to_rest_is_not_relied_upon() -> None:
    integrity, step = Integrity("opt", NAMES), StepUnderway(1)

    def broken() -> list[LostUpdate]:
        raise OSError("unplugged")

    integrity.begin(step)
    integrity.conclude(step, ValueError("no"), None, broken)
    with pytest.raises(RuntimeError, match="then the device: OSError: unplugged"):
        integrity.check()


def test_an_interrupt_of_waiting_is_no_loss() -> None:
    integrity = Integrity("opt", NAMES)

    def interrupted() -> list[LostUpdate]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        integrity.settled(interrupted)
    integrity.settled(quiet)


def test_a_step_may_not_begin_inside_of_another_of_its_thread() -> None:
    integrity = Integrity("opt", NAMES)
    integrity.begin(StepUnderway(1))
    with pytest.raises(RuntimeError, match="must not call the optimizer back"):
        integrity.begin(StepUnderway(1))
    others: list[BaseException] = []

    def elsewhere() -> None:
        try:
            integrity.begin(StepUnderway(1))
        except RuntimeError as error:
            others.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not others


def test_a_load_repairs_and_one_that_fails_half_way_does_not() -> None:
    integrity, step = Integrity("opt", NAMES), StepUnderway(1)
    integrity.begin(step)
    step.touched += [1]
    integrity.conclude(step, OSError("gone"), None, quiet)
    with pytest.raises(ValueError, match="bad"), integrity.replacing("a load"):
        raise ValueError("bad")
    with pytest.raises(RuntimeError, match="step 1 failed half-way"):
        integrity.check()  # as it was

    def half_a_load() -> None:
        with integrity.replacing("a load") as touched:
            touched.append(("m", "a"))
            raise OSError("cable")

    with pytest.raises(OSError, match="cable"):
        half_a_load()
    with pytest.raises(RuntimeError, match=r"a load failed half-way .*when m of 'a' had been"):
        integrity.check()
    with integrity.replacing("a load") as touched:
        touched.append(("m", "a"))
    integrity.check()
