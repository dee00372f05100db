"""Delaunay triangulation of points in the plane, exact for any input, regular grids among them.

Points are added from left to right, each joined to the edges of the hull that it sees; then edges are flipped until
every circle through a triangle is empty (Lawson, 1977). The two signs that decide this are computed in floating
point and, where that cannot tell them, in rational numbers (Shewchuk, Adaptive precision floating-point arithmetic
and fast robust geometric predicates, 1997). It is pure Python, made for the tens to thousands of points that control
a map: SciPy, which has Qhull, is no dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from pystn.typing import Array

__all__ = ["delaunay"]

Point = Sequence[Any]
EPSILON = 2.0**-53


def delaunay(points: Array) -> Array:
    """Triangles (T, 3) of points (P, 2), counter-clockwise in a frame whose y points up, sorted.

    The points are distinct and do not all lie on one line. Of points on one circle any triangulation is right.
    """
    at = [(float(x), float(y)) for x, y in points]
    order = sorted(range(len(at)), key=lambda i: at[i])
    apex: dict[tuple[int, int], int] = {}  # of every directed edge with a triangle on its left, the third corner
    after, before = {}, {}  # neighbours on the hull, counter-clockwise

    def add(a: int, b: int, c: int) -> None:
        apex[a, b], apex[b, c], apex[c, a] = c, a, b

    def join(a: int, b: int) -> None:
        after[a], before[b] = b, a

    first = next(k for k in range(2, len(order)) if orientation(*(at[order[i]] for i in (0, 1, k))) != 0)
    line, tip = order[:first], order[first]
    if orientation(at[line[0]], at[line[1]], at[tip]) < 0:
        line.reverse()
    for a, b in pairwise(line):
        add(a, b, tip)
        join(a, b)
    join(line[-1], tip)
    join(tip, line[0])
    for last, new in pairwise(order[first:]):
        low = high = last  # the ends of what the new point sees of the hull
        while orientation(at[high], at[after[high]], at[new]) < 0:
            add(after[high], high, new)
            high = after[high]
        while orientation(at[before[low]], at[low], at[new]) < 0:
            add(low, before[low], new)
            low = before[low]
        join(low, new)
        join(new, high)
    flip(at, apex)
    corners = [(a, b, c) for (a, b), c in apex.items() if a < b and a < c]
    return np.array(sorted(corners), np.intp)


def flip(at: list[tuple[float, float]], apex: dict[tuple[int, int], int]) -> None:
    """Flip edges until all are Delaunay."""
    doubtful = list(apex)
    while doubtful:
        a, b = doubtful.pop()
        c, d = apex.get((a, b)), apex.get((b, a))
        if c is None or d is None or in_circle(at[a], at[b], at[c], at[d]) <= 0:
            continue
        del apex[a, b], apex[b, a]
        for p, q, r in ((a, d, c), (d, b, c)):
            apex[p, q], apex[q, r], apex[r, p] = r, p, q
        doubtful += [(a, d), (d, b), (b, c), (c, a)]


def orientation(a: Point, b: Point, c: Point) -> float | Fraction:
    """Positive if c is to the left of the line from a to b, 0 on it; the sign is exact."""
    left, right = (b[0] - a[0]) * (c[1] - a[1]), (b[1] - a[1]) * (c[0] - a[0])
    if isinstance(left, Fraction) or abs(left - right) > 4 * EPSILON * (abs(left) + abs(right)):
        return left - right
    return orientation(exact(a), exact(b), exact(c))


def in_circle(a: Point, b: Point, c: Point, d: Point) -> float | Fraction:
    """Positive if d is inside of the circle through a, b, c (counter-clockwise), 0 on it; the sign is exact."""
    (ax, ay), (bx, by), (cx, cy) = ((p[0] - d[0], p[1] - d[1]) for p in (a, b, c))
    rows = [
        (ax * ax + ay * ay, bx * cy, by * cx),
        (bx * bx + by * by, cx * ay, cy * ax),
        (cx * cx + cy * cy, ax * by, ay * bx),
    ]
    value = sum(square * (left - right) for square, left, right in rows)
    if isinstance(value, Fraction):
        return value
    bound = 16 * EPSILON * sum(square * (abs(left) + abs(right)) for square, left, right in rows)
    if abs(value) > bound:
        return value
    return in_circle(exact(a), exact(b), exact(c), exact(d))


def exact(point: Point) -> Point:
    return [Fraction(x) for x in point]
