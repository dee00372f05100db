"""The warps under test: how pystn and the oracle are asked for them, matrices that suit a test, layouts."""

from dataclasses import dataclass

import numpy as np
import oracle

import pystn


@dataclass(frozen=True)
class Warp:
    """One warp and its derivatives, here and in the oracle."""

    name: str
    ndim: int
    rows: int
    reduce: str | None = None

    @property
    def projective(self):
        return self.rows > self.ndim

    def spatial(self, size):
        """The spatial axes of the output."""
        return size if self.reduce is None else size[1:]

    def forward(self, input, theta, size, **options):
        return getattr(pystn, self.name)(input, theta, size, **self.given(options))

    def vjp(self, grad_output, input, theta, size, **options):
        return getattr(pystn, f"{self.name}_vjp")(grad_output, input, theta, size, **self.given(options))

    def jvp(self, input, theta, d_input, d_theta, size, **options):
        return getattr(pystn, f"{self.name}_jvp")(input, theta, d_input, d_theta, size, **self.given(options))

    def vjp2(self, gg_input, gg_theta, grad_output, input, theta, size, **options):
        second = getattr(pystn, f"{self.name}_vjp2")
        return second(gg_input, gg_theta, grad_output, input, theta, size, **self.given(options))

    def given(self, options):
        return options if self.reduce is None else {"reduce": self.reduce, **options}

    def expected(self, which, *arguments, **options):
        """What the oracle says: `which` is "", "_vjp", "_jvp", "_mask" or "_mask_jvp"."""
        if self.reduce is not None:
            return getattr(oracle, f"warp_project{which}")(*arguments, reduce=self.reduce, **options)
        if self.projective:
            options["projective"] = True
        return getattr(oracle, f"warp{which}")(*arguments, **options)

    def map(self, theta, size, align_corners=False, coords="normalized", **options):
        return oracle.Map(theta, size, align_corners, coords, self.projective, **options)


AFFINE = {ndim: Warp("warp_affine", ndim, ndim) for ndim in (1, 2, 3)}
PROJECTIVE = Warp("warp_projective", 2, 3)
PROJECTIONS = {reduce: Warp("warp_project", 3, 3, reduce) for reduce in ("sum", "mean", "max")}
WARPS = {
    "affine-1d": AFFINE[1],
    "affine-2d": AFFINE[2],
    "affine-3d": AFFINE[3],
    "projective": PROJECTIVE,
    **{f"project-{reduce}": warp for reduce, warp in PROJECTIONS.items()},
}
NAMES_OF_UNREDUCED = [name for name, warp in WARPS.items() if warp.reduce is None]
UNREDUCED = [WARPS[name] for name in NAMES_OF_UNREDUCED]


class Layout:
    """Arrays of the backend with the channels where `axis` says, and back."""

    def __init__(self, backend, axis):
        self.backend, self.axis = backend, axis

    def array(self, a):
        return self.backend.array(np.ascontiguousarray(np.moveaxis(a, 1, self.axis)))

    def numpy(self, a):
        return np.moveaxis(self.backend.numpy(a), self.axis, 1)

    def slopes(self, a):
        """To (N, ..., C, ndim) from (N, C, ..., ndim)."""
        return self.backend.array(np.ascontiguousarray(np.moveaxis(a, 1, 1 if self.axis == 1 else -2)))

    def slopes_numpy(self, a):
        return np.moveaxis(self.backend.numpy(a), 1 if self.axis == 1 else -2, 1)


def same(actual, expected, tolerance=1e-12, what=""):
    assert actual.shape == expected.shape, what
    bound = tolerance * max(1.0, np.abs(expected).max(initial=0))
    assert np.abs(actual - expected).max(initial=0) <= bound, what


def homogeneous(theta):
    """Matrices with a last row (0, .., 0, 1)."""
    last = np.zeros((*theta.shape[:-2], 1, theta.shape[-1]), theta.dtype)
    last[..., -1] = 1
    return np.concatenate([theta, last], axis=-2)


def to_pixel_matrix(theta, image, size):
    """The same map from pixel indices to pixel indices, of matrices for align_corners=False."""
    ndim = len(size)
    n, m = np.array(image[::-1], float), np.array(size[::-1], float)
    into, back = np.eye(ndim + 1), np.eye(ndim + 1)
    into[:ndim, :ndim], into[:ndim, -1] = np.diag(n / 2), (n - 1) / 2
    back[:ndim, :ndim], back[:ndim, -1] = np.diag(2 / m), 1 / m - 1
    whole = into @ (theta if theta.shape[-2] > ndim else homogeneous(theta)) @ back
    return whole[..., : theta.shape[-2], :]


def positions(warp, theta, image, size, align_corners=False, coords="normalized", **options):
    """Source positions in pixels, (N, *K, *size, ndim)."""
    grid = warp.map(theta, size, align_corners, coords, **options).grid()
    columns = [oracle.to_pixels(grid[..., a], n, align_corners, coords)[0] for a, n in enumerate(image[::-1])]
    return np.stack(columns, axis=-1)


def matrices(
    rng,
    warp,
    leading,
    image,
    size,
    align_corners=False,
    coords="normalized",
    spread=0.8,
    clear=0.0,
    steps=None,
    tilt=0.9,
):
    """Random matrices (*leading, rows, ndim + 1) in float64, whose points leave the image too.

    Points stay `clear` pixels from pixel centres and the middles between them. Denominators, some of them
    negative, stay away from 0, near which rounding is no longer small: by much, and with no horizon, if `tilt`
    is small. `steps` rounds the matrix to 1 / steps.
    """

    def drawn():
        theta = np.eye(warp.rows, warp.ndim + 1) * 0.4 + rng.uniform(-spread, spread, (warp.rows, warp.ndim + 1))
        theta[: warp.ndim, -1] = rng.uniform(-0.4, 0.4, warp.ndim)
        if warp.projective:
            theta[-1] = *rng.uniform(-tilt, tilt, 2), rng.choice([-1, 1]) * rng.uniform(0.3 if tilt > 0.3 else 0.8, 1)
        if coords == "pixel":
            theta = to_pixel_matrix(theta, image, size)
        return theta if steps is None else np.rint(theta * steps) / steps

    def fits(theta):
        points = warp.map(theta, size, align_corners, coords)
        if warp.projective and not (np.abs(points.q[..., 2]) >= 0.2 + (tilt < 0.3) / 3).all():
            return False
        if clear:
            p = positions(warp, theta, image, size, align_corners, coords)
            fixed = align_corners & (np.array(image[::-1]) == 1)  # positions are 0, without rounding
            return bool(((np.abs(2 * p - np.rint(2 * p)) >= 2 * clear) | fixed).all())
        return True

    found = np.empty((*leading, warp.rows, warp.ndim + 1))
    for at in np.ndindex(*leading):
        theta = drawn()
        while not fits(theta):
            theta = drawn()
        found[at] = theta
    return found
