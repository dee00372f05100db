"""The charts: ratios, to the right of the line at 1 where pystn is faster, and how times scale.

Ratios are bars, one for each case. Where these would be too many a line has all cases of one
operation instead, a dot for each and a stroke at their median.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.cases import OPERATIONS
from bench.run import Row
from bench.scaling import SWEEPS, Sweep, nanoseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "draw_scaling"]

SHADES = ("#9dc3e6", "#2e75b6", "#1f4e79", "#10273d")  # by thread count, fewest first
SLOWER = ("#f4b6a6", "#d1543a", "#8e2f1b", "#4d1509")
INK, FAINT = "#222222", "#dddddd"
LINES = 46  # of a column, before another is begun
BARS = 2 * LINES  # more lines than these are drawn as dots
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)

Line = tuple[str, list[Row]]  # a section's title with no rows, or a label with its rows


def lines_of(rows: Sequence[Row], label: Callable[[Row], str]) -> list[Line]:
    """What the chart has from top to bottom: titles, each with its rows under it, by label."""
    sections: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.ratio is not None:
            title = f"{row.case.section}, against {row.peer}"
            sections.setdefault(title, {}).setdefault(label(row), []).append(row)
    return [line for title, cases in sections.items() for line in ((title, []), *cases.items())]


def columns_of(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines in columns of about equal length; a section that breaks keeps its title."""
    count = max(1, -(-len(lines) // LINES))
    length = -(-len(lines) // count)
    columns: list[list[Line]] = [[]]
    title: Line = ("", [])
    for line in lines:
        if not line[1]:
            title = line
        if len(columns[-1]) >= length and len(columns) < count:
            if columns[-1][-1] is title:
                columns[-1].pop()
            columns.append([] if line is title else [title])
        columns[-1].append(line)
    return columns


Limits = tuple[float, float]  # of the axis of ratios


def shade_of(ratio: float, order: int) -> str:
    shades = SHADES if ratio >= 1 else SLOWER
    return shades[order % len(shades)]


def draw_bars(axes: Axes, y: float, height: float, ratios: Sequence[float], order: int) -> None:
    for ratio in ratios:
        axes.barh(y, ratio - 1, height, left=1, color=shade_of(ratio, order), zorder=2)
        side, shift = ("left", 3) if ratio >= 1 else ("right", -3)
        axes.annotate(
            f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}",
            (ratio, y),
            (shift, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=6,
            color=INK,
        )


def draw_dots(axes: Axes, y: float, height: float, ratios: Sequence[float], order: int) -> None:
    axes.scatter(ratios, [y] * len(ratios), 7, [shade_of(ratio, order) for ratio in ratios], zorder=2)
    middle = median(ratios)
    axes.plot([middle, middle], [y - height / 2, y + height / 2], color=shade_of(middle, order), linewidth=1.6)


def draw_column(
    axes: Axes, lines: Sequence[Line], counts: Sequence[int], limits: Limits, mark: Callable[..., None]
) -> None:
    height = 0.8 / len(counts)
    for y, (label, rows) in enumerate(lines):
        if not rows:
            across = axes.get_yaxis_transform()
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(0, y + 0.15, label, transform=across, va="center", weight="bold", zorder=4, bbox=paper)
        for order, threads in enumerate(counts):
            ratios = [row.ratio for row in rows if row.threads == threads and row.ratio is not None]
            if ratios:
                mark(axes, y + (order - (len(counts) - 1) / 2) * height, height, ratios, order)
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


def note(figure: Figure, about: Mapping[str, Any]) -> None:
    """Under a chart: where it was made, and how."""
    machine, versions = about["machine"], about["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    figure.supxlabel(
        f"{machine['processor']}, {machine['instruction_set']}; {libraries}; {about['date'][:10]}\n{about['command']}",
        fontsize=6.5,
    )


def canvas(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write the chart of ratios as PNG (or whatever the suffix of `path` says)."""
    import matplotlib as mpl
    from matplotlib.patches import Patch

    counts = sorted({row.threads for row in rows})
    ratios = [row.ratio for row in rows if row.ratio is not None]
    limits = (min([0.8, *(r / 1.8 for r in ratios)]), max([2.0, *(r * 1.7 for r in ratios)]))
    lines, mark = lines_of(rows, lambda row: row.case.label), draw_bars
    if len(lines) > BARS:
        lines, mark = lines_of(rows, lambda row: OPERATIONS[row.case.operation]), draw_dots
    columns = columns_of(lines)
    tall = max(len(column) for column in columns)
    with mpl.rc_context({"font.size": 8, "font.family": "sans-serif", "text.color": INK}):
        figure = canvas(8 * len(columns), 1.2 + (0.1 + 0.085 * len(counts)) * tall)
        for axes, some in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            padding: list[Line] = [("", [])] * (tall - len(some))  # the same scale in every column
            draw_column(axes, [*some, *padding], counts, limits, mark)
        title = "Time of the peer / time of pystn: right of the line, pystn is faster"
        figure.suptitle(title, weight="bold", fontsize=10, x=0.01, ha="left")
        note(figure, about)
        shades = zip(cycle(SHADES), counts, strict=False)
        patches = [Patch(color=shade, label=f"{n} thread{'s' * (n > 1)}") for shade, n in shades]
        figure.legend(handles=patches, loc="outside upper right", ncols=len(counts), frameon=False)
        figure.savefig(path, facecolor="white")


def draw_panel(axes: Axes, rows: Sequence[Row], sweep: Sweep) -> None:
    """Times against what the sweep changes: a line for each library and number of threads."""
    counts = [0] if sweep.over_threads else sorted({row.threads for row in rows})
    for order, threads in enumerate(counts):
        line = [row for row in rows if threads in (0, row.threads)]
        suffix = f", {threads} thread{'s' * (threads > 1)}" if threads else ""
        for library, which, shades in ((line[0].peer, 0, SLOWER), ("pystn", 1, SHADES)):
            values = [nanoseconds(row)[which] for row in line]
            shade, label = shades[(order + sweep.over_threads) % len(shades)], library + suffix
            axes.plot([sweep.at(row) for row in line], values, color=shade, marker="o", markersize=3, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({sweep.at(row) for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.grid(color=FAINT, linewidth=0.6)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.legend(fontsize=6, frameon=False)
    axes.spines[:].set_visible(False)


def draw_scaling(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write the chart of sweeps: a column for each, a row for each operation."""
    import matplotlib as mpl
    from matplotlib.ticker import FuncFormatter, LogLocator

    rows = [row for row in rows if row.ratio is not None]
    sweeps = [sweep for sweep in SWEEPS if any(row.case.section == sweep.name for row in rows)]
    operations = list(dict.fromkeys(row.case.operation for row in rows))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    with mpl.rc_context({"font.size": 8, "font.family": "sans-serif", "text.color": INK}):
        figure = canvas(1 + 3 * len(sweeps), 1.2 + 2.6 * len(operations))
        panels = figure.subplots(max(1, len(operations)), max(1, len(sweeps)), squeeze=False, sharey="row")
        for operation, across in zip(operations, panels, strict=False):
            for sweep, axes in zip(sweeps, across, strict=True):
                shown = [row for row in rows if (row.case.section, row.case.operation) == (sweep.name, operation)]
                if shown:
                    draw_panel(axes, shown, sweep)
                axes.set_xlabel(sweep.along)
            across[0].set_ylabel(f"{operation}: ns per pixel and channel")
            across[0].yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
            across[0].yaxis.set_major_formatter(plain)
            across[0].yaxis.set_minor_formatter("")
        figure.suptitle("How time scales: lower is faster", weight="bold", fontsize=10, x=0.01, ha="left")
        note(figure, about)
        figure.savefig(path, facecolor="white")
