"""Samples whose kernel is stretched over a footprint, written from their equations as tests/oracle.py is: slow, in
float64, tap by tap.

    scales       w_m = k((p - m) / s) / N on each axis
    covariances  w_m = max(0, exp(-q / 2) - exp(-9 / 2)) / N,  q = (m - p)^T S^-1 (m - p)

with N the sum over all taps. Each sample becomes a list of taps: what they read, by index into the image with its slots
outside (`oracle.extended`), their weights, and the derivatives of these to the position and to the footprint.
"""

import itertools
import math

import numpy as np
import oracle

HALF = {"nearest": 0.5, "linear": 1, "cubic": 2}
WIDEST = 4  # images


def kernel_at(t, kernel, subgradient):
    """k(t) and k'(t)."""
    name, *parameters = kernel
    if name == "nearest":
        return 1.0, 0.0
    if name == "linear":
        value = max(0.0, 1 - abs(t))
        right = 1.0 if -1 <= t < 0 else -1.0 if 0 <= t < 1 else 0.0
        left = 1.0 if -1 < t <= 0 else -1.0 if 0 < t <= 1 else 0.0
        central = (right + left) / 2
        return value, {"right": right, "left": left, "central": central, "zero": right if right == left else 0.0}[
            subgradient
        ]
    if name == "cubic":
        return oracle.cubic(t, *parameters)[:2] if abs(t) <= 2 else (0.0, 0.0)
    if name == "bspline":
        return oracle.bspline_derivatives(t, parameters[0])[:2]
    return {"lanczos": oracle.lanczos, "gaussian": oracle.gaussian, "tabulated": oracle.tabulated}[name](
        t, *parameters[: 1 if name == "gaussian" else None]
    )[:2]


def half_of(kernel):
    name, *parameters = kernel
    if name == "tabulated":
        return parameters[1]
    return HALF.get(name) or oracle.support_of(name, parameters) / 2


def axis_taps(p, s, kernel, subgradient):
    """Taps, their weights, and the derivatives of these to p and to s."""
    if kernel[0] == "nearest" and s == 1:
        return oracle.nearest_taps(p, kernel[1])[0], np.ones(1), np.zeros(1), np.zeros(1)
    reach = half_of(kernel) * s
    taps = [m for m in range(math.floor(p - reach) - 1, math.ceil(p + reach) + 2) if -reach <= p - m <= reach]
    if kernel[0] != "linear":  # half-open; where linear ends it weighs nothing, but it has slopes
        taps = [m for m in taps if p - m < reach]
    t = np.array([(p - m) / s for m in taps])
    k, k1 = np.array([kernel_at(x, kernel, subgradient) for x in t]).T
    total = k.sum()
    by_p, by_s = k1 / s, -k1 * t / s
    w = k / total
    return taps, w, (by_p - w * by_p.sum()) / total, (by_s - w * by_s.sum()) / total


def scaled(p, s, size, kernels, subgradient):
    """Of a sample: taps (T, ndim), weights (T,), their derivatives to p (T, ndim) and to s (T, ndim); axes y, x."""
    limits = [(1.0 <= scale <= WIDEST * n) for scale, n in zip(s, size, strict=True)]
    s = [min(max(scale, 1.0), WIDEST * n) for scale, n in zip(s, size, strict=True)]
    axes = [axis_taps(*given, subgradient) for given in zip(p, s, kernels, strict=True)]
    taps = np.array(list(itertools.product(*[axis[0] for axis in axes]))).reshape(-1, len(size))

    def outer(vectors):
        return np.array([math.prod(row) for row in itertools.product(*vectors)])

    values = [axis[1] for axis in axes]
    by = [
        np.stack([outer([*values[:a], axes[a][k] * on, *values[a + 1 :]]) for a, on in enumerate(which)], axis=1)
        for k, which in ((2, [1] * len(size)), (3, limits))
    ]
    return taps, outer(values), *by


def elliptical(p, S, size):
    """The same of a covariance, with the derivatives to it (T, ndim, ndim)."""
    p, S, ndim = np.asarray(p, float), (S + S.T) / 2, len(size)
    reach = 3 * np.sqrt(np.diag(S))
    most = WIDEST * np.array(size, float)
    limited = (reach > most).any()
    shrink = np.minimum(1, most / reach)
    S = S * shrink * shrink[:, None]
    reach = np.minimum(reach, most)
    ranges = [range(math.floor(x - r), math.ceil(x + r) + 1) for x, r in zip(p, reach, strict=True)]
    taps = np.array(list(itertools.product(*ranges)))
    d, inverse = taps - p, np.linalg.inv(S)
    q = np.einsum("ta,ab,tb->t", d, inverse, d)
    inside = q < 9
    if not inside.any():
        nearest = np.floor(p + 0.5).astype(int)[None]
        return nearest, np.ones(1), np.zeros((1, ndim)), np.zeros((1, ndim, ndim))
    taps, d, e = taps[inside], d[inside], np.exp(-q[inside] / 2)
    w = e - math.exp(-4.5)
    total = w.sum()
    by_p = np.einsum("ab,tb,t->ta", inverse, d, e)
    by_S = np.einsum("ab,tb,tc,cd,t->tad", inverse, d, d, inverse, e) / 2
    w = w / total
    by_p = (by_p - w[:, None] * by_p.sum(axis=0)) / total
    by_S = (by_S - w[:, None, None] * by_S.sum(axis=0)) / total
    return taps, w, by_p, by_S * (not limited)


class Samples:
    """Samples at `grid` (N, P, ndim) with footprints (N, P, ndim[, ndim]) of images of a spatial size."""

    def __init__(
        self,
        grid,
        footprint,
        size,
        mode="linear",
        padding_mode="zeros",
        align_corners=False,
        coords="normalized",
        subgradient="right",
        cutoff=None,
    ):
        self.size, self.ndim = size, len(size)
        self.kernels = [oracle.kernel_of(m) for m in oracle.per_axis(mode, self.ndim)]
        self.boundaries = oracle.boundaries_of(padding_mode, align_corners, self.ndim)
        self.grid, self.footprint = np.asarray(grid, float), np.asarray(footprint, float)
        self.how = (align_corners, coords)
        self.subgradient, self.cutoff = subgradient, cutoff
        self.covariances = self.footprint.ndim == self.grid.ndim + 1

    def at(self, n, m):
        """None, or slots read (T, ndim), whether inside (T,), weights and their derivatives, to the grid x first."""
        x = self.grid[n if len(self.grid) > 1 else 0, m]
        footprint = self.footprint[n if len(self.footprint) > 1 else 0, m]
        if not (np.isfinite(x).all() and np.isfinite(footprint).all()):
            return None
        pixels = [oracle.to_pixels(float(a), k, *self.how) for a, k in zip(x[::-1], self.size, strict=True)]
        p, scale = [a for a, _ in pixels], np.array([b for _, b in pixels])
        if self.cutoff is not None:
            margin = {"center": 0.0, "edge": 0.5}[self.cutoff] + 1e-12
            if any(a < -margin or a > k - 1 + margin for a, k in zip(p, self.size, strict=True)):
                return None
        if self.covariances:
            S = footprint[::-1, ::-1]
            if not (np.linalg.eigvalsh((S + S.T) / 2) > 0).all():
                return None
            taps, w, by_p, by_footprint = elliptical(p, S, self.size)
            by_footprint = by_footprint[:, ::-1, ::-1]
        else:
            taps, w, by_p, by_footprint = scaled(p, footprint[::-1], self.size, self.kernels, self.subgradient)
            by_footprint = by_footprint[:, ::-1]
        slots = [
            [oracle.slot(int(i), k, boundary) for i, k, boundary in zip(tap, self.size, self.boundaries, strict=True)]
            for tap in taps
        ]
        inside = ((taps >= 0) & (taps < self.size)).all(axis=1)
        return np.array(slots), inside, w, (by_p * scale)[:, ::-1], by_footprint


def points(array, trailing):
    """(N, *shape, ...) as (N, P, ...)."""
    return np.asarray(array, float).reshape(len(array), -1, *array.shape[array.ndim - trailing :])


def prepared(input, grid, footprint, options):
    ndim = grid.shape[-1]
    covariances = footprint.ndim == grid.ndim + 1
    flat = points(grid, 1), points(footprint, 1 + covariances)
    samples = Samples(*flat, input.shape[2:], **options)
    batch = max(len(input), len(grid), len(footprint))
    return samples, [(n, m) for n in range(batch) for m in range(flat[0].shape[1])], batch, ndim


def read(image, slots):
    return image[(slice(None), *slots.T)]


def sample(input, grid, footprint, fill_value=0.0, **options):
    """Values (N, C, *shape) and mask (N, *shape)."""
    samples, pairs, batch, _ = prepared(input, grid, footprint, options)
    shape = grid.shape[1:-1]
    fill = np.broadcast_to(np.asarray(fill_value, float), input.shape[1])
    values, mask = np.zeros((batch, input.shape[1], math.prod(shape))), np.zeros((batch, math.prod(shape)))
    for n, m in pairs:
        taps = samples.at(n, m)
        if taps is None:
            values[n, :, m] = fill
            continue
        slots, inside, w, *_ = taps
        image = oracle.extended(input[n if len(input) > 1 else 0], fill, samples.boundaries)
        values[n, :, m] = read(image, slots) @ w
        mask[n, m] = min(max(w[inside].sum(), 0.0), 1.0)
    return values.reshape(batch, -1, *shape), mask.reshape(batch, *shape)


def vjp(grad_output, grad_mask, input, grid, footprint, fill_value=0.0, **options):
    """Gradients to input, grid and footprint; grad_mask may be None."""
    samples, pairs, batch, ndim = prepared(input, grid, footprint, options)
    g = grad_output.reshape(batch, input.shape[1], -1)
    to_input, to_grid = np.zeros((len(input), input.shape[1], *[k + 1 for k in input.shape[2:]])), np.zeros(grid.shape)
    to_footprint = np.zeros(footprint.shape)
    flat_grid = to_grid.reshape(len(grid), -1, ndim)
    flat_footprint = to_footprint.reshape(len(footprint), flat_grid.shape[1], *footprint.shape[grid.ndim - 1 :])
    for n, m in pairs:
        taps = samples.at(n, m)
        if taps is None:
            continue
        slots, inside, w, by_p, by_footprint = taps
        of = n if len(input) > 1 else 0
        np.add.at(to_input[of], (slice(None), *slots.T), g[n, :, m, None] * w)
        h = g[n, :, m] @ read(oracle.extended(input[of], fill_value, samples.boundaries), slots)
        if grad_mask is not None and 0 <= w[inside].sum() <= 1:
            h = h + grad_mask.reshape(batch, -1)[n, m] * inside
        flat_grid[n if len(grid) > 1 else 0, m] += h @ by_p
        flat_footprint[n if len(footprint) > 1 else 0, m] += np.tensordot(h, by_footprint, 1)
    return to_input[oracle.pixels(ndim)], to_grid, to_footprint
