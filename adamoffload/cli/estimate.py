"""``adamoffload estimate``: what training a model would cost, under every strategy."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from adamoffload.cli.text import UsageError, whole

if TYPE_CHECKING:
    from adamoffload.estimates.estimate import Estimate
    from adamoffload.estimates.search import Fractions

__all__ = ["add"]

_CHUNKS = 1000
"""Chunks that are walked for a row of the table: its three digits need no more."""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "estimate",
        help="say what training a model costs on a machine, in memory and in time",
        description="Say what a training step takes on a machine, in memory and in time: under "
        "every strategy, the best first, or under one in detail. Nothing is allocated.",
    )
    parser.add_argument(
        "--model",
        default="llama-2-7b",
        metavar="NAME|N",
        help="a model's name, or a number of parameters such as 7e9 (default: %(default)s)",
    )
    parser.add_argument(
        "--machine",
        default="rtx4090",
        metavar="NAME|FILE",
        help="a machine's name, or a machine file (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=whole,
        default=8192,
        metavar="N",
        help="tokens of a step (default: %(default)s)",
    )
    parser.add_argument("--strategy", metavar="NAME", help="this one alone, in detail")
    parser.add_argument(
        "--fraction",
        metavar="F|best",
        help="the part of the model that --strategy holds for, or which is best",
    )
    parser.add_argument("--rule", default="AdamW", metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--weights", default="bfloat16", metavar="TYPE", help="default: %(default)s"
    )
    parser.add_argument("--accumulate", type=whole, metavar="K", help="micro-steps to a step")
    parser.add_argument(
        "--cards", type=whole, default=1, metavar="N", help="cards that share the work (default: 1)"
    )
    parser.add_argument(
        "--zero-stage",
        type=whole,
        default=1,
        metavar="1|2|3",
        help="what cards have a part of: state; gradients; weights too (default: 1)",
    )
    parser.add_argument(
        "--sequence",
        type=whole,
        default=0,
        metavar="N",
        help="tokens that attend to each other (default: attention is not counted)",
    )
    parser.add_argument(
        "--keep-activations", action="store_true", help="rather than compute them again"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="take strategy, rule, weights and micro-steps from a DeepSpeed configuration",
    )
    parser.add_argument(
        "--emit", choices=["deepspeed"], help="print the configuration of --strategy, and no more"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--show-work", action="store_true", help="print the arithmetic and what it rests on"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        if arguments.config is not None:
            return _configured(arguments)
        if arguments.strategy is None:
            if arguments.fraction is not None or arguments.show_work or arguments.emit:
                raise UsageError(
                    "--fraction, --show-work and --emit are for one strategy; add --strategy"
                )
            return _table(arguments)
        return _detail(arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    from adamoffload import rules
    from adamoffload.arguments import choice
    from adamoffload.estimates.machines import load_machine

    name = arguments.rule
    choice("estimate", "rule", name, rules.__all__)
    machine: Any = arguments.machine
    if machine.endswith(".json") or os.sep in machine:
        try:
            machine = load_machine(machine)
        except OSError as error:
            raise UsageError(f"--machine {machine}: {error.strerror}") from None
    return {
        "rule": rules.SGD(1e-2) if name == "SGD" else getattr(rules, name)(),
        "weights": arguments.weights,
        "machine": machine,
        "tokens_per_step": arguments.tokens,
        "accumulate": arguments.accumulate,
        "cards": arguments.cards,
        "zero_stage": arguments.zero_stage,
        "sequence_length": arguments.sequence,
        "recompute": not arguments.keep_activations,
    }


def _model(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


# -- all strategies ----------------------------------------------------------------------------


def _table(arguments: argparse.Namespace) -> int:
    from adamoffload.estimates.estimate import answer, estimate
    from adamoffload.plan.strategy import strategies

    options, model = _options(arguments), _model(arguments.model)
    found, refused = [], {}
    for name in strategies:
        try:
            asked = estimate(model, strategy=name, **options).question
            found.append(answer(asked, _CHUNKS))
        except ValueError as error:
            if not str(error).startswith(f"{name}: "):
                raise
            refused[name] = str(error)
    found.sort(key=lambda each: (not each.fits, each.step_s))
    if arguments.json:
        print(json.dumps([_numbers(each) for each in found], indent=2))
        return 0
    print(_head(found[0]))
    print(
        f"\n{'strategy':<22}{'fits':<6}{'device':>8}{'host':>8}{'disk':>7}{'step':>9}"
        f"{'between':>17}{'overhead':>10}{'tokens/s':>10}  bottleneck"
    )
    for each in found:
        print(_row(each))
    for reason in refused.values():
        print(reason)
    print(f"\n{_why(found)}")
    return 0


def _head(found: Estimate) -> str:
    question = found.question
    steps = _many(question.accumulate, "micro-step")
    of, model = question.machine, question.model
    cards = f"{question.cards} of {of.cards} cards" if of.cards > 1 else "one card"
    return (
        f"{model.name}, {model.parameters:,} parameters in {question.weights}, "
        f"{type(question.rule).__name__}\n"
        f"on {of.name} ({of.title}), {cards} and the share of the host\n"
        f"{question.tokens_per_step:,} tokens a step, in {steps}\n"
        f"memory in GB, device {of.device_memory_bytes / 1e9:.1f}, host "
        f"{of.host_memory_bytes / of.cards / 1e9:.1f}; steps in seconds"
    )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def _row(found: Estimate) -> str:
    memory, steps = found.memory, found.steps
    between = f"{steps.low:.3g} - {steps.high:.3g}"
    held = "".join(
        f"{memory[place] / 1e9:>{width}.1f}"
        for place, width in (("device", 8), ("host", 8), ("disk", 7))
    )
    return (
        f"{found.question.strategy.label:<22}{'yes' if found.fits else 'no':<6}{held}"
        f"{found.step_s:>9.3g}{between:>17}{found.overhead:>10.0%}{found.tokens_per_s:>10,.0f}"
        f"  {found.bottleneck}"
    )


def _why(found: Sequence[Estimate]) -> str:
    best, *rest = found
    name = best.question.strategy.label
    if not best.fits:
        nearest = min(found, key=lambda each: each.fullest)
        return (
            f"Nothing fits. {nearest.question.strategy.label} comes closest; it lacks "
            f"{', '.join(nearest.lacks)}."
        )
    said = (
        f"{name} is the fastest that fits: {best.step_s:.3g} s a step, {best.overhead:.0%} over a "
        f"resident optimizer, bound by {best.bottleneck}."
    )
    if not best.declared.same:
        why = "comes a step late" if best.declared.delay else "rounds its state"
        same = next((each for each in rest if each.fits and each.declared.same), None)
        said += f" It {why}, so it computes something else than a resident optimizer."
        if same is not None:
            said += f" Of those that do not, {same.question.strategy.label} is the fastest: "
            said += f"{same.step_s:.3g} s, {same.overhead:.0%}."
    quicker = [each for each in rest if each.step_s < best.step_s]
    if quicker:
        other = min(quicker, key=lambda each: each.step_s)
        said += f" {other.question.strategy.label} would take {other.step_s:.3g} s, but does not "
        said += f"fit ({', '.join(other.lacks)})."
    return said


# -- one strategy ------------------------------------------------------------------------------


def _detail(arguments: argparse.Namespace) -> int:
    from adamoffload.estimates.configs import emit_deepspeed
    from adamoffload.estimates.estimate import answer, estimate
    from adamoffload.estimates.search import best_fraction, with_fraction
    from adamoffload.plan.strategy import find_strategy

    strategy = find_strategy("estimate", arguments.strategy)
    fractions = None
    if arguments.fraction not in (None, "best"):
        try:
            part = float(arguments.fraction)
        except ValueError:
            got = repr(arguments.fraction)
            raise UsageError(f"--fraction must be a number or best, got {got}") from None
        strategy = replace(strategy, fraction=part)
    found = estimate(_model(arguments.model), strategy=strategy, **_options(arguments))
    if arguments.fraction == "best":
        fractions = best_fraction(found.question)
        found = answer(with_fraction(found.question, fractions.fastest.question.strategy.fraction))
    if arguments.emit:
        print(json.dumps(emit_deepspeed(found.question), indent=2))
        return 0
    if arguments.json:
        print(json.dumps(_numbers(found), indent=2))
        return 0
    _print_detail(found)
    if fractions is not None:
        _print_fractions(fractions)
    if arguments.show_work:
        _print_work(found)
    return 0


def _configured(arguments: argparse.Namespace) -> int:
    """Tell in detail what a DeepSpeed configuration asks for."""
    from adamoffload import rules
    from adamoffload.estimates.configs import read_deepspeed
    from adamoffload.estimates.estimate import estimate
    from adamoffload.estimates.question import read_model

    try:
        with open(arguments.config, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise UsageError(f"--config {arguments.config}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--config {arguments.config} is no JSON: {error}") from None
    model = read_model(_model(arguments.model))
    config = read_deepspeed(document, model.parameters)
    options = _options(arguments)
    if config.rule != "SGD":
        options["rule"] = getattr(rules, config.rule)()
    options |= {"weights": config.weights, "accumulate": config.accumulate}
    options |= {"zero_stage": config.zero_stage, "software": config.software}
    if config.micro_batch and arguments.sequence:
        each = config.micro_batch * arguments.sequence
        options["tokens_per_step"] = each * config.accumulate * arguments.cards
    found = estimate(model, strategy=config.strategy, **options)
    if arguments.json:
        notes = {"notes": config.notes, "ignored": config.ignored}
        print(json.dumps({**_numbers(found), **notes}, indent=2))
        return 0
    _print_detail(found)
    for note in config.notes:
        print(f"note    {note}")
    if config.ignored:
        print(f"ignored {', '.join(config.ignored)}")
    if arguments.show_work:
        _print_work(found)
    return 0


def _print_detail(found: Estimate) -> None:
    steps, over = found.steps, found.overheads
    print(f"{_head(found)}\n\n{found}\n")
    print(found.timeline)
    for place, nbytes in found.memory.items():
        held = [h for h in found.holdings if h.place == place or (place, h.place) == _PINNED]
        kinds = ", ".join(f"{h.kind} {h.nbytes / 1e9:.3g}" for h in held)
        if held:
            print(f"{place:<8}{nbytes / 1e9:>7.1f} GB  {kinds}")
    print(
        f"step    {found.step_s:.3g} s, between {steps.low:.3g} and {steps.high:.3g}; overhead "
        f"{over.typical:.0%}, between {over.low:.0%} and {over.high:.0%}"
    )
    print(
        f"optimizer {found.optimizer_s:.3g} s, of which {found.hidden_s:.3g} s are hidden; "
        f"{found.tokens_per_s:,.0f} tokens a second"
    )


_PINNED = ("host", "pinned")


def _print_fractions(found: Fractions) -> None:
    smallest = "none fits" if found.smallest is None else f"{found.smallest:.2f}"
    print(
        f"\nfraction: the smallest that fits is {smallest} ({found.closed_form:.2f} by the "
        f"formula); the fastest {found.fastest.question.strategy.fraction:.2f}"
    )
    for each in found.tried[::2]:
        fraction, fits = each.question.strategy.fraction, "fits" if each.fits else "does not fit"
        device = each.memory["device"] / 1e9
        print(f"  {fraction:4.2f}  {each.step_s:6.3g} s  device {device:6.1f} GB  {fits}")


def _print_work(found: Estimate) -> None:
    from adamoffload.estimates.work import assumptions, lines

    print("\nthe arithmetic, each line by itself; what overlaps is in the timeline")
    print("\n".join(f"  {line}" for line in lines(found)))
    print("\nwhat it rests on")
    print("\n".join(f"  {line}" for line in assumptions(found)))


def _numbers(found: Estimate) -> dict[str, Any]:
    question = found.question
    return {
        "strategy": question.strategy.label,
        "fraction": question.strategy.fraction,
        "model": question.model.name,
        "parameters": question.model.parameters,
        "machine": question.machine.name,
        "tokens_per_step": question.tokens_per_step,
        "accumulate": question.accumulate,
        "fits": found.fits,
        "lacks": found.lacks,
        "memory": found.memory,
        "holdings": [holding._asdict() for holding in found.holdings],
        "step_s": asdict(found.steps),
        "overhead": asdict(found.overheads),
        "compute_s": found.compute_s,
        "optimizer_s": found.optimizer_s,
        "hidden_s": found.hidden_s,
        "tokens_per_s": found.tokens_per_s,
        "bottleneck": found.bottleneck,
        "extrapolated": found.extrapolated,
    }
