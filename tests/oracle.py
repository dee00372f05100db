"""The sampler and the affine grid written from their equations: slow, in float64, one sum at a time.

    V = sum over all pixels (h, w) of U[h, w] k(px - w) k(py - h)

with px, py the coordinates in pixels, folded into the image by the boundary. Nothing here is shared
with the package. The slope k' at pixel centres, where the linear kernel has a kink, is what
`subgradient` says; `epsilon` is that of the arithmetic under test.
"""

import math

import numpy as np


def to_pixels(x, n, align_corners, coords):
    """Position in pixels and its derivative to the stored coordinate."""
    if coords == "pixel":
        return x, 1.0
    if align_corners:
        return (x + 1) / 2 * (n - 1), (n - 1) / 2
    return ((x + 1) * n - 1) / 2, n / 2


def clip(p, n, tolerance):
    flat = p <= tolerance or p >= n - 1 - tolerance
    return min(max(p, 0.0), float(n - 1)), 0.0 if flat else 1.0


def fold(p, n, padding_mode, align_corners, tolerance):
    """Position in the image and the derivative of the folding."""
    if padding_mode == "zeros":
        return p, 1.0
    if padding_mode == "border":
        return clip(p, n, tolerance)
    low, high = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
    if n == 1:
        return 0.0, 0.0
    period, sign = 2 * (high - low), 1.0
    offset = math.fmod(abs(p - low), period)
    if p < low:
        sign = -sign
    if offset > high - low:
        offset, sign = period - offset, -sign
    folded = p if low <= p <= high else low + offset
    clipped, slope = clip(folded, n, tolerance)
    return clipped, sign * slope


def weight(p, i, mode):
    if mode == "nearest":
        return float(i == round(p))  # Python rounds half to even
    return max(0.0, 1 - abs(p - i))


def slope(p, i, mode, subgradient, tolerance):
    """d weight / d p."""
    if mode == "nearest":
        return 0.0
    centre = round(p)
    kink = abs(p - centre) <= tolerance
    right = (i == centre + 1) * 1.0 - (i == centre)
    left = (i == centre) * 1.0 - (i == centre - 1)
    if kink:
        return {"right": right, "left": left, "central": (left + right) / 2, "zero": 0.0}[subgradient]
    cell = math.floor(p)
    return (i == cell + 1) * 1.0 - (i == cell)


def axis_weights(x, n, mode, padding_mode, align_corners, coords, subgradient, epsilon):
    """Weights of all n pixels of an axis for one coordinate, and their derivatives to it."""
    if not math.isfinite(x):
        return np.zeros(n), np.zeros(n), False
    two_sided = subgradient in ("central", "zero")
    tolerance = 8 * epsilon * n if two_sided else 0.0
    p, scale = to_pixels(x, n, align_corners, coords)
    p, factor = fold(p, n, padding_mode, align_corners, tolerance)
    if abs(p) > 4 * n + 4:  # far outside zeros: nothing in reach
        return np.zeros(n), np.zeros(n), True
    w = np.array([weight(p, i, mode) for i in range(n)])
    d = np.array([slope(p, i, mode, subgradient, tolerance) for i in range(n)])
    return w, d * factor * scale, True


def sample_weights(
    grid,
    size,
    mode="linear",
    padding_mode="zeros",
    align_corners=False,
    coords="normalized",
    subgradient="right",
    epsilon=2.0**-52,
):
    """For points (P, 2): weights (P, H, W) and their derivatives to the coordinates (P, 2, H, W)."""
    height, width = size
    weights = np.zeros((len(grid), height, width))
    slopes = np.zeros((len(grid), 2, height, width))
    for i, (x, y) in enumerate(np.asarray(grid, np.float64)):
        options = (mode, padding_mode, align_corners, coords, subgradient, epsilon)
        wx, dx, x_finite = axis_weights(x, width, *options)
        wy, dy, y_finite = axis_weights(y, height, *options)
        if x_finite and y_finite:
            weights[i] = np.outer(wy, wx)
            slopes[i, 0] = np.outer(wy, dx)
            slopes[i, 1] = np.outer(dy, wx)
    return weights, slopes


def broadcast(input, grid):
    """Input (N, C, H, W) and grid (N, P, 2) of one batch size."""
    n = len(grid) if len(input) == 1 else len(input)
    return (
        np.broadcast_to(np.asarray(input, np.float64), (n, *input.shape[1:])),
        np.broadcast_to(np.asarray(grid, np.float64).reshape(len(grid), -1, 2), (n, grid[:1].size // 2, 2)),
    )


def grid_sample(input, grid, **options):
    images, points = broadcast(input, grid)
    output = np.array(
        [
            np.einsum("phw,chw->cp", sample_weights(p, image.shape[1:], **options)[0], image)
            for image, p in zip(images, points, strict=True)
        ]
    )
    return output.reshape(len(images), input.shape[1], *grid.shape[1:-1])


def grid_sample_vjp(grad_output, input, grid, **options):
    images, points = broadcast(input, grid)
    cotangents = np.asarray(grad_output, np.float64).reshape(len(images), input.shape[1], points.shape[1])
    grad_input, grad_grid = np.zeros(images.shape), np.zeros(points.shape)
    for n, (g, image, p) in enumerate(zip(cotangents, images, points, strict=True)):
        weights, slopes = sample_weights(p, image.shape[1:], **options)
        grad_input[n] = np.einsum("cp,phw->chw", g, weights)
        grad_grid[n] = np.einsum("cp,pdhw,chw->pd", g, slopes, image)
    if len(input) == 1:
        grad_input = grad_input.sum(axis=0, keepdims=True)
    if len(grid) == 1:
        grad_grid = grad_grid.sum(axis=0, keepdims=True)
    return grad_input, grad_grid.reshape(grid.shape)


def grid_sample_jvp(input, grid, d_input, d_grid, **options):
    images, points = broadcast(input, grid)
    d_images, d_points = broadcast(d_input, d_grid)
    output = []
    for image, p, d_image, d_p in zip(images, points, d_images, d_points, strict=True):
        weights, slopes = sample_weights(p, image.shape[1:], **options)
        moved = np.einsum("pdhw,pd->phw", slopes, d_p)
        output.append(np.einsum("phw,chw->cp", weights, d_image) + np.einsum("phw,chw->cp", moved, image))
    return np.array(output).reshape(len(images), input.shape[1], *grid.shape[1:-1])


def lattice(m, align_corners):
    """Normalized coordinates of the pixels of an axis of length m."""
    if align_corners:
        return np.linspace(-1, 1, m) if m > 1 else np.zeros(m)
    return (2 * np.arange(m) + 1) / max(m, 1) - 1


def targets(size, align_corners):
    """Homogeneous target coordinates (*size, ndim + 1), last axis (x, y[, z], 1)."""
    axes = [lattice(m, align_corners) for m in size]
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.stack([*mesh[::-1], np.ones(size)], axis=-1)


def affine_grid(theta, size, align_corners):
    points = targets(size, align_corners).reshape(-1, len(size) + 1)
    grid = np.asarray(theta, np.float64) @ points.T  # (..., ndim, P)
    return np.swapaxes(grid, -1, -2).reshape(*theta.shape[:-2], *size, len(size))


def affine_grid_vjp(grad_grid, theta, size, align_corners):
    points = targets(size, align_corners).reshape(-1, len(size) + 1)
    g = np.asarray(grad_grid, np.float64).reshape(*theta.shape[:-2], len(points), len(size))
    return np.swapaxes(g, -1, -2) @ points
