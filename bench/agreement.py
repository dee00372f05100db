"""Whether two libraries computed the same thing: checked before either is timed.

Differences are in units of the result's root mean square, and allowed up to 8 eps max(*spatial) for
each axis: the coordinate of a pixel rounds by about eps W, twice that where it is a quotient, and white
noise turns that into as much of a value.
One value in 10 000 may stray: it lies within rounding of the centre of a pixel or of a tie, where
slopes and nearest pixels jump. A gradient to theta sums such values, so that the strays of a share
s of the pixels move it by about sqrt(s); there the root mean square of the difference is tested.

Integers may differ by one level, where their values round to either side: as the coordinate is off
by eps W and levels by 256 from pixel to pixel, that is allowed for one value in a hundred.

OpenCV has the weights of images of signed or unsigned 16 bits, and Lanczos' weights, for 32 places between
two pixels and no others. The difference is as large as that, of white noise a fifth of its root mean
square or 10 of 256 levels: it is tested that no more is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.arrays import Array
from bench.cases import Case

__all__ = ["Agreement", "compare"]

STRAY, ROUNDED = 1e-4, 1e-2
COARSE, COARSE_LEVELS = 0.3, 10  # root mean square of the difference, or levels at most


@dataclass(frozen=True)
class Agreement:
    """How far two results are apart; `problem` says why that is too far, if it is."""

    difference: float
    tolerance: float
    strays: float = 0.0  # share of values not counted in the difference
    problem: str | None = None


def rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array), dtype=np.float64))) if array.size else 0.0


def is_coarse(case: Case) -> bool:
    sixteen = case.dtype in ("int16", "uint16") and case.mode != "nearest"
    return "opencv" in case.peers and (case.mode == "lanczos4" or sixteen)


def compare_levels(case: Case, ours: Array, theirs: Array) -> Agreement:
    apart = np.abs(ours.astype(np.int64) - theirs)
    unequal = float(np.mean(apart > 0))
    if is_coarse(case):
        most, usual = float(apart.max(initial=0)), float(np.mean(apart))
        problem = f"they disagree by {most:.0f} levels, {usual:.1f} in the mean" if most > COARSE_LEVELS else None
        return Agreement(most, COARSE_LEVELS, unequal, problem)
    problem = f"{100 * unequal:.2g} % of the levels differ" if unequal > ROUNDED else None
    if apart.max(initial=0) > 1:
        problem = f"they disagree by {apart.max()} levels"
    return Agreement(float(apart.max(initial=0)), 1.0, unequal, problem)


def compare_arrays(case: Case, ours: Array, theirs: Array, summed: bool) -> Agreement:
    quotient = "projective" in case.operation
    positions = "float32" if "opencv" in case.peers else case.coordinates  # whose matrix may be of float64
    tolerance = 8 * (1 + quotient) * case.ndim * float(np.finfo(positions).eps) * max(case.spatial)
    if ours.shape != theirs.shape:
        return Agreement(np.inf, tolerance, problem=f"shapes {ours.shape} and {theirs.shape}")
    if ours.dtype.kind == theirs.dtype.kind and ours.dtype.kind in "iu" and case.mode != "lanczos4":
        return compare_levels(case, ours, theirs)
    if is_coarse(case):
        difference = rms(ours.astype(np.float64) - theirs) / (rms(theirs) or 1.0)
        problem = f"they disagree: {difference:.1e}" if difference > COARSE else None
        return Agreement(difference, COARSE, problem=problem)
    tolerance += 4 * float(np.finfo(ours.dtype).eps)
    apart = np.abs(ours.astype(np.float64) - theirs) / (rms(theirs) or 1.0)
    if summed:
        difference, tolerance, strays = rms(apart), float(np.sqrt(tolerance)), 0.0
    else:
        close = apart <= tolerance
        strays = 1 - float(np.mean(close)) if close.size else 0.0
        difference = float(np.max(apart[close] if strays <= STRAY else apart, initial=0))
    if difference <= tolerance:  # not so for NaN
        return Agreement(difference, tolerance, strays)
    return Agreement(difference, tolerance, strays, f"they disagree: {difference:.1e} > {tolerance:.1e}")


def compare(case: Case, ours: Sequence[Array], theirs: Sequence[Array]) -> Agreement:
    """The agreement of those two arrays that agree least."""
    if len(ours) != len(theirs):
        return Agreement(np.inf, 0, problem=f"{len(ours)} and {len(theirs)} results")
    sums = case.operation.endswith(("fwd_bwd", "training_step"))  # what the second result is
    pairs = [compare_arrays(case, *two, sums and i == 1) for i, two in enumerate(zip(ours, theirs, strict=True))]
    return max(pairs, key=lambda pair: (pair.problem is not None, pair.difference / pair.tolerance))
