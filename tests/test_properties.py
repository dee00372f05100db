"""Whatever the shapes, strides, types and numbers: the oracle's answer, and no harm done."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import oracle
from conftest import CELLS, EVERY_PADDING_MODE, KERNELS, SUBGRADIENTS, kernel_for
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from warps import WARPS, matrices

import pystn

# The same examples at every run: a failure is then of the change at hand.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

ordinary = st.floats(-4, 4)
anything = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [-1.0, 1.0, 0.0, 0.5, 1e300, -1e300, 5e-324]
)
floats = st.sampled_from([np.float32, np.float64])


@st.composite
def strided(draw, shape, elements, dtype):
    """An array of a shape, with memory in any order, direction and step."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in shape]
    stored = [max(shape[a] * abs(steps[a]), 1) if shape[a] else 0 for a in order]
    memory = np.zeros(stored, dtype)
    view = memory.transpose(np.argsort(order))
    view = view[tuple(slice(None, None, step) for step in steps)]
    view = view[tuple(slice(0, n) for n in shape)]
    with np.errstate(over="ignore"):
        view[...] = draw(hnp.arrays(np.float64, shape, elements=elements)).astype(dtype)
    return view


@st.composite
def problems(draw, coordinates, image=floats, grid=floats):
    batch = draw(st.integers(1, 3))
    shared = draw(st.sampled_from(["none", "image", "grid"]))
    channels, height, width = draw(st.integers(0, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    image_dtype, grid_dtype = draw(image), draw(grid)
    options = dict(draw(st.sampled_from(CELLS)), subgradient=draw(st.sampled_from(SUBGRADIENTS)))
    layout = draw(st.sampled_from([1, -1]))
    n_image, n_grid = 1 if shared == "image" else batch, 1 if shared == "grid" else batch

    def laid_out(n, middle):
        return (n, channels, *middle) if layout == 1 else (n, *middle, channels)

    return (
        draw(strided(laid_out(n_image, (height, width)), ordinary, image_dtype)),
        draw(strided((n_grid, *shape, 2), coordinates, grid_dtype)),
        draw(strided(laid_out(batch, shape), ordinary, image_dtype)),
        layout,
        options,
    )


def channels_first(a, layout):
    return np.moveaxis(a, layout, 1)


@settings(max_examples=150)
@given(problems(ordinary, image=st.just(np.float64)))
def test_equals_the_oracle(problem):
    image, grid, cotangent, layout, options = problem
    first = channels_first(image, layout)
    value = channels_first(pystn.grid_sample(image, grid, channel_axis=layout, **options), layout)
    np.testing.assert_allclose(value, oracle.grid_sample(first, grid, **options), rtol=0, atol=1e-11)
    gradients = pystn.grid_sample_vjp(cotangent, image, grid, channel_axis=layout, **options)
    expected = oracle.grid_sample_vjp(channels_first(cotangent, layout), first, grid, **options)
    np.testing.assert_allclose(channels_first(gradients[0], layout), expected[0], rtol=0, atol=1e-10)
    tolerance = 1e-10 if grid.dtype == np.float64 else 1e-4
    np.testing.assert_allclose(gradients[1], expected[1], rtol=tolerance, atol=tolerance)


@settings(max_examples=150)
@given(problems(anything))
def test_any_coordinates_give_finite_results(problem):
    """Values within the image's range, gradients finite, jvp and vjp adjoint."""
    image, grid, cotangent, layout, options = problem
    value = pystn.grid_sample(image, grid, channel_axis=layout, **options)
    assert np.isfinite(value).all()
    largest = np.abs(image).max(initial=0)
    assert np.abs(value).max(initial=0) <= largest * (1 + 1e-5)
    grad_image, grad_grid = pystn.grid_sample_vjp(cotangent, image, grid, channel_axis=layout, **options)
    assert np.isfinite(grad_image).all()
    assert np.isfinite(grad_grid).all()
    tangents = np.ones_like(image), np.ones_like(grid)
    pushed = pystn.grid_sample_jvp(image, grid, *tangents, channel_axis=layout, **options)
    terms = (pushed * cotangent).astype(np.float64)
    left, right = terms.sum(), grad_image.astype(np.float64).sum() + grad_grid.astype(np.float64).sum()
    single = np.float32 in (image.dtype, grid.dtype)
    scale = 1 + np.abs(grad_image).sum(dtype=float) + np.abs(grad_grid).sum(dtype=float) + np.abs(terms).sum()
    assert abs(left - right) <= (1e-4 if single else 1e-11) * scale


@settings(max_examples=60)
@given(st.data(), st.sampled_from([2, 3]), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.booleans(), floats)
def test_affine_grid_equals_the_oracle(data, ndim, leading, align_corners, dtype):
    size = tuple(data.draw(st.lists(st.integers(0, 20), min_size=ndim, max_size=ndim)))
    theta = data.draw(strided((*leading, ndim, ndim + 1), ordinary, dtype))
    cotangent = data.draw(strided((*leading, *size, ndim), ordinary, dtype))
    assume(cotangent.size < 5000)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    grid = pystn.affine_grid(theta, size, align_corners)
    np.testing.assert_allclose(grid, oracle.affine_grid(theta, size, align_corners), rtol=0, atol=20 * tolerance)
    (grad,) = pystn.affine_grid_vjp(cotangent, theta, size, align_corners)
    expected = oracle.affine_grid_vjp(cotangent, theta, size, align_corners)
    np.testing.assert_allclose(grad, expected, rtol=tolerance, atol=tolerance * 100)


@st.composite
def warps(draw):
    """float32 images large enough for tiles, and pixel coordinates: smooth, scattered, or on the lattice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(8, 20)), draw(st.integers(8, 20))
    shape = tuple(draw(st.lists(st.integers(1, 21), min_size=1, max_size=2)))
    batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["smooth", "scattered", "lattice"]))
    if kind == "smooth":
        steps = np.stack(np.meshgrid(*map(np.arange, (*shape, 1)[:2]), indexing="ij"), -1).reshape(*shape, 2)
        grid = steps @ rng.normal(0, 0.7, (2, 2)) + rng.uniform(-5, 25, 2)
    else:
        grid = rng.uniform(-30, 50, (*shape, 2))
    if kind == "lattice":
        grid = np.rint(2 * grid) / 2
    spoiled = rng.random(grid.shape) < draw(st.sampled_from([0, 0, 0.1]))
    grid[spoiled] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0], spoiled.sum())
    grid = np.repeat(grid[None], batch, axis=0).astype(np.float32)
    image = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    cotangent = rng.standard_normal((batch, channels, *shape)).astype(np.float32)
    if draw(st.booleans()):  # rows and channels in the other order, as views of larger arrays
        image = np.pad(image, ((0, 0), (0, 0), (0, 0), (3, 2)))[..., 3:-2][:, ::-1, ::-1]
        grid = np.pad(grid, [(0, 0)] * (grid.ndim - 1) + [(1, 0)])[..., 1:]
    options = {
        "padding_mode": draw(st.sampled_from(["zeros", "border"])),  # under which float32 positions are exact
        "subgradient": draw(st.sampled_from(SUBGRADIENTS)),
        "mode": draw(st.sampled_from(["linear", "linear", "nearest"])),
        "coords": "pixel",
    }
    return image, grid, cotangent, options


@settings(max_examples=150)
@given(warps())
def test_float32_equals_the_oracle_to_a_few_roundings(problem):
    image, grid, cotangent, options = problem
    eps = np.finfo(np.float32).eps
    value = pystn.grid_sample(image, grid, **options)
    grad_image, grad_grid = pystn.grid_sample_vjp(cotangent, image, grid, **options)
    weights = abs(image), abs(cotangent)
    bound = 4 * eps * oracle.grid_sample(weights[0], grid, **options)
    assert (np.abs(value - oracle.grid_sample(image, grid, **options)) <= bound).all()
    expected = oracle.grid_sample_vjp(cotangent, image, grid, epsilon=eps, **options)
    terms = np.maximum(1, oracle.grid_sample_vjp(np.ones_like(cotangent), image, grid, **options)[0])
    bound = 4 * eps * np.sqrt(terms) * oracle.grid_sample_vjp(weights[1], image, grid, **options)[0]
    assert (np.abs(grad_image - expected[0]) <= bound + 1e-38).all()
    bound = 8 * eps * 2 * np.abs(image).max() * weights[1].sum(axis=1)[..., None]
    assert (np.abs(grad_grid - expected[1]) <= bound).all()


# ---------------------------------------------------------------------------------------------
# Every operation, whatever it is given

DTYPES = ["float16", "float32", "float64", "complex64", "complex128", "uint8", "int16", "uint16"]
try:
    import ml_dtypes

    DTYPES.append(ml_dtypes.bfloat16)
except ImportError:  # one type less
    pass
NUMBERS = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45, 5e-324, -0.0, 0.0, 1.0, -1.0, 0.5, 2.5]
NUMBERS += [2.0**31, -(2.0**31), 2.0**31 - 1, 2.0**63, -(2.0**63), 1e300, -1e300, 1e15, 16777217.0]
BOUND = {"f2": 1e-2, "f4": 1e-3, "f8": 1e-9}  # of results of different strides, beside their size


def real_dtype(dtype):
    return np.empty(0, dtype).real.dtype


def scattered(rng, a, repeated=True, aligned=True):
    """The numbers of an array, some of them repeated, in memory of any order, direction, step and alignment."""
    if not aligned and a.size:
        packed = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        packed[...] = a
        return packed
    for axis in range(a.ndim):
        if repeated and a.shape[axis] and rng.random() < 0.15:
            a = np.broadcast_to(a[(slice(None),) * axis + (slice(0, 1),)], a.shape)
    view, _ = guarded(rng, a.shape, a.dtype)
    zero = [stride == 0 for stride in a.strides]
    if any(zero):
        view = view[tuple(slice(0, 1) if z else slice(None) for z in zero)]
        view[...] = a[tuple(slice(0, 1) if z else slice(None) for z in zero)]
        return np.broadcast_to(view, a.shape)
    view[...] = a
    return view


def guarded(rng, shape, dtype):
    """An array in larger memory, and a function that says whether the rest of it is as it was."""
    order = rng.permutation(len(shape))
    steps = rng.choice([1, 1, 1, 2, 3, -1, -2], len(shape))
    stored = [shape[a] * abs(steps[a]) + 2 for a in order]
    memory = np.empty(stored, dtype)
    memory.view(np.uint8)[...] = 0x4B  # of every type a large number: what is left unwritten shows
    outside = np.ones(stored, bool)

    def inner(whole):
        whole = whole[(slice(1, -1),) * len(shape)].transpose(np.argsort(order))
        whole = whole[tuple(slice(None, None, step) for step in steps)]
        return whole[tuple(slice(0, n) for n in shape)]

    inner(outside)[...] = False
    before = memory[outside].tobytes()
    return inner(memory), lambda: memory[outside].tobytes() == before


@dataclass
class Trial:
    """One set of arrays and options, and calls of operations on them with all that is checked of each."""

    rng: np.random.Generator
    ndim: int
    size: tuple[int, ...]
    shape: tuple[int, ...]
    batches: tuple[int, int]  # of images or values, of grids
    channels: int
    dtype: np.dtype[Any]
    coordinate: np.dtype[Any]
    last: bool
    special: float  # share of coordinates that are no ordinary numbers
    options: dict[str, Any]
    sampling: dict[str, Any]  # options of those that sample
    read: dict[str, Any] = field(default_factory=dict)

    @property
    def batch(self):
        # One of the two may be 1, with any other.
        return self.batches[1] if self.batches[0] == 1 else self.batches[0]

    def laid_out(self, batch, middle, channels=None, *end):
        channels = self.channels if channels is None else channels
        return (batch, *middle, channels, *end) if self.last else (batch, channels, *middle, *end)

    def drawn(self, name, shape, dtype):
        dtype = np.dtype(dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            a = self.rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        elif name == "theta":
            a = self.rng.uniform(-1.5, 1.5, shape)
            a = np.where(self.rng.random(shape) < 0.2, np.rint(2 * a) / 2, a)
            if shape[-1] == shape[-2]:  # a homography, whose horizon is here and there in the output
                a[..., -1, :-1] *= 0.4
                a[..., -1, -1] += 1
            if self.options["coords"] == "pixel":
                a[..., -1] *= 4
            with np.errstate(over="ignore"):
                chosen = self.rng.choice(NUMBERS, shape)
                a = np.where(self.rng.random(shape) < self.special / shape[-1], chosen, a).astype(dtype)
        elif name == "grid":
            a = self.rng.uniform(-2, 2, shape)
            if self.options["coords"] == "pixel":
                a = a * 5 + 2
                a = np.where(self.rng.random(shape) < 0.3, np.rint(2 * a) / 2, a)
            with np.errstate(over="ignore"):
                chosen = self.rng.choice(NUMBERS, shape)
                a = np.where(self.rng.random(shape) < self.special, chosen, a).astype(dtype)
        else:
            a = self.rng.standard_normal(shape)
            a = (a + 1j * self.rng.standard_normal(shape) if dtype.kind == "c" else a).astype(dtype)
        view = scattered(self.rng, a, aligned=self.rng.random() < 0.85)
        self.read[name] = (view, view.tobytes())
        return view

    def finished(self, what):
        for name, (array, before) in self.read.items():
            assert array.tobytes() == before, f"{what} wrote its argument {name}"

    def checked(self, what, result, shape, dtype, finite=True):
        assert isinstance(result, np.ndarray), what
        assert result.shape == shape, what
        assert result.dtype == dtype, what
        wide = result.astype(np.complex128 if result.dtype.kind == "c" else np.float64)
        assert not finite or np.isfinite(wide).all(), f"{what} is not finite"
        return wide

    def call(self, function, arguments, expected, options, outs=None, finite=True):
        """Results of the shapes and dtypes expected; then the same into `out`, and nowhere else.

        `expected` is a pair for each result, of which the first `outs` are those of `out`: the one
        array itself if 0. Where not `finite`, numbers may overflow and are not looked at.
        """
        what = function.__name__
        results = function(*arguments, **options)
        results = results if isinstance(results, tuple) else (results,)
        assert len(results) == len(expected), what
        wide = [self.checked(what, r, *e, finite) for r, e in zip(results, expected, strict=True)]
        self.finished(what)
        if outs is None:
            return
        given = [guarded(self.rng, *e) for e in expected[: max(1, outs)]]
        arrays = tuple(view for view, _ in given)
        again = function(*arguments, **options, out=arrays if outs else arrays[0])
        again = again if isinstance(again, tuple) else (again,)
        for (view, untouched), r, w in zip(given, again, wide, strict=False):
            assert r is view, what
            assert untouched(), f"{what} wrote beside its out"
            if not finite:
                continue
            difference = np.abs(self.checked(f"{what} into out", r, r.shape, r.dtype) - w).max(initial=0)
            bound = 1 if r.dtype.kind in "iu" else BOUND[f"f{real_dtype(r.dtype).itemsize}"]
            assert difference <= bound * max(1, np.abs(w).max(initial=0)), f"{what} into out"
        self.finished(what)

    def sample(self):
        tangent = np.dtype(np.float32) if self.dtype.kind in "iu" else self.dtype
        grids = ((self.batches[1], *self.shape, self.ndim), self.coordinate)
        images = self.laid_out(self.batches[0], self.size)
        samples = self.laid_out(self.batch, self.shape)
        slopes = ((*samples, self.ndim), tangent)
        masks = ((self.batch, *self.shape), real_dtype(tangent))
        input, grid = self.drawn("input", images, self.dtype), self.drawn("grid", *grids)
        d_input, d_grid = self.drawn("d_input", images, tangent), self.drawn("d_grid", *grids)
        cotangent, d_mask = self.drawn("grad_output", samples, tangent), self.drawn("grad_mask", *masks)
        by_slope = self.drawn("grad_slope", *slopes)
        options = {**self.options, **self.sampling}
        masked = {**options, "return_mask": True}

        self.call(pystn.grid_sample, (input, grid), [(samples, self.dtype)], options, 0)
        self.call(pystn.grid_sample, (input, grid), [(samples, self.dtype), masks], masked, 0)
        pair = [(images, tangent), grids]
        self.call(pystn.grid_sample_vjp, (cotangent, input, grid), pair, options, 2)
        by_options = pystn.grid_sample_vjp(
            (cotangent, d_mask), input, grid, **masked, wrt=("input", "grid", "fill_value", *self.kernel_wrt())
        )
        for result, expected in zip(by_options, pair, strict=False):
            self.checked("grid_sample_vjp of everything", result, *expected)
        assert by_options[2].shape == np.shape(options["fill_value"])
        assert np.isfinite(by_options[2]).all()
        by_kernel = by_options[3] if len(by_options) > 3 else ()
        for found in by_kernel if isinstance(by_kernel, tuple) else (by_kernel,):
            assert found is None or np.isfinite(found).all()
        tangents = (input, grid, d_input, d_grid)
        self.call(pystn.grid_sample_jvp, tangents, [(samples, tangent)], options, 0)
        of_options = {"d_fill_value": 0.5, **masked}
        if self.kernel_wrt():
            of_options["d_kernel"] = by_kernel
        self.call(pystn.grid_sample_jvp, (input, grid, None, None), [(samples, tangent), masks], of_options)
        seconds = [(samples, tangent), *pair]
        self.call(pystn.grid_sample_vjp2, (d_input, d_grid, cotangent, input, grid), seconds, options)
        to_output, *rest = pystn.grid_sample_vjp2(d_input, d_grid, (cotangent, d_mask), input, grid, **masked)
        for result, expected in zip((*to_output, *rest), (seconds[0], masks, *pair), strict=True):
            self.checked("grid_sample_vjp2 with the mask", result, *expected)
        self.call(pystn.grid_gradient, (input, grid), [slopes], options, 0)
        self.call(pystn.grid_gradient_vjp, (by_slope, input, grid), pair, options, 2)
        self.call(pystn.grid_gradient_jvp, tangents, [slopes], options, 0)

    def kernel_wrt(self):
        modes = self.options["mode"] if isinstance(self.options["mode"], tuple) else (self.options["mode"],)
        return ("kernel",) * any(getattr(m, "parameter_shape", None) is not None for m in modes)

    def push(self, dtype):
        grids = ((self.batches[1], *self.shape, self.ndim), self.coordinate)
        shape = self.laid_out(self.batches[0], self.shape)
        image = (self.laid_out(self.batch, self.size), dtype)
        grid, d_grid = self.drawn("grid", *grids), self.drawn("d_grid", *grids)
        values, d_values = self.drawn("values", shape, dtype), self.drawn("d_values", shape, dtype)
        cotangent, size, options = self.drawn("grad_output", *image), self.size, self.options
        pair = [(shape, dtype), grids]
        self.call(pystn.grid_push, (values, grid, size), [image], options, 0)
        self.call(pystn.grid_push_vjp, (cotangent, values, grid, size), pair, options, 2)
        self.call(pystn.grid_push_jvp, (values, grid, d_values, d_grid, size), [image], options, 0)
        second = (d_values, d_grid, cotangent, values, grid, size)
        self.call(pystn.grid_push_vjp2, second, [image, *pair], options)
        count = (self.laid_out(self.batches[1], size, 1), self.coordinate)
        by_count = self.drawn("grad_count", *count)
        self.call(pystn.grid_count, (grid, size), [count], options, 0)
        self.call(pystn.grid_count_vjp, (by_count, grid, size), [grids], options, 1)
        self.call(pystn.grid_count_jvp, (grid, d_grid, size), [count], options, 0)
        self.call(pystn.grid_count_vjp2, (d_grid, by_count, grid, size), [count, grids], options)

    def warp(self, dtype):
        grids = ((self.batches[1], *self.shape, self.ndim), self.coordinate)
        shape = self.laid_out(self.batches[0], self.shape)
        image = (self.laid_out(self.batch, self.size), dtype)
        grid, d_grid = self.drawn("grid", *grids), self.drawn("d_grid", *grids)
        values, d_values = self.drawn("values", shape, dtype), self.drawn("d_values", shape, dtype)
        cotangent, size = self.drawn("grad_output", *image), self.size
        options = {**self.options, "eps": 1e-3}
        self.call(pystn.forward_warp, (values, grid, size), [image], options)
        self.call(pystn.forward_warp_vjp, (cotangent, values, grid, size), [(shape, dtype), grids], options)
        self.call(pystn.forward_warp_jvp, (values, grid, d_values, d_grid, size), [image], options)
        second = (d_values, d_grid, cotangent, values, grid, size)
        self.call(pystn.forward_warp_vjp2, second, [image, (shape, dtype), grids], options)

    def fused(self, name, reduce, full):
        """A warp and its derivatives; the shape is that of the axes K and of the output."""
        projective, several, size = name == "warp_projective", self.shape[: -self.ndim], self.shape[-self.ndim :]
        tangent = np.dtype(np.float32) if self.dtype.kind in "iu" else self.dtype
        thetas = ((self.batches[1], *several, self.ndim + projective, self.ndim + 1), self.coordinate)
        images = self.laid_out(self.batches[0], self.size)
        samples = self.laid_out(self.batch, (*several, *(size if reduce is None else size[1:])))
        masks = ((self.batch, *self.shape), real_dtype(tangent))
        input, theta = self.drawn("input", images, self.dtype), self.drawn("theta", *thetas)
        d_input, d_theta = self.drawn("d_input", images, tangent), self.drawn("d_theta", *thetas)
        cotangent, d_mask = self.drawn("grad_output", samples, tangent), self.drawn("grad_mask", *masks)
        options = {**self.options, **self.sampling, **({} if reduce is None else {"reduce": reduce})}
        if full:
            size = (self.batches[1], self.channels, *size)
        forward, vjp, jvp, vjp2 = (getattr(pystn, name + of) for of in ("", "_vjp", "_jvp", "_vjp2"))
        pair = [(images, tangent), thetas]
        # A quotient may be as large as numbers are, and then its derivative larger.
        finite = not (projective and self.special)
        self.call(forward, (input, theta, size), [(samples, self.dtype)], options, 0)
        self.call(vjp, (cotangent, input, theta, size), pair, options, 2, finite)
        gradient, nothing = vjp(cotangent, input, theta, size, **options, wrt="input")
        self.checked(f"{name}_vjp to the input", gradient, *pair[0])
        assert nothing is None
        self.call(jvp, (input, theta, d_input, d_theta, size), [(samples, tangent)], options, 0, finite)
        second = (d_input, d_theta, cotangent, input, theta, size)
        self.call(vjp2, second, [(samples, tangent), *pair], options, finite=finite)
        if reduce is not None:
            return
        masked = {**options, "return_mask": True}
        self.call(forward, (input, theta, size), [(samples, self.dtype), masks], masked, 0)
        wrt = ("input", "theta", "fill_value", *self.kernel_wrt())
        found = vjp((cotangent, d_mask), input, theta, size, **masked, wrt=wrt)
        self.checked(f"{name}_vjp of everything", found[0], *pair[0])
        self.checked(f"{name}_vjp of everything", found[1], *pair[1], finite)
        assert found[2].shape == np.shape(options["fill_value"])
        for gradient in found[2:]:
            for part in gradient if isinstance(gradient, tuple) else (gradient,):
                assert part is None or np.isfinite(part).all()
        to_output, *rest = vjp2(d_input, d_theta, (cotangent, d_mask), input, theta, size, **masked)
        for result, expected in zip((*to_output, *rest), ((samples, tangent), masks, *pair), strict=True):
            self.checked(f"{name}_vjp2 with the mask", result, *expected, finite)
        of_options = {"d_fill_value": 0.5, **masked}
        if self.kernel_wrt():
            of_options["d_kernel"] = found[3]
        self.call(jvp, (input, theta, None, None, size), [(samples, tangent), masks], of_options)
        self.finished(name)

    def spline(self, order, axes):
        shape = self.laid_out(self.batches[0], self.size)
        coefficients = np.dtype(np.float32) if self.dtype.itemsize <= 2 else self.dtype
        input, d_input = self.drawn("input", shape, self.dtype), self.drawn("d_input", shape, coefficients)
        cotangent = self.drawn("grad_output", shape, coefficients)
        given, options = self.options["padding_mode"], {"axes": axes, "channel_axis": -1 if self.last else 1}
        resolved = ["mirror" if p == "reflection" else p for p in (given if isinstance(given, tuple) else (given,))]
        padding = tuple(resolved) if isinstance(given, tuple) else resolved[0]
        expected = [(shape, coefficients)]
        self.call(pystn.spline_filter, (input, order, padding), expected, options, 0)
        self.call(pystn.spline_filter_vjp, (cotangent, input, order, padding), expected, options, 1)
        self.call(pystn.spline_filter_jvp, (input, d_input, order, padding), expected, options, 0)


@st.composite
def trials(draw, ndim=None, warped=False):
    """Points of any shape, or for the warps of axes K and as many axes as the image has."""
    ndim = draw(st.integers(1, 3)) if ndim is None else ndim
    batch = draw(st.sampled_from([1, 2, 3, 2, 0]))
    shared = draw(st.sampled_from(["none", "none", "image", "grid"]))
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5, 7, 0]), max_size=3)))
    if warped:
        several = draw(st.sampled_from([(), (), (2,), (3,), (1, 2), (0,)]))
        lengths = st.sampled_from([1, 2, 3, 5, 7, 2, 3, 0])
        shape = (*several, *draw(st.lists(lengths, min_size=ndim, max_size=ndim)))
        if draw(st.sampled_from([False] * 2 + [True])):
            shape = (*shape[:-1], draw(st.sampled_from([17, 64, 130])))
    elif draw(st.sampled_from([False] * 5 + [True])):
        shape = (draw(st.sampled_from([17, 64, 130])), *shape[1:])  # strips and tiles, and parts of them
    assume(math.prod(shape) <= 600)
    batches = (1 if shared == "image" else batch, 1 if shared == "grid" else batch)
    empty = batches[1] * math.prod(shape) == 0
    sizes = st.sampled_from([1, 2, 3, 4, 7, 16] + [0] * empty)
    size = tuple(draw(st.lists(sizes, min_size=ndim, max_size=ndim)))
    dtype, channels = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from([1, 2, 3, 17, 0]))
    paddings = st.sampled_from(EVERY_PADDING_MODE)
    if draw(st.booleans()):
        paddings = st.lists(paddings, min_size=ndim, max_size=ndim).map(tuple)
    align_corners, coords = draw(st.sampled_from([(False, "normalized"), (True, "normalized"), (False, "pixel")]))
    last = draw(st.booleans())
    fills = [0.0, -1.5, np.linspace(-2, 2, channels)] + [0.5 - 1j, np.linspace(-2, 2, channels) * 1j] * (
        dtype.kind == "c"
    )
    options = {
        "mode": kernel_for(pystn, draw(st.sampled_from(sorted(KERNELS))), ndim)[0],
        "padding_mode": draw(paddings),
        "align_corners": align_corners,
        "coords": coords,
        "cutoff": draw(st.sampled_from([None, None, "center", "edge"])),
        "subgradient": draw(st.sampled_from(SUBGRADIENTS)),
        "channel_axis": -1 if last else 1,
    }
    return Trial(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        ndim,
        size,
        shape,
        batches,
        channels,
        dtype,
        np.dtype(draw(floats)),
        last,
        draw(st.sampled_from([0.0, 0.1, 0.5])),
        options,
        {"fill_value": fills[draw(st.integers(0, len(fills) - 1))]},
    )


@settings(max_examples=200)
@given(trials())
def test_sampling_takes_anything(trial):
    """No crash, results of the right shape and type and finite, arguments as they were, nothing beside `out`."""
    trial.sample()


@settings(max_examples=120)
@given(trials())
def test_splatting_takes_anything(trial):
    """The same of push, count and the forward warp."""
    trial.push(trial.dtype if trial.dtype.kind not in "iu" else np.dtype(np.float16))
    trial.warp(np.dtype(f"c{2 * trial.coordinate.itemsize}") if trial.dtype.kind == "c" else trial.coordinate)


@st.composite
def warpings(draw):
    """A warp's name, its reduction, whether the size is given in full, and its trial."""
    name, reduce, ndim = draw(
        st.sampled_from(
            [("warp_affine", None, n) for n in (1, 2, 2, 3)]
            + [("warp_projective", None, 2)] * 2
            + [("warp_project", reduce, 3) for reduce in ("sum", "mean", "max")]
        )
    )
    trial = draw(trials(ndim, warped=True))
    empty, unordered = trial.shape[-ndim] == 0, trial.dtype.kind == "c"
    if (reduce == "max" and unordered) or (reduce is not None and empty):
        reduce = "sum"  # there is no mean or maximum of nothing, and none of complex numbers
    full = trial.batches[1] == trial.batch and draw(st.booleans())
    return name, reduce, full, trial


@settings(max_examples=250)
@given(warpings())
def test_warping_takes_anything(warping):
    """The same of the fused warps, with matrices of any numbers."""
    name, reduce, full, trial = warping
    trial.fused(name, reduce, full)


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(WARPS)),
    st.integers(0, 2**32),
    st.sampled_from(EVERY_PADDING_MODE),
    st.sampled_from([(False, "normalized"), (True, "normalized"), (False, "pixel")]),
    st.sampled_from(["nearest", "linear", "linear", "cubic"]),
    st.sampled_from([(), (), (2,), (2, 1)]),
    st.sampled_from([(1, 1), (2, 2), (1, 2), (2, 1)]),
    st.booleans(),
)
def test_warps_of_any_size_equal_the_oracle(name, seed, padding_mode, convention, mode, several, batch, last):
    """With arrays of any strides."""
    warp, rng = WARPS[name], np.random.default_rng(seed)
    most = {1: 60, 2: 14, 3: 5}[warp.ndim]
    image, size = (tuple(rng.integers(1, most + 1, warp.ndim)) for _ in range(2))
    options = {"padding_mode": padding_mode, "align_corners": convention[0], "coords": convention[1], "mode": mode}
    theta = matrices(rng, warp, (batch[1], *several), image, size, *convention)
    input, u = (
        rng.standard_normal((batch[0], 2, *image)),
        rng.standard_normal((max(batch), 2, *several, *warp.spatial(size))),
    )
    given_ = [np.moveaxis(a, 1, -1) if last else a for a in (u, input)] + [theta]
    given_ = [scattered(rng, a, repeated=False) for a in given_]
    axis = -1 if last else 1
    value = warp.forward(*given_[1:], size, channel_axis=axis, **options)
    expected = warp.expected("", input, theta, size, **options)
    bound = 1e-12 * max(1, np.abs(expected).max())
    np.testing.assert_allclose(np.moveaxis(value, axis, 1), expected, rtol=0, atol=bound)
    gradients = warp.vjp(*given_, size, channel_axis=axis, **options)
    wanted = warp.expected("_vjp", u, input, theta, size, **options)
    for i, (a, b) in enumerate(zip(gradients, wanted, strict=True)):
        a = np.moveaxis(a, axis, 1) if i == 0 else a
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(1, np.abs(b).max()))


@settings(max_examples=80)
@given(trials(), st.data())
def test_the_spline_filter_takes_anything(trial, data):
    """The same of the spline filter."""
    order = data.draw(st.integers(0, 7))
    axes = data.draw(st.none() | st.lists(st.integers(0, trial.ndim - 1), unique=True))
    trial.spline(order, axes)


@settings(max_examples=40)
@given(
    st.sampled_from([pystn.Cubic(), pystn.Gaussian(0.8), pystn.Tabulated((0.0, 0.5, 1.0, 0.2), 1.5)]),
    st.sampled_from(EVERY_PADDING_MODE),
    st.sampled_from([3e38, -3e38, 1e30]),
    st.integers(1, 3),
    floats,
)
def test_kernels_have_finite_gradients_at_any_coordinate(mode, padding_mode, far, ndim, dtype):
    """Normalized coordinates whose positions in pixels overflow, on any one axis, and tangents there."""
    if dtype == np.float64 and abs(far) > 1e38:
        far = 1.7e308 * np.sign(far)
    image = np.ones((1, 2, *(5, 4, 3)[:ndim]), dtype)
    grid = np.zeros((1, ndim + 1, ndim), dtype)
    grid[0, :ndim][np.diag_indices(ndim)] = far
    options = {"mode": mode, "padding_mode": padding_mode, "fill_value": 0.5}
    cotangent = np.ones((1, 2, ndim + 1), dtype)
    *_, by_kernel = pystn.grid_sample_vjp(cotangent, image, grid, wrt=("input", "grid", "kernel"), **options)
    assert np.isfinite(by_kernel).all()
    # What lies far away adds nothing of its own to the sample in the middle.
    tangent = pystn.grid_sample_jvp(image, grid, None, None, d_kernel=np.ones_like(by_kernel), **options)
    assert np.isfinite(tangent).all()
