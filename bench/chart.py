"""The chart: a bar for each ratio, from the line at 1 to the right where pystn is faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.run import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

SHADES = ("#9dc3e6", "#2e75b6", "#1f4e79", "#10273d")  # by thread count, fewest first
SLOWER = ("#f4b6a6", "#d1543a", "#8e2f1b", "#4d1509")
INK, FAINT = "#222222", "#dddddd"
LINES = 76  # of a column, before another is begun
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)

Line = tuple[str, list[Row]]  # a section's title with no rows, or a case's label with its rows


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """What the chart has from top to bottom: titles, each with the cases under it."""
    sections: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.ratio is not None:
            title = f"{row.case.section}, against {row.peer}"
            sections.setdefault(title, {}).setdefault(row.case.label, []).append(row)
    return [line for title, cases in sections.items() for line in ((title, []), *cases.items())]


def columns_of(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines in columns of equal length; a section that breaks keeps its title."""
    count = max(1, -(-len(lines) // LINES))
    length = -(-len(lines) // count)
    columns: list[list[Line]] = [[]]
    title: Line = ("", [])
    for line in lines:
        if not line[1]:
            title = line
        if len(columns[-1]) >= length and len(columns) < count:
            columns.append([] if line is title else [title])
        columns[-1].append(line)
    return columns


Limits = tuple[float, float]  # of the axis of ratios


def draw_column(axes: Axes, lines: Sequence[Line], counts: Sequence[int], limits: Limits) -> None:
    height = 0.8 / len(counts)
    for y, (label, rows) in enumerate(lines):
        if not rows:
            across = axes.get_yaxis_transform()
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(0, y + 0.15, label, transform=across, va="center", weight="bold", zorder=4, bbox=paper)
        for row in rows:
            ratio, order = row.ratio or 1.0, counts.index(row.threads)
            shades = SHADES if ratio >= 1 else SLOWER
            at = y + (order - (len(counts) - 1) / 2) * height
            axes.barh(at, ratio - 1, height, left=1, color=shades[order % len(shades)], zorder=2)
            side, shift = ("left", 3) if ratio >= 1 else ("right", -3)
            axes.annotate(
                f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}",
                (ratio, at),
                (shift, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=6,
                color=INK,
            )
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    labelled = [y for y, (_, rows) in enumerate(lines) if rows]
    axes.set_yticks(labelled, [lines[y][0] for y in labelled])
    axes.tick_params(length=0, colors=INK, labeltop=True)
    axes.grid(axis="x", color=FAINT, linewidth=0.6, zorder=0)
    axes.axvline(1, color=INK, linewidth=1.2, zorder=3)
    axes.spines[:].set_visible(False)


def draw(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write the chart as PNG (or whatever the suffix of `path` says)."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    counts = sorted({row.threads for row in rows})
    ratios = [row.ratio for row in rows if row.ratio is not None]
    limits = (min([0.8, *(r / 1.8 for r in ratios)]), max([2.0, *(r * 1.7 for r in ratios)]))
    columns = columns_of(lines_of(rows))
    tall = max(len(column) for column in columns)
    inches = (8 * len(columns), 1.2 + (0.1 + 0.085 * len(counts)) * tall)
    with mpl.rc_context({"font.size": 8, "font.family": "sans-serif", "text.color": INK}):
        figure = Figure(figsize=inches, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, lines in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            padding: list[Line] = [("", [])] * (tall - len(lines))  # the same scale in every column
            draw_column(axes, [*lines, *padding], counts, limits)
        machine, versions = about["machine"], about["versions"]
        libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
        title = "Time of the peer / time of pystn: right of the line, pystn is faster"
        figure.suptitle(title, weight="bold", fontsize=10, x=0.01, ha="left")
        figure.supxlabel(
            f"{machine['processor']}, {machine['instruction_set']}; {libraries}; {about['date'][:10]}\n"
            f"{about['command']}",
            fontsize=6.5,
        )
        shades = zip(cycle(SHADES), counts, strict=False)
        patches = [Patch(color=shade, label=f"{n} thread{'s' * (n > 1)}") for shade, n in shades]
        figure.legend(handles=patches, loc="outside upper right", ncols=len(counts), frameon=False)
        figure.savefig(path, facecolor="white")
