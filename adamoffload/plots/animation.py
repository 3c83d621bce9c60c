"""Animations for lectures: paths that grow step by step, as a GIF or as a page with a player."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from PIL import Image  # matplotlib depends on it

from adamoffload.arguments import positive_integer
from adamoffload.files import replacing
from adamoffload.plots.scene import scene
from adamoffload.plots.style import STYLE
from adamoffload.plots.surface import ellipse, reshape

if TYPE_CHECKING:
    from matplotlib.artist import Artist

    from adamoffload.playground.trajectory import Trajectory

__all__ = ["PageWriter", "animate_trajectory", "save_animation"]


def animate_trajectory(
    trajectories: Sequence[Trajectory], *, frames: int = 80, panels: bool = False
) -> FuncAnimation:
    """Let the figure of `adamoffload.plots.playground` grow, step by step.

    With each optimizer that has a second moment moves an ellipse: the shape of its rates in the
    step that comes next.

    Parameters
    ----------
    trajectories : sequence of Trajectory
        Of one surface.
    frames : int
        How many pictures at most, evenly spread over the steps.
    panels : bool
        Give each path a panel of its own.

    Returns
    -------
    FuncAnimation
        For `save_animation`, or for a notebook or window to show.

    Raises
    ------
    TypeError, ValueError
        If there are no trajectories, they are of several surfaces, or `frames` is not positive.
    """
    frames = positive_integer("animate_trajectory", "frames", frames)
    figure, title, drawn = scene(trajectories, None, panels)
    rings = []
    for one, _, path, _, _ in drawn:
        ax: Any = path.axes
        width = ax.get_xlim()[1] - ax.get_xlim()[0]
        ring = ax.add_patch(ellipse(one, 1, width, str(path.get_color())))
        ring.set_visible("eps" in one.contestant.options)
        rings.append((ring, width))
    name = title.get_text()
    losses = [np.array(shown.curve.get_ydata()) for shown in drawn]

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # arranged once: nothing jumps, and frames are cheap

    def show(step: int) -> list[Artist]:
        title.set_text(f"{name}: step {step}")
        for shown, (ring, width), loss in zip(drawn, rings, losses, strict=True):
            at = min(step, len(shown.points) - 1)
            shown.path.set_data(*shown.points[: at + 1].T)
            shown.end.set_data(*shown.points[at : at + 1].T)
            shown.end.set_visible(at == step)
            shown.curve.set_data(np.arange(len(loss))[: step + 1], loss[: step + 1])
            reshape(ring, shown.one, min(at + 1, shown.one.steps), width)
        return [title, *(shown.path for shown in drawn)]

    longest = max(one.steps for one in trajectories)
    steps = np.unique(np.linspace(0, longest, min(frames, longest + 1)).round().astype(int))
    return FuncAnimation(figure, show, [int(step) for step in steps], interval=80, repeat=False)


_COLORS = 96
"""Of a frame: enough for lines and a few greys."""


def save_animation(
    animation: FuncAnimation,
    path: str | Path,
    *,
    frames_per_s: int = 12,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write an animation, any of matplotlib's, to a file that shows it everywhere.

    Parameters
    ----------
    animation : FuncAnimation
        From `animate_trajectory`, or your own.
    path : str or Path
        Ends in ``.gif``, or in ``.html`` for a page with a player: it can be stopped, stepped
        with the arrow keys and dragged, and needs nothing but itself.
    frames_per_s : int
        How fast it plays.
    progress : callable, optional
        Called before each frame with its index and the number of frames.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    OSError
        If it cannot be written; a file that was there stays as it was.
    """
    frames_per_s = positive_integer("save_animation", "frames_per_s", frames_per_s)
    writers = {".gif": _GifWriter, ".html": PageWriter}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"save_animation: path must end in .gif or .html, got {str(path)!r}")
    with mpl.rc_context(STYLE):
        animation.save(
            str(path), writers[suffix](fps=frames_per_s), dpi=72, progress_callback=progress
        )


class _WholeWriter(PillowWriter):
    """Writes all frames or no file: matplotlib's writes what it has, also after an error."""

    _frames: list[Image.Image]  # collected by the parent

    @contextmanager
    def saving(self, fig: Any, outfile: Any, dpi: Any, *_: Any, **__: Any) -> Iterator[Any]:
        """Return a context that writes all frames when it ends well, and no file otherwise."""
        with mpl.rc_context({"savefig.bbox": None}):  # every frame has the same size
            self.setup(fig, outfile, dpi)
            yield self
        self.finish()


class _GifWriter(_WholeWriter):
    """Writes smaller files: the frames share a palette, and no dither makes them differ."""

    def finish(self) -> None:
        frames = [frame.convert("RGB") for frame in self._frames]  # Matplotlib 3.8 has RGBA
        palette = frames[-1].quantize(_COLORS, dither=Image.Dither.NONE)
        first, *others = [
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
        ]
        with replacing(self.outfile) as file:
            first.save(
                file,
                format="gif",
                save_all=True,
                append_images=others,
                duration=int(1000 / self.fps),
                loop=0,
            )


class PageWriter(_WholeWriter):
    """Writes an animation as one HTML file, for ``animation.save(path, PageWriter(fps=12))``.

    Matplotlib's own page asks another site for its buttons; this one asks for nothing. A frame is
    kept as what differs from the first one, above which it is shown.
    """

    def finish(self) -> None:
        """Write the page."""
        first = np.asarray(self._frames[0].convert("RGBA"))
        encoded = [_png(self._frames[0].convert("RGB"))]  # opaque
        for frame in self._frames[1:]:
            picture = np.array(frame.convert("RGBA"))
            picture[np.all(picture == first, axis=2)] = 0
            encoded.append(_png(Image.fromarray(picture)))
        page = _PAGE.substitute(
            title=html.escape(self.fig.get_suptitle().partition(":")[0] or "Animation"),
            last=len(encoded) - 1,
            frames=json.dumps(encoded),
            interval_ms=round(1000 / self.fps),
        )
        with replacing(self.outfile) as file:
            file.write(page.encode())


def _png(picture: Image.Image) -> str:
    """Return a picture of few colours as PNG, in base64."""
    buffer = io.BytesIO()
    few = picture.quantize(  # an octree keeps the colours of thin lines
        _COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )
    few.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { margin: 1rem auto; max-width: 75rem; padding: 0 1rem; font: 1.1rem sans-serif; }
div { position: relative; }
img { width: 100%; display: block; }
#picture { position: absolute; inset: 0; }
form { display: flex; gap: 1rem; align-items: center; }
button { font: inherit; min-width: 5.5rem; padding: .4rem 1rem; }
input { flex: 1; }
output { min-width: 5rem; text-align: right; }
</style>
</head>
<body>
<div>
<img id="first" alt="$title, animated">
<img id="picture" alt="">
</div>
<form aria-label="Player" onsubmit="return false">
<button id="play" type="button">Play</button>
<label for="frame">Frame</label>
<input id="frame" type="range" min="0" max="$last" value="0">
<output id="number" for="frame"></output>
</form>
<p>Space plays and stops, the arrow keys step, Home and End go to the first and last frame.</p>
<script>
"use strict";
const frames = $frames;
const [picture, play, slider, number] =
  ["picture", "play", "frame", "number"].map(id => document.getElementById(id));
let timer = 0;
function show(frame) {
  slider.value = frame;
  picture.src = "data:image/png;base64," + frames[slider.value];
  number.value = (+slider.value + 1) + " of " + frames.length;
}
function stop() {
  clearInterval(timer);
  timer = 0;
  play.textContent = "Play";
}
function start() {
  if (+slider.value === frames.length - 1) show(0);
  play.textContent = "Stop";
  timer = setInterval(() => {
    show(+slider.value + 1);
    if (+slider.value === frames.length - 1) stop();
  }, $interval_ms);
}
const toggle = () => timer ? stop() : start();
play.addEventListener("click", toggle);
slider.addEventListener("input", () => { stop(); show(slider.value); });
document.addEventListener("keydown", event => {
  const steps = { ArrowRight: +slider.value + 1, ArrowLeft: +slider.value - 1,
                  Home: 0, End: frames.length - 1 };
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === " " && event.target !== play) toggle();
  else if (event.key in steps) { stop(); show(Math.max(0, steps[event.key])); }
  else return;
  event.preventDefault();
});
document.getElementById("first").src = "data:image/png;base64," + frames[0];
show(0);
</script>
</body>
</html>
""")
