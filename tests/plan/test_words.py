"""A strategy in words: every rule under every strategy, and what it is called in a message."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

import adamoffload as ao
from adamoffload.plan.words import html_table, said_to_move

RULES = {name: getattr(ao.rules, name)(learning_rate=0.1) for name in ao.rules.__all__}
RULES["SGD with momentum"] = ao.rules.SGD(0.1, momentum=0.9)


@pytest.mark.parametrize("name", ao.strategies)
@pytest.mark.parametrize("rule", RULES)
def test_the_text_has_every_thing_every_stage_and_every_byte(rule: str, name: str) -> None:
    declared, lines = ao.strategies[name], ao.strategies[name].text(RULES[rule]).splitlines()
    weights = declared.usual_weights
    assert lines[0] == f"{name}: {type(RULES[rule]).__name__} runs on the {declared.arithmetic}"
    for place, nbytes in declared.memory_per_parameter(RULES[rule], weights).items():
        found = [line.split()[1] for line in lines if line.startswith(f"  {place} ")]
        assert found == [f"{nbytes}"] * (nbytes > 0)
    for slot in RULES[rule].slots:
        size = 4 if weights == "float32" else 2
        assert sum(f" {slot} {size}" in line for line in lines) == 1
    moved = declared.bytes_per_parameter(RULES[rule], weights)
    for lane, nbytes in moved.items():
        copies = [line.split() for line in lines if f"  {lane} " in line]
        assert sum(int(words[2]) for words in copies) == nbytes
        assert all(words[-1] == "float32" for words in copies)
    assert lines[-1] == f"per parameter and step: {said_to_move(moved)}"
    numbers = [line.split()[0] for line in lines if line[:2] == "  " and line[2:3].isdigit()]
    assert numbers == [str(i + 1) for i in range(len(declared.stages(RULES[rule], weights)))]


def test_what_a_rule_without_state_does_is_said() -> None:
    text = ao.strategies["state-shuttle"].text(ao.rules.SGD(0.1))
    assert "prepares the gradient, runs SGD, adds the update to the weights" in text
    assert text.endswith("nothing moves")


def test_print_shows_the_text_and_a_message_the_name() -> None:
    strategy = ao.strategies["adam-offload"]
    assert str(strategy) == strategy.text(ao.rules.Adam())
    assert repr(strategy) == "Strategy(name='adam-offload', state='host', arithmetic='host')"
    assert eval(repr(strategy), {"Strategy": ao.Strategy}) == strategy
    with pytest.raises(ValueError, match=r"^adam-offload: weights must be one of .*, got int8$"):
        strategy.bytes_per_parameter(ao.rules.Adam(), weights="int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Strategy\(master='device'\): a float32 master"):
        ao.Strategy(master="device").homes(ao.rules.Adam())


def test_one_that_cannot_have_float32_weights_is_printed_with_others() -> None:
    text = str(ao.Strategy(name="mine", master="device"))
    assert "per parameter (bfloat16)" in text
    assert "device   16 B   weights 2, gradient 2, m 4, v 4, master 4" in text
    assert "<td>16 B</td>" in ao.Strategy(name="mine", master="device")._repr_html_()


def test_what_it_holds_for_is_said() -> None:
    part = replace(ao.strategies["megatron-hybrid"], fraction=0.3, every=2, minimum_size=4096)
    assert part.text().splitlines()[1:5] == [
        "  for 30% of the model, from the input side",
        "  for one tensor in 2",
        "  for tensors of 4,096 elements and more",
        "  what is left is resident on the device",
    ]


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_a_notebook_shows_a_table_of_the_same() -> None:
    cells = _Cells()
    cells.feed(ao.strategies["zero-offload"]._repr_html_())
    assert cells.found[:7] == [
        *("zero-offload", "where", "per parameter", "what"),
        *("device", "8 B", "weights, gradient"),
    ]
    assert [text for text in cells.found if text.endswith("down")] == ["the gradient goes down"]
    assert html_table("<b>", ("a&b",), ()).startswith(
        "<table><caption>&lt;b&gt;</caption><tr><th>a&amp;b</th></tr>"
    )


def test_one_thing_goes_and_two_go() -> None:
    text = ao.strategies["adam-offload"].text(ao.rules.Adam())
    assert "the gradient goes down" in text
    assert "the update goes up" in text
    assert "adds it to the weights" in text
    assert "new weights go up" in ao.strategies["zero-offload"].text(ao.rules.Adam())
    assert "they replace the weights" in ao.strategies["zero-offload"].text(ao.rules.Adam())
    shuttled = ao.strategies["state-shuttle"]
    assert "m and v come up" in shuttled.text(ao.rules.Adam())
    assert "m comes up" in shuttled.text(ao.rules.Lion())


def test_the_first_number_says_what_it_counts() -> None:
    moved = {"d2h": 4, "h2d": 2, "read": 12, "write": 1}
    assert said_to_move(moved) == "4 bytes down, 2 up, 12 read, 1 written"


def test_the_table_of_a_notebook_has_bytes_where_something_moves() -> None:
    html = ao.strategies["adam-offload"]._repr_html_()
    assert "<td>d2h</td><td>4 B</td>" in html
    assert "<td>host</td><td></td>" in html
