"""Learning curves: one panel a task, one colour a method, thin lines for seeds, a thick one for their mean."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from tightrein.errors import require
from tightrein.lab.records import Axis, Group, Panel, Series

# Colours that people with any of the usual colour deficiencies tell apart (after Okabe and Ito), one list for
# light paper and one for dark; markers differ too.
LIGHT = ("#0072b2", "#c4470a", "#007a58", "#a3467f", "#8a6d00", "#3d3d9e", "#5c5c5c", "#9b1c31")
DARK = ("#56b4e9", "#ff8f4d", "#2cc79b", "#e39bc7", "#e6c84d", "#a3a3ff", "#b8b8b8", "#ff8095")
MARKERS = "os^DvPX*"
INK = "#1d1e20"
MOST_POINTS = 300  # in one line of a figure; more are averaged
LABEL_GAP = 0.075  # of the panel's height, between two direct labels


def draw(panels: Sequence[Panel], *, titled: bool, width: float = 6.4, height: float = 3.5) -> Any:
    """A matplotlib Figure with the panels side by side, each `width` x `height` inches, under its task's name."""
    figure = require("matplotlib.figure", "lab").Figure(figsize=(width * len(panels), height), layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _draw_panel(axes, panel)
        if titled:
            axes.set_title(panel.task, color=INK, fontsize=12, loc="left", fontweight="bold")
    return figure


def save(figure: Any, target: Any, kind: str) -> None:
    """Write the figure to a path or file as "svg", "png" or "pdf", the same bytes for the same figure."""
    matplotlib = require("matplotlib", "lab")
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tightrein"}):
        figure.savefig(target, format=kind, dpi=160, transparent=kind == "svg", metadata=dated.get(kind))


def inline_svg(panel: Panel, number: int) -> str:
    """The panel as an <svg> element for a page that has the style variables --ink and --c0, --c1, ...

    Colours become these variables, so that one picture serves light and dark pages and print.
    """
    buffer = io.StringIO()
    save(draw([panel], titled=False, width=7.6), buffer, "svg")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(<svg\b[^>]*?) width=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"(<svg\b[^>]*?) height=\"[^\"]*\"", r"\1", svg, count=1)
    for old, new in [(INK, "var(--ink)"), *((colour, f"var(--c{i})") for i, colour in enumerate(LIGHT))]:
        svg = svg.replace(old, new)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(r'\bid="', f'id="figure{number}-', svg)  # ids must differ between the figures of a page
    svg = re.sub(r'(url\(|href=")#', rf"\1#figure{number}-", svg)
    named = f'role="img" aria-labelledby="title{number} words{number}"'
    words = f'<title id="title{number}">{escape(panel.task)}</title>'
    words += f'<desc id="words{number}">{escape(describe(panel))}</desc>'
    return re.sub(r"<svg\b([^>]*)>", lambda match: f"<svg {named}{match.group(1)}>{words}", svg, count=1)


def describe(panel: Panel) -> str:
    """The figure in words."""
    parts = [_in_words(group) for group in panel.groups]
    return f"{panel.axis.y} against {panel.axis.x} on {panel.task}. " + "; ".join(parts) + "."


def mean_series(many: Sequence[Series]) -> Series:
    """The mean over seeds at every x that any of them has; a seed counts where it has been."""
    if not many:
        return np.empty(0), np.empty(0)
    xs = np.unique(np.concatenate([x for x, _ in many]))
    rows = np.stack([np.interp(xs, x, y, left=np.nan, right=np.nan) for x, y in many])
    return xs, np.nanmean(rows, axis=0)


def thinned(series: Series) -> Series:
    """At most MOST_POINTS points: means over equal stretches, the first and last point kept."""
    x, y = series
    if len(x) <= MOST_POINTS:
        return series
    parts = zip(np.array_split(x[1:-1], MOST_POINTS - 2), np.array_split(y[1:-1], MOST_POINTS - 2), strict=True)
    middle = np.array([(part_x.mean(), part_y.mean()) for part_x, part_y in parts])
    return np.r_[x[0], middle[:, 0], x[-1]], np.r_[y[0], middle[:, 1], y[-1]]


def compact(value: float) -> str:
    """A number on an axis: 250000 -> 250k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _draw_panel(axes: Any, panel: Panel) -> None:
    ends = []
    for group in panel.groups:
        colour, marker = LIGHT[group.hue % len(LIGHT)], MARKERS[group.hue % len(MARKERS)]
        end = _draw_group(axes, panel.axis, group, colour, marker)
        if end is not None:
            ends.append((*end, group.label, colour))
    if not ends:
        axes.text(0.5, 0.5, "nothing was measured", transform=axes.transAxes, ha="center", color=INK)
    _dress(axes, panel)
    _label_ends(axes, ends)


def _draw_group(axes: Any, axis: Axis, group: Group, colour: str, marker: str) -> tuple[float, float] | None:
    """Draw one method; returns where its thick line ends."""
    seeds = group.series(axis.curve)
    dots = mean_series(group.series(axis.points)) if axis.points else (np.empty(0), np.empty(0))
    for series in seeds:
        axes.plot(*thinned(series), color=colour, linewidth=0.8, alpha=0.35)
    mean = thinned(mean_series(seeds)) if seeds else dots
    if not len(mean[0]):
        return None
    few = len(mean[0]) <= 25
    axes.plot(*mean, color=colour, linewidth=2.2, marker=marker if few else "", markersize=4)
    if seeds and len(dots[0]):
        axes.plot(*dots, color=colour, linestyle="", marker=marker, markersize=5)
    return float(mean[0][-1]), float(mean[1][-1])


def _dress(axes: Any, panel: Panel) -> None:
    axes.set_xlabel(panel.axis.x, color=INK)
    axes.set_ylabel(panel.axis.y, color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    if panel.axis.percent:
        axes.set_ylim(-2, 102)
    axes.tick_params(colors=INK, which="both")
    axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)


def _label_ends(axes: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Each method's name at the end of its line, moved apart where two would meet."""
    low, high = axes.get_ylim()
    heights = sorted(((y - low) / (high - low), label, colour) for _, y, label, colour in ends)
    placed = _apart([height for height, _, _ in heights])
    for height, (_, label, colour) in zip(placed, heights, strict=True):
        axes.text(
            1.015, height, label, transform=axes.transAxes, color=colour, va="center", fontweight="bold", fontsize=9.5
        )  # fmt: skip


def _apart(heights: list[float]) -> list[float]:
    """Ascending heights, moved up so that neighbours keep the gap, then down again from the top."""
    placed = list(heights)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + LABEL_GAP)
    over = max(0.0, placed[-1] - 1.0) if placed else 0.0
    for i in reversed(range(len(placed))):
        ceiling = placed[i + 1] - LABEL_GAP if i + 1 < len(placed) else placed[i] - over
        placed[i] = min(placed[i], ceiling)
    return placed


def _in_words(group: Group) -> str:
    seeds = group.series(group.quoted)
    if not seeds:
        return f"{group.label}: nothing was measured"
    first, last = (np.array([y[end] for _, y in seeds]) for end in (0, -1))
    end = max(x[-1] for x, _ in seeds)
    over = f"mean over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    spread = f" (seeds from {last.min():.4g} to {last.max():.4g})" if len(seeds) > 1 else ""
    return f"{group.label}: {over}, from {first.mean():.4g} to {last.mean():.4g}{spread} at {end:,.0f}"
