"""Warps of float32 images by float32 matrices, where tiles and strips and their ragged edges are.

Everything is compared with the grid in double, sampled in double, to bounds made of what single precision may
do to a sample: move its position by a few roundings, and its sum by a few more.
"""

import numpy as np
import oracle
import pytest
from conftest import PADDING_MODES
from warps import to_pixel_matrix

import pystn

EPS = float(np.finfo(np.float32).eps)
ROUNDINGS = 4  # of each of the terms of a position and of a sample


def turn(angle, scale):
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def matrix(rng, kind):
    """One matrix (2, 3) of a kind, of float32 numbers."""
    theta = np.empty((2, 3))
    theta[:, 2] = rng.uniform(-0.3, 0.3, 2)
    if kind == "rotated":
        theta[:, :2] = turn(rng.uniform(-np.pi, np.pi), rng.uniform(0.7, 1.2))
    elif kind == "shrunk":  # 4 pixels of the image to one
        theta[:, :2] = turn(rng.uniform(-np.pi, np.pi), 4)
    elif kind == "enlarged":  # one pixel of the image to 8
        theta[:, :2] = turn(rng.uniform(-np.pi, np.pi), 1 / 8)
    elif kind == "sheared":
        theta[:, :2] = np.eye(2) + rng.uniform(-0.8, 0.8, (2, 2))
    elif kind == "upright":  # no turn, of either sign
        theta[:, :2] = np.diag(rng.choice([-1, 1], 2) * rng.uniform(0.5, 1.5, 2))
    elif kind == "far":
        theta[:, :2], theta[:, 2] = rng.uniform(-1, 1, (2, 2)), rng.choice([-1, 1], 2) * rng.uniform(3, 50, 2)
    elif kind == "line":  # rank one
        theta[:, :2] = np.outer(rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2))
    elif kind == "row":  # all rows of the output alike, or all columns
        theta[:, :2] = rng.uniform(-1, 1, (2, 2))
        theta[:, rng.integers(2)] = 0
    else:  # a point
        theta[:, :2] = 0
    return theta.astype(np.float32).astype(np.float64)


KINDS = ("rotated", "shrunk", "enlarged", "sheared", "upright", "far", "line", "row", "point")


class Single:
    """A warp in single precision, the same in double, and what the two may differ by."""

    def __init__(self, rng, image, size, thetas, channels, padding_mode, align_corners, coords):
        self.options = {"padding_mode": padding_mode, "align_corners": align_corners, "coords": coords}
        n = len(thetas)

        def drawn(*shape):
            return rng.standard_normal(shape).astype(np.float32)

        self.input, self.d_input = drawn(n, channels, *image), drawn(n, channels, *image)
        self.theta, self.d_theta = thetas.astype(np.float32), drawn(*thetas.shape)
        self.cotangent, self.size = drawn(n, channels, *size), size
        points = oracle.Map(self.theta, size, align_corners, coords)
        self.points, self.targets = points, np.abs(points.targets)
        grid, d_grid = points.grid(), points.jvp(self.d_theta)
        # Terms of a position, and it itself, in pixels.
        extent = np.array(image[::-1], float)
        self.per_unit = 1.0 if coords == "pixel" else (extent - 1) / 2 if align_corners else extent / 2
        terms = np.einsum("nab,pb->npa", np.abs(self.theta.astype(float)), self.targets).reshape(grid.shape)
        self.shift = ROUNDINGS * EPS * (self.per_unit * (terms + (coords != "pixel")) + (coords != "pixel") * 0.5)
        if padding_mode == "reflection":
            self.shift = 2 * self.shift
        scaled = grid if coords == "pixel" else grid * self.per_unit + (extent - 1) / 2
        self.kinked = np.abs(scaled - np.rint(scaled)) <= self.shift
        double = [a.astype(np.float64) for a in (self.input, self.d_input, self.cotangent)]
        self.exact = self.results(*double, grid, d_grid)
        self.grid, self.d_grid, self.largest = grid, np.abs(d_grid), max(np.abs(a).max() for a in double[:2])

    def results(self, input, d_input, cotangent, grid, d_grid):
        """Value, mask, gradients and tangent with a grid."""
        grad_input, grad_grid = pystn.grid_sample_vjp(cotangent, input, grid, **self.options)
        return {
            "value": pystn.grid_sample(input, grid, **self.options),
            "mask": pystn.grid_sample(input, grid, return_mask=True, **self.options)[1],
            "grad_input": grad_input,
            "grad_theta": np.einsum("npa,pb->nab", grad_grid.reshape(len(grad_grid), -1, 2), self.points.targets),
            "d_output": pystn.grid_sample_jvp(input, grid, d_input, d_grid, **self.options),
        }

    def unfused(self):
        """The same with a grid that is stored in single precision."""
        grid, d_grid = self.grid.astype(np.float32), self.points.jvp(self.d_theta).astype(np.float32)
        return self.results(self.input, self.d_input, self.cotangent, grid, d_grid)

    def fused(self, backend, channel_axis):
        def array(a):
            return backend.array(np.ascontiguousarray(np.moveaxis(a, 1, channel_axis)))

        def numpy(a):
            return np.moveaxis(backend.numpy(a), channel_axis, 1)

        options = {**self.options, "channel_axis": channel_axis}
        input, theta = array(self.input), backend.array(self.theta)
        value, mask = pystn.warp_affine(input, theta, self.size, return_mask=True, **options)
        grad_input, grad_theta = pystn.warp_affine_vjp(array(self.cotangent), input, theta, self.size, **options)
        tangents = array(self.d_input), backend.array(self.d_theta)
        return {
            "value": numpy(value),
            "mask": backend.numpy(mask),
            "grad_input": numpy(grad_input),
            "grad_theta": backend.numpy(grad_theta),
            "d_output": numpy(pystn.warp_affine_jvp(input, theta, *tangents, self.size, **options)),
        }

    def bounds(self):
        """Of each result, element by element."""
        step = 2 * self.largest  # no slope of a sample is larger, a pixel along one axis
        moved = self.shift.sum(axis=-1)  # what the weights of a sample may be off by
        along = np.abs(self.cotangent).sum(axis=1, dtype=float)[..., None]  # of all channels
        # The slope along one axis moves with the position along the other, and jumps at kinks of its own.
        off = step * (2 * moved[..., None] + ROUNDINGS * EPS + self.kinked)
        # Errors know nothing of the cotangents, whose signs are random: sums of them grow as their root.
        slopes = (self.per_unit * off * along).reshape(len(along), -1, 2)
        by_theta = 6 * np.sqrt(np.einsum("npa,pb->nab", slopes**2, self.targets**2))
        by_theta += EPS * np.abs(self.exact["grad_theta"])
        by_grid = self.per_unit * self.d_grid
        by_grid = (by_grid * (off + ROUNDINGS * EPS * step)).sum(axis=-1)
        # Of a pixel of the gradient, the samples that touch it or nearly so: those about each of its neighbours.
        grid, border = self.grid, {**self.options, "mode": "nearest"}
        if border["padding_mode"] == "zeros":
            border["padding_mode"] = "border"

        def touching(values):
            near = pystn.grid_push(values, grid, self.input.shape[2:], **border)
            near = np.pad(near, ((0, 0), (0, 0), (1, 1), (1, 1)))
            h, w = self.input.shape[2:]
            return sum(near[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3))

        terms, weights = np.abs(self.cotangent).astype(float), moved[:, None] + ROUNDINGS * EPS
        count = touching(np.ones_like(terms))
        by_input = touching(terms * weights) + EPS * np.sqrt(count) * touching(terms)
        sample = moved[:, None] * step + ROUNDINGS * EPS * self.largest
        return {
            "value": sample,
            "mask": 2 * moved + ROUNDINGS * EPS,
            "grad_input": by_input,
            "grad_theta": by_theta,
            "d_output": sample + by_grid[:, None],
        }

    def check(self, backend):
        """Both layouts against double, and against the pair of operations that they fuse."""
        bounds, pair = self.bounds(), self.unfused()
        assert np.median(bounds["value"]) <= 1e-3 * self.largest * (1 + np.abs(self.theta).max())  # they do bind
        for channel_axis in (1, -1):
            for what, found in self.fused(backend, channel_axis).items():
                assert found.dtype == np.float32, what
                assert found.shape == self.exact[what].shape, what
                for expected, allowed in ((self.exact[what], 1), (pair[what].astype(float), 2)):
                    excess = np.abs(found - expected) - allowed * bounds[what]
                    worst = excess.argmax()
                    assert excess.flat[worst] <= 0, (
                        f"{what}, {allowed}: {found.flat[worst]} for {np.asarray(expected).flat[worst]}, "
                        f"{excess.flat[worst]:.1e} over {bounds[what].flat[worst]:.1e} at {worst} of {found.shape}"
                    )


CONVENTIONS = [(False, "normalized"), (True, "normalized"), (False, "pixel")]


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("align_corners, coords", CONVENTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_affine_maps(backend, kind, align_corners, coords, padding_mode):
    """Images and outputs of 7 to 70 pixels, so that the last tile of a row has any number of them."""
    rng = np.random.default_rng([KINDS.index(kind), CONVENTIONS.index((align_corners, coords))])
    for _ in range(2):
        image, size = rng.integers(7, 71, 2), rng.integers(7, 71, 2)
        thetas = np.stack([matrix(rng, kind) for _ in range(2)])
        if coords == "pixel":
            thetas = to_pixel_matrix(thetas, tuple(image), tuple(size)).astype(np.float32).astype(float)
        channels = int(rng.choice([1, 3]))
        Single(rng, tuple(image), tuple(size), thetas, channels, padding_mode, align_corners, coords).check(backend)


@pytest.mark.parametrize("width", [7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 70])
def test_every_rest_of_a_row(backend, width):
    """One row, and rows whose pixels are in tiles with those of the next."""
    rng = np.random.default_rng(width)
    for height in (1, 2, 7, 16):
        thetas = matrix(rng, "rotated")[None]
        Single(rng, (20, 24), (height, width), thetas, 2, "zeros", False, "normalized").check(backend)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_matrices_of_integers_are_exact(backend, rng, padding_mode):
    """In pixels: bit for bit the pixels, and the sums of single precision of nothing but halves."""
    image = rng.integers(-8, 9, (1, 3, 33, 40)).astype(np.float32)
    for theta in (
        [[1, 0, -5], [0, 1, 3]],
        [[0, 1, 0], [-1, 0, 32]],
        [[2, -1, 9], [1, 2, -7]],
        [[-1, 0.5, 30], [0, 1, 2]],
    ):
        theta = np.array([theta], np.float32)
        grid = oracle.Map(theta, (37, 45), coords="pixel").grid()
        options = {"padding_mode": padding_mode, "coords": "pixel"}
        value = pystn.warp_affine(backend.array(image), backend.array(theta), (37, 45), **options)
        expected = pystn.grid_sample(image.astype(float), grid, **options)
        np.testing.assert_array_equal(backend.numpy(value), expected)
        cotangent = rng.integers(-8, 9, expected.shape).astype(np.float32)
        arrays = [backend.array(a) for a in (cotangent, image, theta)]
        found = pystn.warp_affine_vjp(*arrays, (37, 45), **options)
        wanted = pystn.grid_sample_vjp(cotangent.astype(float), image.astype(float), grid, **options)
        np.testing.assert_array_equal(backend.numpy(found[0]), wanted[0])
        to_theta = oracle.Map(theta, (37, 45), coords="pixel").vjp(wanted[1])
        np.testing.assert_array_equal(backend.numpy(found[1]), to_theta)


def test_sums_of_the_gradient_to_theta_run_in_double(backend, rng):
    """Of many samples it is right to the last digits of single precision, not to its sums'."""
    y, x = np.mgrid[:300, :400]
    image = (x + 2.0 * y)[None, None].astype(np.float32)  # whose slopes are whole numbers
    theta = np.array([[[1, 0, 0.25], [0, 1, 0.5]]], np.float32)
    cotangent = (rng.integers(1, 100, (1, 1, 290, 390))).astype(np.float32)
    arrays = [backend.array(a) for a in (cotangent, image, theta)]
    found = backend.numpy(pystn.warp_affine_vjp(*arrays, (290, 390), coords="pixel", wrt="theta")[1])
    sums = [(cotangent[0, 0].astype(float) * a[:290, :390]).sum() for a in (x, y, np.ones_like(x))]
    np.testing.assert_array_equal(found[0], np.array([sums, [2 * s for s in sums]]).astype(np.float32))
