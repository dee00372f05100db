"""The sampler and the affine grid written from their equations: slow, in float64, one sum at a time.

    V = sum over all taps (i, j, ...) of U[i, j, ...] k(py - i) k(px - j) ...

Nothing here is shared with the package, and each part is written the long way. Axis by axis, the taps
of a coordinate become one vector of weights over the n pixels and, in slot n, the weight of what lies
outside; the image gets that slot along every axis too, filled with what is read there. All operations
are then sums against outer products of those vectors and of their derivatives.

A kernel is plain data: "nearest", "linear", "cubic", ("nearest", "up"), ("cubic", a),
("bspline", order[, prefilter]), ("lanczos", a), ("gaussian", sigma, truncate), ("tabulated", table,
support); kernels and paddings may be lists, one entry per spatial axis. `epsilon` is that of the
arithmetic under test, which widens what counts as on a kink or on a border.
"""

import math
from functools import cached_property, lru_cache

import numpy as np

# ---------------------------------------------------------------------------------------------
# Coordinates and boundaries


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


def fold(p, n, boundary, tolerance):
    """Position in the image and the derivative of the folding."""
    if boundary in ("zeros", "constant"):
        return p, 1.0
    if boundary == "border":
        return clip(p, n, tolerance)
    if boundary == "wrap":
        folded = math.fmod(p, n)
        folded = folded + n if folded < 0 else folded
        return (0.0 if folded == n else folded), 1.0
    if n == 1:
        return 0.0, 0.0
    low, high = {"mirror": (0.0, n - 1.0), "symmetric": (-0.5, n - 0.5)}[boundary]
    period, sign = 2 * (high - low), 1.0
    offset = math.fmod(abs(p - low), period)
    if p < low:
        sign = -sign
    if offset > high - low:
        offset, sign = period - offset, -sign
    folded = p if low <= p <= high else low + offset
    clipped, slope = clip(folded, n, tolerance)
    return clipped, sign * slope


def slot(i, n, boundary):
    """The pixel that tap i reads; n is outside the image."""
    if boundary in ("zeros", "constant"):
        return i if 0 <= i < n else n
    if boundary == "border":
        return min(max(i, 0), n - 1)
    if boundary == "wrap":
        return i % n
    if boundary == "symmetric":
        i = i % (2 * n)
        return i if i < n else 2 * n - 1 - i
    if n == 1:
        return 0
    i = i % (2 * (n - 1))
    return i if i < n else 2 * (n - 1) - i


# ---------------------------------------------------------------------------------------------
# Kernels: of distances d = p - i the values, first and second derivatives, and the derivatives to
# the parameters of the kernel, (taps, parameters). Pieces are half-open to the right in p.


def cubic(d, a):
    x, sign = abs(d), -1.0 if d < 0 else 1.0
    # The side of a knot is that of the cell, whose taps lie at d in (-2, -1], (-1, 0], [0, 1), [1, 2).
    if -1 <= d < 1:
        value = (a + 2) * x**3 - (a + 3) * x**2 + 1
        return value, sign * (3 * (a + 2) * x**2 - 2 * (a + 3) * x), 6 * (a + 2) * x - 2 * (a + 3), [x**3 - x**2]
    value = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return value, sign * a * (3 * x**2 - 10 * x + 8), a * (6 * x - 10), [x**3 - 5 * x**2 + 8 * x - 4]


def bspline(d, order):
    """Centred B-spline from truncated powers, summed from the nearer end, where they cancel least."""
    if order == 0:
        return float(-0.5 <= d < 0.5)
    ends = (order + 1) / 2
    powers = [(-1) ** k * math.comb(order + 1, k) * max(0.0, ends - abs(d) - k) ** order for k in range(order + 2)]
    return math.fsum(powers) / math.factorial(order)


def bspline_derivatives(d, order):
    """Differences of splines of lower order."""
    first = bspline(d + 0.5, order - 1) - bspline(d - 0.5, order - 1)
    second = bspline(d + 1, order - 2) - 2 * bspline(d, order - 2) + bspline(d - 1, order - 2)
    return bspline(d, order), first, second, []


def sinc(x):
    """sin(pi x) / (pi x) and its first and second derivatives."""
    if abs(x) <= 1:  # its power series, as nothing cancels there
        terms = [(2 * k, (-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k + 1)) for k in range(16)]
        return (
            math.fsum(c * x**m for m, c in terms),
            math.fsum(c * m * x ** (m - 1) for m, c in terms if m > 0),
            math.fsum(c * m * (m - 1) * x ** (m - 2) for m, c in terms if m > 1),
        )
    value = math.sin(math.pi * x) / (math.pi * x)
    first = (math.cos(math.pi * x) - value) / x
    return value, first, -(math.pi**2) * value - 2 * first / x


def lanczos(d, a):
    s, s1, s2 = sinc(d)
    r, r1, r2 = sinc(d / a)
    return s * r, s1 * r + s * r1 / a, s2 * r + 2 * s1 * r1 / a + s * r2 / a**2, []


def gaussian(d, sigma):
    g = math.exp(-(d**2) / (2 * sigma**2))
    return g, -d / sigma**2 * g, (d**2 / sigma**4 - 1 / sigma**2) * g, [d**2 / sigma**3 * g]


def tabulated(d, table, support):
    """Cubic Hermite interpolation of a table; it is linear in its entries, each taken on its own."""
    size = len(table)
    if abs(d) >= support:
        return 0.0, 0.0, 0.0, [0.0] * size
    h = 2 * support / (size - 1)
    u = (d + support) / h
    j = min(math.floor(u), size - 2)
    u -= j
    # The four Hermite polynomials and their derivatives to u.
    value_j = (2 * u**3 - 3 * u**2 + 1, 6 * u**2 - 6 * u, 12 * u - 6)
    value_next = (-2 * u**3 + 3 * u**2, -6 * u**2 + 6 * u, -12 * u + 6)
    slope_j = (u**3 - 2 * u**2 + u, 3 * u**2 - 4 * u + 1, 6 * u - 4)
    slope_next = (u**3 - u**2, 3 * u**2 - 2 * u, 6 * u - 2)
    basis = np.zeros((size, 3))  # of each entry: value and derivatives of the interpolant of it alone
    basis[j] += value_j
    basis[j + 1] += value_next
    for at, shape in ((j, slope_j), (j + 1, slope_next)):
        if 0 < at < size - 1:  # slope (table[at + 1] - table[at - 1]) / 2h, in units of h
            basis[at + 1] += np.array(shape) / 2
            basis[at - 1] -= np.array(shape) / 2
    basis /= h ** np.arange(3)
    value, first, second = np.array(table, float) @ basis
    return value, first, second, list(basis[:, 0])


def normalized(k, k1, k2, kt):
    """Weights divided by their sum, and the derivatives of the quotient."""
    s, s1, s2, st = k.sum(), k1.sum(), k2.sum(), kt.sum(axis=0)
    return (
        k / s,
        k1 / s - k * s1 / s**2,
        k2 / s - 2 * k1 * s1 / s**2 - k * s2 / s**2 + 2 * k * s1**2 / s**3,
        kt / s - k[:, None] * st / s**2,
    )


def kernel_of(mode):
    """Name and parameters of a kernel; the splines of order 0 and 1 are others by their names."""
    if isinstance(mode, str):
        return {"nearest": ("nearest", "even"), "linear": ("linear",), "cubic": ("cubic", -0.75)}[mode]
    if mode[0] == "bspline" and mode[1] < 2:
        return [("nearest", "up"), ("linear",)][mode[1]]
    return mode


def support_of(name, parameters):
    """Number of taps of a kernel that is wider than linear."""
    if name == "gaussian":
        return 2 * max(1, math.ceil(parameters[1] * parameters[0]))
    if name == "tabulated":
        return 2 * math.ceil(parameters[1])
    return {"cubic": lambda: 4, "bspline": lambda: parameters[0] + 1, "lanczos": lambda: 2 * parameters[0]}[name]()


def nearest_taps(p, ties):
    centre = round(p) if ties == "even" else math.floor(p + 0.5)  # Python rounds half to even
    return [centre], np.ones(1), np.zeros(1), np.zeros(1), np.zeros((1, 0))


def linear_taps(p, subgradient, tolerance):
    """Weights max(0, 1 - |d|), and at pixel centres the slope that `subgradient` says."""
    cell, centre = math.floor(p), round(p)
    t = p - cell
    taps = [cell + k for k in (-1, 0, 1, 2)]
    weights = np.array([max(0.0, 1 - abs(t - (i - cell))) for i in taps])
    right = np.array([(i == centre + 1) * 1.0 - (i == centre) for i in taps])
    left = np.array([(i == centre) * 1.0 - (i == centre - 1) for i in taps])
    slopes = np.array([(i == cell + 1) * 1.0 - (i == cell) for i in taps])
    if abs(p - centre) <= tolerance:
        slopes = {"right": right, "left": left, "central": (left + right) / 2, "zero": 0 * left}[subgradient]
    return taps, weights, slopes, np.zeros(4), np.zeros((4, 0))


def wide_taps(p, name, parameters):
    count = support_of(name, parameters)
    cell = math.floor(p) if count % 2 == 0 else math.floor(p + 0.5)
    first = -(count // 2) + 1 if count % 2 == 0 else -(count - 1) // 2
    offsets = [first + k for k in range(count)]
    function, arguments = {
        "cubic": (cubic, parameters),
        "bspline": (bspline_derivatives, parameters[:1]),
        "lanczos": (lanczos, parameters),
        "gaussian": (gaussian, parameters[:1]),
        "tabulated": (tabulated, parameters),
    }[name]
    rows = [function((p - cell) - offset, *arguments) for offset in offsets]
    k, k1, k2 = (np.array([row[m] for row in rows]) for m in range(3))
    kt = np.array([row[3] for row in rows], float).reshape(count, -1)
    if name in ("lanczos", "gaussian"):
        k, k1, k2, kt = normalized(k, k1, k2, kt)
    return [cell + offset for offset in offsets], k, k1, k2, kt


@lru_cache(maxsize=1 << 17)
def taps_at(p, kernel, subgradient, tolerance):
    """Indices, weights, derivatives; kept, as every boundary asks for the same positions."""
    name, *parameters = kernel
    if name == "nearest":
        return nearest_taps(p, *parameters)
    if name == "linear":
        return linear_taps(p, subgradient, tolerance)
    return wide_taps(p, name, parameters)


# ---------------------------------------------------------------------------------------------
# One axis, and all of them


class Axis:
    """Weights of one axis for points (P,): vectors over n pixels and the slot outside.

    w, w1, w2 are the weights and their derivatives to the stored coordinate, wt those to the
    parameters of the kernel; share, share1, share2 and share_t are those inside the image, summed,
    of the taps at the position as it is, not folded.
    """

    def __init__(self, xs, n, kernel, boundary, align_corners, coords, subgradient, cutoff, epsilon):
        count = {"cubic": 1, "gaussian": 1, "tabulated": len(kernel[1]) if kernel[0] == "tabulated" else 0}
        points = len(xs)
        self.w, self.w1, self.w2 = np.zeros((3, points, n + 1))
        self.wt = np.zeros((points, n + 1, count.get(kernel[0], 0)))
        self.share, self.share1, self.share2 = np.zeros((3, points))
        self.share_t = np.zeros((points, self.wt.shape[-1]))
        self.cut = np.zeros(points, bool)
        kink = 8 * epsilon * n if subgradient in ("central", "zero") else 0.0
        edge = 8 * epsilon * n if coords == "normalized" else 0.0
        for m, x in enumerate(map(float, xs)):
            if not math.isfinite(x):
                self.cut[m] = True
                continue
            p, scale = to_pixels(x, n, align_corners, coords)
            if cutoff is not None:
                margin = {"center": 0.0, "edge": 0.5}[cutoff] + edge
                self.cut[m] = p < -margin or p > n - 1 + margin
            folded, factor = fold(p, n, boundary, kink) if kernel[0] in ("nearest", "linear") else (p, 1.0)
            for i, k, k1, k2, kt in zip(*taps_at(folded, kernel, subgradient, kink), strict=True):
                s = slot(i, n, boundary)
                self.w[m, s] += k
                self.w1[m, s] += k1 * factor * scale
                self.w2[m, s] += k2 * (factor * scale) ** 2
                self.wt[m, s] += kt
            for i, k, k1, k2, kt in zip(*taps_at(p, kernel, subgradient, kink), strict=True):
                if 0 <= i < n:
                    self.share[m] += k
                    self.share1[m] += k1 * scale
                    self.share2[m] += k2 * scale**2
                    self.share_t[m] += kt


def per_axis(option, ndim):
    return list(option) if isinstance(option, list) else [option] * ndim


class Samples:
    """Weights (P, n + 1, ...) of points (P, ndim) over an image with its slots outside, and their derivatives."""

    def __init__(
        self,
        points,
        size,
        mode="linear",
        padding_mode="zeros",
        align_corners=False,
        coords="normalized",
        subgradient="right",
        cutoff=None,
        epsilon=2.0**-52,
    ):
        self.ndim = len(size)
        kernels = [kernel_of(m) for m in per_axis(mode, self.ndim)]
        boundaries = boundaries_of(padding_mode, align_corners, self.ndim)
        # The last coordinate belongs to the first axis of the image.
        self.axes = [
            Axis(
                points[:, -1 - a],
                size[a],
                kernels[a],
                boundaries[a],
                align_corners,
                coords,
                subgradient,
                cutoff,
                epsilon,
            )
            for a in range(self.ndim)
        ]
        self.cut = np.any([axis.cut for axis in self.axes], axis=0)

    def product(self, factors):
        """Outer products of one vector per axis, 0 for points that are cut."""
        result = factors[0]
        for factor in factors[1:]:
            result = result[..., None] * factor.reshape(len(factor), *(1,) * (result.ndim - 1), factor.shape[1])
        return np.where(self.cut.reshape(-1, *(1,) * self.ndim), 0.0, result)

    def derivative(self, *coordinates):
        """Weights differentiated by the given coordinates of the grid."""
        orders = [coordinates.count(self.ndim - 1 - a) for a in range(self.ndim)]
        return self.product([(axis.w, axis.w1, axis.w2)[o] for axis, o in zip(self.axes, orders, strict=True)])

    @cached_property
    def weights(self):
        return self.derivative()

    @cached_property
    def slopes(self):
        """(P, ndim, ...)"""
        return np.stack([self.derivative(a) for a in range(self.ndim)], axis=1)

    @cached_property
    def curvatures(self):
        """(P, ndim, ndim, ...)"""
        rows = [[self.derivative(a, b) for b in range(self.ndim)] for a in range(self.ndim)]
        return np.stack([np.stack(row, axis=1) for row in rows], axis=1)

    def by_parameter(self, a):
        """Weights differentiated by each parameter of the kernel of spatial axis a: a list."""
        vectors = [axis.w for axis in self.axes]
        wt = self.axes[a].wt
        return [self.product([*vectors[:a], wt[..., j], *vectors[a + 1 :]]) for j in range(wt.shape[-1])]

    def mask(self, *coordinates):
        """Weight inside the image (P,), cut to [0, 1], or its derivative by the given coordinates."""
        orders = [coordinates.count(self.ndim - 1 - a) for a in range(self.ndim)]
        shares = [(axis.share, axis.share1, axis.share2)[o] for axis, o in zip(self.axes, orders, strict=True)]
        return self.clipped(np.prod(shares, axis=0)) if coordinates else self.clipped(np.prod(shares, axis=0), True)

    def mask_by_parameter(self, a):
        """The same differentiated by each parameter of the kernel of spatial axis a: (P, parameters)."""
        others = np.prod([axis.share for b, axis in enumerate(self.axes) if b != a] or [1.0], axis=0)
        moved = self.axes[a].share_t * np.reshape(others, (-1, 1))
        return self.clipped(moved.T).T

    def clipped(self, values, itself=False):
        """The weight itself, cut; or a derivative of it, 0 where it is cut."""
        whole = np.prod([axis.share for axis in self.axes], axis=0)
        if itself:
            return np.where(self.cut, 0.0, np.clip(whole, 0, 1))
        return np.where(self.cut | (whole < 0) | (whole > 1), 0.0, values)

    def mask_slopes(self):
        return np.stack([self.mask(a) for a in range(self.ndim)], axis=1)

    def mask_curvatures(self):
        rows = [[self.mask(a, b) for b in range(self.ndim)] for a in range(self.ndim)]
        return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def boundaries_of(padding_mode, align_corners, ndim):
    reflection = "mirror" if align_corners else "symmetric"
    return [reflection if padding == "reflection" else padding for padding in per_axis(padding_mode, ndim)]


def frozen(option):
    """An option as a key: lists, which say "per axis", marked as such."""
    return ("per axis", *option) if isinstance(option, list) else option


@lru_cache(maxsize=64)
def _samples(points, size, options):
    thawed = {
        key: list(value[1:]) if isinstance(value, tuple) and value[0] == "per axis" else value for key, value in options
    }
    return Samples(np.frombuffer(points).reshape(-1, len(size)), size, **thawed)


def samples_of(points, size, options):
    """Weights of points, kept for the next operation on the same ones."""
    given = {key: frozen(value) for key, value in options.items()}
    points = np.ascontiguousarray(points, np.float64)
    return _samples(points.tobytes(), tuple(map(int, size)), tuple(sorted(given.items())))


# ---------------------------------------------------------------------------------------------
# Images


def extended(image, fill_value, boundaries):
    """Image (C, ...) with a slot along each axis for what is read outside: the fill, or 0 beyond any "zeros"."""
    fill = np.broadcast_to(np.asarray(fill_value, np.float64), len(image))
    result = np.zeros([len(image)] + [n + 1 for n in image.shape[1:]])
    result += fill.reshape(-1, *(1,) * len(boundaries))
    for a, boundary in enumerate(boundaries):
        if boundary == "zeros":
            np.moveaxis(result, a + 1, 0)[-1] = 0
    result[pixels(len(boundaries))] = image
    return result


def pixels(ndim):
    """The pixels of an extended image, without the slots outside."""
    return (..., *[slice(None, -1)] * ndim)


def filled_slots(size, boundaries):
    """Where an extended image holds the fill value: 1, else 0."""
    return extended(np.zeros((1, *size)), 1.0, boundaries)[0]


def flat(a, ndim):
    """The last ndim axes as one."""
    return a.reshape(*a.shape[: a.ndim - ndim], math.prod(a.shape[a.ndim - ndim :]))


def broadcast(input, grid):
    """Input (N, C, ...) and grid (N, P, ndim) of one batch size."""
    n = len(grid) if len(input) == 1 else len(input)
    ndim = grid.shape[-1]
    return (
        np.broadcast_to(np.asarray(input, np.float64), (n, *input.shape[1:])),
        np.broadcast_to(np.asarray(grid, np.float64).reshape(len(grid), -1, ndim), (n, grid[:1].size // ndim, ndim)),
    )


def shared(gradient, primal):
    """An array of batch size 1 receives the sum of the gradients."""
    gradient = gradient.sum(axis=0, keepdims=True) if len(primal) == 1 else gradient
    return gradient.reshape(primal.shape)


# ---------------------------------------------------------------------------------------------
# Coefficients of splines


def spline_matrix(n, order, boundary):
    """A[i, j]: weights of the taps of position i that read pixel j."""
    matrix = np.zeros((n, n + 1))
    kernel = kernel_of(("bspline", order))
    for i in range(n):
        for tap, weight, *_ in zip(*taps_at(float(i), kernel, "right", 0.0), strict=True):
            matrix[i, slot(tap, n, boundary)] += weight
    return matrix[:, :n]


def _solve(u, order, padding_mode, axes, transposed):
    """Along the spatial axes, whose first is axis 2 of u."""
    result = np.array(u, np.float64)
    ndim = result.ndim - 2
    paddings = per_axis(padding_mode, ndim)
    for a in range(ndim) if axes is None else axes:
        boundary = "zeros" if paddings[a] == "constant" else paddings[a]
        matrix = spline_matrix(result.shape[2 + a], order, boundary)
        moved = np.moveaxis(result, 2 + a, -1)
        solved = np.linalg.solve(matrix.T if transposed else matrix, moved.reshape(-1, moved.shape[-1]).T).T
        result = np.moveaxis(solved.reshape(moved.shape), -1, 2 + a)
    return result


def spline_filter(input, order, padding_mode="mirror", axes=None):
    return _solve(input, order, padding_mode, axes, False)


def spline_filter_vjp(grad_output, order, padding_mode="mirror", axes=None):
    return _solve(grad_output, order, padding_mode, axes, True)


def spline_filter_jvp(d_input, order, padding_mode="mirror", axes=None):
    return _solve(d_input, order, padding_mode, axes, False)


def _filtered(a, options, transposed=False):
    """Images (N, C, ...) as the sampler reads them: coefficients along the axes of kernels that ask for it."""
    ndim = a.ndim - 2
    modes = per_axis(options.get("mode", "linear"), ndim)
    boundaries = boundaries_of(options.get("padding_mode", "zeros"), options.get("align_corners", False), ndim)
    for axis, mode in enumerate(modes):
        if mode[0] == "bspline" and len(mode) > 2 and mode[2] and mode[1] > 1:
            a = _solve(a, mode[1], list(boundaries), [axis], transposed)
    return a


# ---------------------------------------------------------------------------------------------
# Operations. Options beside: mode, padding_mode, align_corners, coords, subgradient, cutoff, epsilon.


class Problem:
    """Images, points and their weights, batch entry by batch entry, with the image axes as one."""

    def __init__(self, input, grid, fill_value, options):
        images, points = broadcast(input, grid)
        self.ndim = grid.shape[-1]
        self.size = input.shape[2:]
        self.options = options
        self.fill_value = fill_value
        self.boundaries = boundaries_of(
            options.get("padding_mode", "zeros"), options.get("align_corners", False), self.ndim
        )
        self.samples = [samples_of(p, self.size, options) for p in points]
        self.images = self.extend(input, fill_value, len(images))
        self.shape = (len(images), input.shape[1], *grid.shape[1:-1])

    def extend(self, input, fill_value, n):
        """Input as it is read, with its slots outside: (n, C, everything)."""
        images = _filtered(np.asarray(input, np.float64), self.options)
        rows = [flat(extended(image, fill_value, self.boundaries), self.ndim) for image in images]
        return np.broadcast_to(np.array(rows), (n, *rows[0].shape)) if rows else np.zeros((n, 0, 0))

    def weights(self):
        return [flat(s.weights, self.ndim) for s in self.samples]

    def slopes(self):
        return [flat(s.slopes, self.ndim) for s in self.samples]

    def curvatures(self):
        return [flat(s.curvatures, self.ndim) for s in self.samples]

    def cotangents(self, grad_output, *last):
        """(N, C, P, ...), and 0 for points that are cut, which pass nothing on, not even NaN."""
        cotangents = np.array(grad_output, np.float64).reshape(*self.shape[:2], math.prod(self.shape[2:]), *last)
        for g, s in zip(cotangents, self.samples, strict=True):
            g[:, s.cut] = 0
        return cotangents

    def to_input(self, gradients, input):
        """Gradients (N, C, everything) to the extended images, as one to the input."""
        whole = gradients.reshape(*gradients.shape[:2], *[n + 1 for n in self.size])
        return shared(_filtered(whole[pixels(self.ndim)], self.options, transposed=True), input)


def grid_sample(input, grid, fill_value=0.0, **options):
    problem = Problem(input, grid, fill_value, options)
    fill = np.broadcast_to(np.asarray(fill_value, np.float64), input.shape[1])
    output = [
        np.einsum("pe,ce->cp", w, u) + np.outer(fill, s.cut)
        for w, u, s in zip(problem.weights(), problem.images, problem.samples, strict=True)
    ]
    return np.array(output).reshape(problem.shape)


def grid_sample_mask(input, grid, **options):
    """The weight of the pixels in the image (N, ...), cut to [0, 1]."""
    problem = Problem(input, grid, 0.0, options)
    return np.array([s.mask() for s in problem.samples]).reshape(problem.shape[0], *problem.shape[2:])


def grid_sample_mask_vjp(grad_mask, input, grid, **options):
    """Gradients to the grid and to the parameters of the kernels, a list with one array for each
    spatial axis; the mask does not depend on the image."""
    problem = Problem(input, grid, 0.0, options)
    cotangents = np.asarray(grad_mask, np.float64).reshape(problem.shape[0], math.prod(problem.shape[2:]), 1)
    to_grid = np.array([g * s.mask_slopes() for g, s in zip(cotangents, problem.samples, strict=True)])
    to_kernels = [
        sum((g * s.mask_by_parameter(a)).sum(axis=0) for g, s in zip(cotangents, problem.samples, strict=True))
        for a in range(problem.ndim)
    ]
    return shared(to_grid, grid), to_kernels


def grid_sample_mask_jvp(input, grid, d_grid, d_kernel=None, **options):
    problem = Problem(input, grid, 0.0, options)
    _, tangents = broadcast(input, d_grid)
    rows = []
    for s, t in zip(problem.samples, tangents, strict=True):
        row = (s.mask_slopes() * t).sum(axis=-1)
        for a, d_parameters in enumerate(per_axis(d_kernel, problem.ndim)):
            if d_parameters is not None:
                row = row + s.mask_by_parameter(a) @ np.atleast_1d(d_parameters)
        rows.append(row)
    return np.array(rows).reshape(problem.shape[0], *problem.shape[2:])


def grid_sample_mask_vjp2(gg_grid, grad_mask, input, grid, **options):
    """The VJP of (grad_mask, grid) -> the gradient to the grid."""
    problem = Problem(input, grid, 0.0, options)
    _, tangents = broadcast(input, gg_grid)
    cotangents = np.asarray(grad_mask, np.float64).reshape(problem.shape[0], math.prod(problem.shape[2:]))
    to_grid = [
        np.einsum("p,pab,pb->pa", g, s.mask_curvatures(), t)
        for g, s, t in zip(cotangents, problem.samples, tangents, strict=True)
    ]
    return grid_sample_mask_jvp(input, grid, gg_grid, **options), shared(np.array(to_grid), grid)


def grid_sample_vjp(grad_output, input, grid, fill_value=0.0, wrt=("input", "grid"), **options):
    """Gradients to input and grid, and if named in `wrt` to the fill value, (C,), and to the
    parameters of the kernels: a list, one array for each spatial axis."""
    problem = Problem(input, grid, fill_value, options)
    cotangents = problem.cotangents(grad_output)
    grad_images = np.array([np.einsum("cp,pe->ce", g, w) for g, w in zip(cotangents, problem.weights(), strict=True)])
    grad_points = [
        np.einsum("cp,pde,ce->pd", g, d, u)
        for g, d, u in zip(cotangents, problem.slopes(), problem.images, strict=True)
    ]
    results = [problem.to_input(grad_images, input), shared(np.array(grad_points), grid)]
    if "fill_value" in wrt:
        slots = filled_slots(problem.size, problem.boundaries).ravel()
        grad_fill = np.einsum("nce,e->c", grad_images, slots)
        for g, s in zip(np.asarray(grad_output, np.float64).reshape(cotangents.shape), problem.samples, strict=True):
            grad_fill += g[:, s.cut].sum(axis=1)
        results.append(grad_fill)
    if "kernel" in wrt:
        results.append([grad_parameters(problem, cotangents, a) for a in range(problem.ndim)])
    return tuple(results)


def grad_parameters(problem, cotangents, a):
    total = 0.0
    for g, u, s in zip(cotangents, problem.images, problem.samples, strict=True):
        moved = [flat(w, problem.ndim) for w in s.by_parameter(a)]
        total = total + np.array([np.einsum("cp,pe,ce->", g, w, u) for w in moved])
    return total


def grid_sample_jvp(input, grid, d_input, d_grid, fill_value=0.0, d_fill_value=None, d_kernel=None, **options):
    """`d_kernel` is the tangent of the parameters of all axes, or a list with one for each axis."""
    problem = Problem(input, grid, fill_value, options)
    n, channels = problem.shape[:2]
    d_input = np.zeros(input.shape) if d_input is None else d_input
    d_grid = np.zeros(grid.shape) if d_grid is None else d_grid
    d_fill = np.broadcast_to(np.asarray(0.0 if d_fill_value is None else d_fill_value, np.float64), channels)
    _, d_points = broadcast(input, d_grid)
    d_images = problem.extend(d_input, d_fill, n)
    output = []
    for w, d, s, u, du, dp in zip(
        problem.weights(), problem.slopes(), problem.samples, problem.images, d_images, d_points, strict=True
    ):
        row = np.einsum("pe,ce->cp", w, du) + np.einsum("pde,pd,ce->cp", d, dp, u) + np.outer(d_fill, s.cut)
        for a, d_parameters in enumerate(per_axis(d_kernel, problem.ndim)):
            if d_parameters is not None:
                for t, moved in zip(np.atleast_1d(d_parameters), s.by_parameter(a), strict=True):
                    row = row + t * np.einsum("pe,ce->cp", flat(moved, problem.ndim), u)
        output.append(row)
    return np.array(output).reshape(problem.shape)


def grid_sample_vjp2(gg_input, gg_grid, grad_output, input, grid, fill_value=0.0, **options):
    """The VJP of (grad_output, input, grid) -> (grad_input, grad_grid)."""
    problem = Problem(input, grid, fill_value, options)
    gg_input = np.zeros(input.shape) if gg_input is None else gg_input
    gg_grid = np.zeros(grid.shape) if gg_grid is None else gg_grid
    gg_images = problem.extend(gg_input, 0.0, problem.shape[0])
    _, gg_points = broadcast(input, gg_grid)
    cotangents = problem.cotangents(grad_output)
    grad_images, grad_points = [], []
    for g, d, dd, u, gu, gp in zip(
        cotangents, problem.slopes(), problem.curvatures(), problem.images, gg_images, gg_points, strict=True
    ):
        grad_images.append(np.einsum("cp,pa,pae->ce", g, gp, d))
        grad_points.append(
            np.einsum("cp,pae,ce->pa", g, d, gu) + np.einsum("cp,pabe,pb,ce->pa", g, dd, gp, u, optimize=True)
        )
    return (
        grid_sample_jvp(input, grid, gg_input, gg_grid, fill_value, **options),
        problem.to_input(np.array(grad_images), input),
        shared(np.array(grad_points), grid),
    )


def grid_push(values, grid, size, **options):
    """The adjoint of sampling in the image: each value goes to the taps of its point."""
    values, points = pushed(values, grid)
    zeros = np.zeros((len(values), values.shape[1], *size))
    return grid_sample_vjp(values, zeros, points, **options)[0]


def pushed(values, grid):
    """Values and grid of one batch size."""
    n = len(grid) if len(values) == 1 else len(values)
    values, grid = np.asarray(values, np.float64), np.asarray(grid, np.float64)
    return np.broadcast_to(values, (n, *values.shape[1:])), np.broadcast_to(grid, (n, *grid.shape[1:]))


def grid_push_vjp(grad_output, values, grid, size, **options):
    """Values are a cotangent of sampling, and `grad_output` is then an image."""
    whole, points = pushed(values, grid)
    grad_values = grid_sample(grad_output, points, **options)
    grad_grid = grid_sample_vjp(whole, grad_output, points, **options)[1]
    return shared(grad_values, values), shared(grad_grid, grid)


def grid_push_jvp(values, grid, d_values, d_grid, size, **options):
    result = 0.0
    whole, points = pushed(values, grid)
    if d_values is not None:
        result = result + grid_push(np.broadcast_to(d_values, whole.shape), points, size, **options)
    if d_grid is not None:
        problem = Problem(np.zeros((len(whole), whole.shape[1], *size)), points, 0.0, options)
        _, d_points = broadcast(whole, d_grid)
        rows = [
            np.einsum("cp,pd,pde->ce", g, t, d)
            for g, t, d in zip(problem.cotangents(whole), d_points, problem.slopes(), strict=True)
        ]
        result = result + problem.to_input(np.array(rows), np.zeros((len(whole), whole.shape[1], *size)))
    return result if d_values is not None or d_grid is not None else np.zeros((len(whole), whole.shape[1], *size))


def grid_count(grid, size, **options):
    return grid_push(np.ones((len(grid), 1, *grid.shape[1:-1])), grid, size, **options)


def grid_count_vjp(grad_output, grid, size, **options):
    return (grid_push_vjp(grad_output, np.ones((len(grid), 1, *grid.shape[1:-1])), grid, size, **options)[1],)


def grid_count_jvp(grid, d_grid, size, **options):
    return grid_push_jvp(np.ones((len(grid), 1, *grid.shape[1:-1])), grid, None, d_grid, size, **options)


def grid_gradient(input, grid, fill_value=0.0, **options):
    """Derivatives of the samples to their own coordinates (N, C, ..., ndim)."""
    problem = Problem(input, grid, fill_value, options)
    rows = [np.einsum("pde,ce->cpd", d, u) for d, u in zip(problem.slopes(), problem.images, strict=True)]
    return np.array(rows).reshape(*problem.shape, problem.ndim)


def grid_gradient_vjp(grad_output, input, grid, fill_value=0.0, **options):
    problem = Problem(input, grid, fill_value, options)
    cotangents = problem.cotangents(grad_output, problem.ndim)
    grad_images = [np.einsum("cpa,pae->ce", g, d) for g, d in zip(cotangents, problem.slopes(), strict=True)]
    grad_points = [
        np.einsum("cpa,pabe,ce->pb", g, dd, u, optimize=True)
        for g, dd, u in zip(cotangents, problem.curvatures(), problem.images, strict=True)
    ]
    return problem.to_input(np.array(grad_images), input), shared(np.array(grad_points), grid)


def grid_gradient_jvp(input, grid, d_input, d_grid, fill_value=0.0, **options):
    problem = Problem(input, grid, fill_value, options)
    d_input = np.zeros(input.shape) if d_input is None else d_input
    d_grid = np.zeros(grid.shape) if d_grid is None else d_grid
    d_images = problem.extend(d_input, 0.0, problem.shape[0])
    _, d_points = broadcast(input, d_grid)
    rows = [
        np.einsum("pae,ce->cpa", d, du) + np.einsum("pabe,pb,ce->cpa", dd, dp, u, optimize=True)
        for d, dd, u, du, dp in zip(
            problem.slopes(), problem.curvatures(), problem.images, d_images, d_points, strict=True
        )
    ]
    return np.array(rows).reshape(*problem.shape, problem.ndim)


# ---------------------------------------------------------------------------------------------
# The affine grid


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


# ---------------------------------------------------------------------------------------------
# Warps: coordinates from matrices. Options beside those of sampling: projective, min_denominator, cull_behind.


@lru_cache
def pixel_targets(size, align_corners=False, coords="normalized"):
    """Homogeneous coordinates (P, ndim + 1) of the pixels of an output, (x[, y[, z]], 1), one after the other."""
    rows = []
    for index in np.ndindex(*size):
        row = []
        for j, m in zip(index[::-1], size[::-1], strict=True):
            if coords == "pixel":
                row.append(float(j))
            elif align_corners:
                row.append(2 * j / (m - 1) - 1 if m > 1 else 0.0)
            else:
                row.append((2 * j + 1) / m - 1)
        rows.append([*row, 1.0])
    points = np.array(rows).reshape(-1, len(size) + 1)
    points.flags.writeable = False  # all who ask have the same
    return points


class Map:
    """Where matrices (N, *K, rows, ndim + 1) send the pixels of an output, and the derivatives to them.

    A point that is hidden, too near the horizon or behind it, has the coordinates NaN and no derivative.
    """

    def __init__(
        self,
        theta,
        size,
        align_corners=False,
        coords="normalized",
        projective=False,
        min_denominator=None,
        cull_behind=False,
    ):
        self.theta, self.size, self.ndim = theta, tuple(size), len(size)
        self.targets = pixel_targets(self.size, align_corners, coords)
        self.projective = projective
        self.q = np.einsum("...ab,pb->...pa", np.asarray(theta, np.float64), self.targets)
        self.points = self.q
        if projective:
            if min_denominator is None:
                min_denominator = 1e-8 if theta.dtype == np.float64 else 1e-6
            denominator = self.q[..., 2]
            hidden = ~(np.abs(denominator) >= min_denominator)  # NaN is
            if cull_behind:
                hidden |= ~(denominator > 0)
            self.denominator = np.where(hidden, np.nan, denominator)
            self.points = self.q[..., :2] / self.denominator[..., None]
        self.seen = np.isfinite(self.points).all(axis=-1)

    def grid(self):
        """(N, *K, *size, ndim)"""
        return self.points.reshape(*self.theta.shape[:-2], *self.size, self.ndim)

    def vjp(self, grad_grid):
        """The gradient to the matrices: sums of r (x, y, 1) over the points."""
        g = np.asarray(grad_grid, np.float64).reshape(self.points.shape)
        total = np.zeros(self.theta.shape)
        for at in np.ndindex(*self.theta.shape[:-2]):
            for p, target in enumerate(self.targets):
                if not self.seen[at][p]:
                    continue
                r = g[at][p]
                if self.projective:
                    (gx, gy), (x, y), d = r, self.points[at][p], self.denominator[at][p]
                    r = np.array([gx / d, gy / d, -(gx * x + gy * y) / d])
                total[at] += np.outer(r, target)
        return total

    def jvp(self, d_theta):
        """How the points move with the matrices, 0 for those that are hidden."""
        dq = np.einsum("...ab,pb->...pa", np.asarray(d_theta, np.float64), self.targets)
        moved = dq
        if self.projective:
            moved = (dq[..., :2] - self.points * dq[..., 2:]) / self.denominator[..., None]
        return np.where(self.seen[..., None], moved, 0.0).reshape(*self.theta.shape[:-2], *self.size, self.ndim)


MAPS = ("projective", "min_denominator", "cull_behind")


def map_and_options(theta, size, options):
    """The map of a warp, and the options of the sampler after it."""
    of_map = {name: options[name] for name in (*MAPS, "align_corners", "coords") if name in options}
    with np.errstate(all="ignore"):  # matrices that are not finite
        return Map(theta, size, **of_map), {name: value for name, value in options.items() if name not in MAPS}


def warp(input, theta, size, fill_value=0.0, **options):
    points, sampling = map_and_options(theta, size, options)
    return grid_sample(input, points.grid(), fill_value, **sampling)


def warp_mask(input, theta, size, **options):
    points, sampling = map_and_options(theta, size, options)
    return grid_sample_mask(input, points.grid(), **sampling)


def warp_vjp(grad_output, input, theta, size, fill_value=0.0, wrt=("input", "theta"), grad_mask=None, **options):
    """Gradients to input and theta, and if named in `wrt` to the fill value and the kernels, as `grid_sample_vjp`."""
    points, sampling = map_and_options(theta, size, options)
    grid = points.grid()
    grad_input, grad_grid, *others = grid_sample_vjp(grad_output, input, grid, fill_value, wrt, **sampling)
    if grad_mask is not None:
        by_mask, kernels = grid_sample_mask_vjp(grad_mask, input, grid, **sampling)
        grad_grid = grad_grid + by_mask
        if "kernel" in wrt:
            others[-1] = [a + b for a, b in zip(others[-1], kernels, strict=True)]
    return grad_input, points.vjp(grad_grid), *others


def warp_jvp(input, theta, d_input, d_theta, size, fill_value=0.0, d_fill_value=None, d_kernel=None, **options):
    points, sampling = map_and_options(theta, size, options)
    d_grid = None if d_theta is None else points.jvp(d_theta)
    return grid_sample_jvp(input, points.grid(), d_input, d_grid, fill_value, d_fill_value, d_kernel, **sampling)


def warp_mask_jvp(input, theta, d_theta, size, d_kernel=None, **options):
    points, sampling = map_and_options(theta, size, options)
    return grid_sample_mask_jvp(input, points.grid(), points.jvp(d_theta), d_kernel, **sampling)


# ---------------------------------------------------------------------------------------------
# Projections along the depth of a warped volume (N, C, *K, D, H, W)


def planes(volume):
    return [volume[..., plane, :, :] for plane in range(volume.shape[-3])]


def shares(volume, reduce):
    """Of every plane, the derivative of the projection to it."""
    found = planes(volume)
    if reduce == "sum":
        return [np.ones(plane.shape) for plane in found]
    if reduce == "mean":
        return [np.full(plane.shape, 1 / len(found)) for plane in found]
    first = np.zeros(found[0].shape, int)  # the first plane that attains the maximum, which NaN is
    best = found[0].copy()
    for at, plane in enumerate(found[1:], 1):
        larger = ~np.isnan(best) & (np.isnan(plane) | (plane > best))
        first[larger], best[larger] = at, plane[larger]
    return [(first == at) * 1.0 for at in range(len(found))]


def projected(volume, weights):
    """Sum of the planes, each by its weight; what has none adds nothing, not even NaN."""
    total = np.zeros((*volume.shape[:-3], *volume.shape[-2:]))
    for plane, weight in zip(planes(volume), weights, strict=True):
        total += np.where(weight == 0, 0.0, plane * weight)
    return total


def warp_project(input, theta, size, reduce="sum", fill_value=0.0, **options):
    volume = warp(input, theta, size, fill_value, **options)
    return projected(volume, shares(volume, reduce))


def warp_project_vjp(grad_output, input, theta, size, reduce="sum", fill_value=0.0, **options):
    volume = warp(input, theta, size, fill_value, **options)
    g = np.asarray(grad_output, np.float64)
    grad_volume = np.zeros(volume.shape)
    for at, weight in enumerate(shares(volume, reduce)):
        grad_volume[..., at, :, :] = np.where(weight == 0, 0.0, weight * g)
    return warp_vjp(grad_volume, input, theta, size, fill_value, **options)


def warp_project_jvp(input, theta, d_input, d_theta, size, reduce="sum", fill_value=0.0, **options):
    volume = warp(input, theta, size, fill_value, **options)
    return projected(warp_jvp(input, theta, d_input, d_theta, size, fill_value, **options), shares(volume, reduce))
