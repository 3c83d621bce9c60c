"""``adamoffload trajectory``: watch optimizers descend a surface."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from adamoffload.cli.results import prepare, save_figure, writing
from adamoffload.cli.text import UsageError, checked, natural, positive, real

__all__ = ["add"]

_ANIMATED = (".gif", ".html")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "trajectory",
        help="watch optimizers descend a surface",
        description="Let optimizers descend a loss surface of two parameters, from one start and "
        "under the same noise. Writes a picture or an animation.",
    )
    command._negative_number_matcher = re.compile(r"-[\d.]")  # --start -1.5,2 is no option
    command.add_argument(
        "--function",
        type=_surface,
        default="rosenbrock",
        metavar="NAME",
        help="the surface: quadratic, rotated, booth, rosenbrock, beale, himmelblau, "
        "styblinski-tang, rastrigin or saddle (default: %(default)s)",
    )
    command.add_argument(
        "--compare",
        type=_contestants,
        default="adam,nesterov,sgd",
        metavar="NAME,...",
        help="who descends: adam, nesterov, adam-corrected-eps, rmsprop, sgd, momentum; with "
        "settings of its own as in adam:lr=0.01:beta2=0.9 (default: %(default)s)",
    )
    command.add_argument(
        "--lr",
        type=_learning_rate,
        default="best",
        metavar="LR",
        help="learning rate, or 'best': for each the best of 13 (default: %(default)s)",
    )
    command.add_argument(
        "--steps",
        type=positive(1_000_000),
        default=200,
        metavar="N",
        help="how many (default: %(default)s)",
    )
    command.add_argument(
        "--start", type=_point, metavar="X,Y", help="where from (default: the surface's own)"
    )
    command.add_argument(
        "--noise",
        type=_deviation,
        default=0.0,
        metavar="S",
        help="standard deviation of noise on the gradients (default: %(default)g)",
    )
    command.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="seed of the noise (default: %(default)s)",
    )
    command.add_argument(
        "--backend",
        default="numpy",
        metavar="NAME",
        help="where parameters live; see 'adamoffload backends' (default: %(default)s)",
    )
    command.add_argument("--panels", action="store_true", help="give each path its own panel")
    command.add_argument(
        "--output",
        type=_picture,
        default=Path("adamoffload-trajectory.png"),
        metavar="FILE",
        help=".png, .svg or .pdf; .gif or .html for an animation (default: %(default)s)",
    )
    command.set_defaults(run=_trajectory)


def _trajectory(arguments: argparse.Namespace) -> int:
    import matplotlib as mpl

    from adamoffload import playground, plots
    from adamoffload.observe.live import Live
    from adamoffload.plots.surface import MOST

    mpl.use("agg")  # no window, wherever this runs
    output = arguments.output
    if len(arguments.compare) > MOST:
        raise UsageError(
            f"--compare: at most {MOST} paths can be told apart, got {len(arguments.compare)}"
        )
    prepare(output, output)
    try:
        trajectories = playground.run(
            arguments.function,
            arguments.compare,
            lr=arguments.lr,
            steps=arguments.steps,
            start=arguments.start,
            noise=arguments.noise,
            seed=arguments.seed,
            backend=arguments.backend,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise UsageError(error) from None
    print(f"{'optimizer':<36} loss above the minimum, after {arguments.steps} steps")
    for one in trajectories:
        print(f"{one.contestant.label:<36} {one.outcome}")
    with writing(output):
        if output.suffix in _ANIMATED:
            animation = plots.animate_trajectory(trajectories, panels=arguments.panels)
            with Live() as live:
                plots.save_animation(
                    animation, output, progress=lambda i, n: live.update(frame=f"{i + 1}/{n}")
                )
        else:
            save_figure(plots.playground(trajectories, panels=arguments.panels), output)
    print(f"Picture: {output}")
    return 0


def _surface(text: str) -> str:
    from adamoffload.playground.surfaces import find

    return str(checked(find, text).name)


def _contestants(text: str) -> list[str]:
    from adamoffload.playground.descent import Contestant

    names = text.split(",")
    for name in names:
        checked(Contestant.parse, name)
    return names


def _learning_rate(text: str) -> float | str:
    from adamoffload.playground.descent import BEST

    return BEST if text == BEST else real(text, f"a number, or {BEST!r}", at_least=0.0)


def _deviation(text: str) -> float:
    return real(text, "a number of at least 0", at_least=0.0)


def _point(text: str) -> tuple[float, float]:
    wanted = "two numbers, such as -1.5,2"
    if text.count(",") != 1:
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    x, y = (real(part, wanted) for part in text.split(","))
    return x, y


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".png", ".svg", ".pdf", *_ANIMATED):
        raise argparse.ArgumentTypeError(
            f"expected a file that ends in .png, .svg, .pdf, .gif or .html, got {text!r}"
        )
    return path
