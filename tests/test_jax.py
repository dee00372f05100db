"""pystn for JAX: every operation of the table under every transformation, against pystn's own functions."""

import inspect
import subprocess
import sys
import textwrap

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
from jacobians import assert_close  # noqa: E402
from jax.test_util import check_grads  # noqa: E402
from operations import CASES  # noqa: E402
from test_ops import bound  # noqa: E402

import pystn  # noqa: E402
import pystn.jax  # noqa: E402
from pystn.calls import Call  # noqa: E402
from pystn.systems.adapted import SYSTEMS  # noqa: E402


@pytest.fixture(autouse=True)
def double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def single_precision(double_precision):
    """JAX's default."""
    jax.config.update("jax_enable_x64", False)


def as_function(case):
    """The case as a function of its arrays, options among them."""
    names = list(case.arrays)
    count = len(case.operation.primals)

    def f(*arrays):
        given = arrays[count:]
        options = dict(zip(names, given, strict=True))
        return pystn.jax.apply(case.f, *arrays[:count], **case.options, **options)

    return f


def arguments(case, seed=0):
    """Its primals, and options that are arrays; the kernels of several axes are one argument, a tuple."""
    return [*case.primals(seed), *case.arrays.values()]


def curved(case):
    """The case as a function of what has second-order derivatives, and those arguments."""
    given = arguments(case)
    count = len(given) if case.operation.curved_parameters else len(case.operation.primals)
    f = as_function(case)
    return lambda *arrays: f(*arrays, *given[count:]), given[:count]


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def check(f, arrays, modes=("fwd", "rev")):
    """First derivatives against differences."""
    check_grads(f, tuple(arrays), 1, modes=modes, eps=1e-6, atol=1e-5, rtol=1e-5)


def squares(results):
    return sum((result**2).sum() for result in as_tuple(results))


def flat_close(found, expected, tolerance=1e-12):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert_close(np.asarray(a), np.asarray(b), tolerance)


def names(cases):
    return [f"{k}-{case}" for k, case in enumerate(cases)]


every_case = pytest.mark.parametrize("case", CASES, ids=names(CASES))
TWICE = [case for case in CASES if case.operation.second_order]
every_second_order = pytest.mark.parametrize("case", TWICE, ids=names(TWICE))


# ---- all operations


def test_every_operation_is_a_function_of_the_module():
    assert set(pystn.jax.__all__) == {"apply", *SYSTEMS, *pystn.ops.OPERATIONS}
    for name in pystn.ops.OPERATIONS:
        function = getattr(pystn.jax, name)
        assert function.__name__ == name
        assert f"`pystn.{name}`" in function.__doc__
        theirs = [p for p in inspect.signature(getattr(pystn, name)).parameters if p != "out"]
        assert list(inspect.signature(function).parameters) == theirs


@every_case
def test_values_are_those_of_pystn(case):
    call, arrays = bound(case)
    f = as_function(case)
    for dtype in (np.float64, np.float32):
        given = jax.tree.map(lambda array: jnp.asarray(array, dtype), arguments(case))  # noqa: B023
        expected = call.forward([np.asarray(array, dtype) for array in arrays])
        for found in (f(*given), jax.jit(f)(*given)):
            for a, b in zip(as_tuple(found), expected, strict=True):
                np.testing.assert_array_equal(a, b)
                assert (type(a), a.dtype) == (type(given[0]), b.dtype)


@every_case
def test_first_order_in_both_modes(case):
    """Against differences, and compiled, in a function with others, against pystn's own."""
    f, given = as_function(case), arguments(case)
    check(f, given)
    loss = jax.grad(lambda *arrays: squares(f(*arrays)), tuple(range(len(given))))
    call, arrays = bound(case)
    expected = call.vjp([2 * output for output in call.forward(arrays)], arrays, [True] * len(arrays))
    flat_close(jax.jit(loss)(*given), expected)


def pulled(f):
    def vjp(cotangent, *arrays):
        return jax.vjp(f, *arrays)[1](cotangent)

    return vjp


def pushed(f):
    def jvp(tangents, *arrays):
        return jax.jvp(f, arrays, tangents)[1]

    return jvp


@every_second_order
def test_second_order_of_all_pairs_of_modes(case):
    f, given = curved(case)
    outputs = f(*given)
    check(pulled(f), (outputs, *given))
    check(pushed(f), (tuple(given), *given), modes=("rev",))
    if case.operation.affine:
        check(pushed(f), (tuple(given), *given), modes=("fwd",))


ONE_EACH = list({case.operation.name: case for case in TWICE}.values())


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_hessians(case):
    f, given = curved(case)
    shapes = [np.shape(array) for array in given]
    ends = np.cumsum([0, *map(np.size, given)])
    point = np.concatenate([np.ravel(array) for array in given])
    # In a subspace: the Hessian of all pixels would be large.
    basis = np.random.default_rng(5).standard_normal((3, point.size))

    def loss(weights):
        flat = point + weights @ basis
        parts = [flat[a:b].reshape(shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]
        return sum(jnp.sin(result).sum() for result in as_tuple(f(*parts)))

    orders = jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))
    found, other = jax.jit(lambda weights: [order(loss)(weights) for order in orders])(jnp.zeros(3))
    assert np.abs(found).max() > 0
    flat_close(found.T, found)
    flat_close(other, found)


def test_hessians_outside_of_jit():
    image, grid = (jnp.asarray(a) for a in CASES[0].primals())
    loss = lambda grid: squares(pystn.jax.grid_sample(image, grid, "cubic"))  # noqa: E731
    found = jax.hessian(loss)(grid)
    flat_close(jax.jit(jax.jacfwd(jax.jacrev(loss)))(grid), found)
    assert np.abs(found).max() > 0


# ---- vmap


BATCH = 3
PLAIN = [case for case in CASES if not case.arrays]
SHARED = [(case, None) for case in PLAIN] + [
    (case, shared) for case in ONE_EACH if case in PLAIN and len(case.primals()) > 1 for shared in (0, 1)
]


@pytest.mark.parametrize("case, shared", SHARED, ids=[f"{k}-{c}-{s}" for k, (c, s) in enumerate(SHARED)])
def test_vmap_is_a_loop(case, shared):
    """Forward, JVP, VJP and second order; along the last axis, with arrays that all calls share."""
    f = as_function(case)
    seeds = [case.primals(seed) for seed in range(BATCH)]
    count = len(seeds[0])
    axes = [None if k == shared else -1 for k in range(count)]
    arrays = [
        seeds[0][k] if axis is None else np.stack([each[k] for each in seeds], axis=-1) for k, axis in enumerate(axes)
    ]

    def everything(*arrays):
        outputs, tangents = jax.jvp(f, arrays, arrays)
        first = outputs, tangents, pulled(f)(outputs, *arrays)
        if not case.operation.second_order:
            return first
        return *first, jax.vjp(pulled(f), outputs, *arrays)[1](arrays)

    found = jax.jit(jax.vmap(everything, axes))(*arrays)
    one = jax.jit(everything)
    each = [one(*[seeds[0][k] if k == shared else a for k, a in enumerate(seed)]) for seed in seeds]
    flat_close(found, jax.tree.map(lambda *results: np.stack(results), *each))


def test_vmap_calls_pystn_once(monkeypatch):
    shapes = record(monkeypatch, "forward", lambda self, arrays: [array.shape for array in arrays])
    image, theta = np.ones((5, 1, 2, 6, 6), np.float32), np.ones((5, 1, 2, 3), np.float32)
    jax.vmap(jax.vmap(lambda i, t: pystn.jax.warp_affine(i[None], t[None], (3, 3))))(image, theta)
    assert shapes == [[(5, 2, 6, 6), (5, 2, 3)]]


@pytest.mark.parametrize("case", [case for case in CASES if case.arrays], ids=str)
def test_vmap_over_options_goes_one_by_one(case):
    f = as_function(case)
    given = [arguments(case, seed) for seed in range(BATCH)]
    given = [jax.tree.map(lambda array: array * (1 + 0.01 * k), each) for k, each in enumerate(given)]  # noqa: B023
    loss = jax.grad(lambda *arrays: squares(f(*arrays)), tuple(range(len(given[0]))))
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *given)
    for g in map(jax.jit, (f, loss)):
        expected = jax.tree.map(lambda *results: np.stack(results), *[g(*each) for each in given])
        found = jax.jit(jax.vmap(g))(*stacked)
        flat_close(found, expected)
    through = jax.jit(jax.grad(lambda *arrays: squares(jax.vmap(f)(*arrays))))
    flat_close(through(*stacked), found[0])


# ---- what is done, and how often


def record(monkeypatch, name, what):
    """A list of what `what` makes of the arguments of each call of a method of Call."""
    found, method = [], getattr(Call, name)

    def recorded(self, *args):
        found.append(what(self, *args))
        return method(self, *args)

    monkeypatch.setattr(Call, name, recorded)
    return found


def test_nothing_is_traced_again_when_values_change():
    traces = []

    @jax.jit
    def step(image, grid, fill, sigma):
        traces.append(None)
        call = pystn.jax.grid_sample
        return jax.grad(
            lambda *arrays: call(
                *arrays[:2],
                pystn.Gaussian(1.0),
                padding_mode="constant",
                fill_value=arrays[2],
                kernel=arrays[3],
            ).sum(),
            (0, 1, 2, 3),
        )(image, grid, fill, sigma)

    rng = np.random.default_rng(0)
    results = []
    for k in range(3):
        arrays = rng.random((1, 2, 5, 5)), rng.uniform(-1.2, 1.2, (1, 4, 4, 2)), rng.random(2), 0.5 + 0.1 * k
        results.append(step(*arrays))
        expected = pystn.grid_sample_vjp(
            np.ones((1, 2, 4, 4)),
            *arrays[:2],
            pystn.Gaussian(arrays[3]),
            padding_mode="constant",
            fill_value=arrays[2],
            wrt=("input", "grid", "fill_value", "kernel"),
        )
        flat_close(results[-1], list(map(np.asarray, expected)))
    assert len(traces) == 1
    assert step._cache_size() == 1


def test_equal_options_are_one_compilation():
    @jax.jit
    def f(theta):
        return pystn.jax.affine_grid(theta, [4, 4]) + pystn.jax.affine_grid(theta, size=(4, 4))

    text = f.lower(np.ones((1, 2, 3))).as_text("hlo")
    assert 1 <= text.count("custom-call(") <= 2
    first, second = [
        equation.params for equation in jax.make_jaxpr(f)(np.ones((1, 2, 3))).eqns[0].params["jaxpr"].eqns[:2]
    ]
    assert first == second
    assert hash(first["of"]) == hash(second["of"])


def test_gradients_that_nobody_wants_are_not_computed(monkeypatch):
    wanted = record(monkeypatch, "vjp", lambda self, cotangents, arrays, wanted: wanted)
    tangents = record(monkeypatch, "jvp", lambda self, arrays, tangents: [t is not None for t in tangents])
    image, grid = np.ones((1, 1, 5, 5)), np.zeros((1, 3, 3, 2))
    jax.grad(lambda grid: pystn.jax.grid_sample(image, grid).sum())(grid)
    jax.jit(jax.grad(lambda image, grid: pystn.jax.grid_sample(image, grid).sum()))(image, grid)
    jax.jvp(lambda grid: pystn.jax.grid_sample(image, grid).sum(), (grid,), (grid,))
    assert wanted == [(False, True), (True, False)]
    assert tangents == [[False, True]]


def test_second_order_products_that_are_zero_are_not_computed(monkeypatch):
    seconds = record(monkeypatch, "vjp2", lambda self, *args: None)
    theta = np.ones((1, 2, 3))
    loss = lambda theta: squares(pystn.jax.affine_grid(theta, (3, 3)))  # noqa: E731
    assert jax.hessian(loss)(theta).shape == (1, 2, 3) * 2
    assert seconds == []


def test_control_flow_and_checkpoints():
    """In a scan, and recomputed: gradients of both are those of a loop."""
    rng = np.random.default_rng(0)
    image, thetas = rng.random((1, 1, 6, 6)), np.eye(2, 3) + 0.1 * rng.random((4, 1, 2, 3))

    def step(image, theta):
        return pystn.jax.warp_affine(image, theta, (6, 6), padding_mode="border"), None

    def looped(image, thetas):
        for theta in thetas:
            image, _ = step(image, theta)
        return squares(image)

    def scanned(image, thetas):
        return squares(jax.lax.scan(jax.checkpoint(step), image, thetas)[0])

    expected = jax.grad(looped, (0, 1))(image, thetas)
    flat_close(jax.grad(scanned, (0, 1))(image, thetas), expected)
    flat_close(jax.jit(jax.grad(scanned, (0, 1)))(image, thetas), expected)
    outputs, linear = jax.linearize(scanned, image, thetas)
    flat_close([outputs, linear(image, thetas)], jax.jvp(looped, (image, thetas), (image, thetas)))


def test_arrays_of_several_devices():
    """In the collective and in the single-device view, on devices that XLA pretends to have."""
    code = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        import jax, numpy as np, pystn, pystn.jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        mesh, spec = Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec("batch")
        rng = np.random.default_rng(0)
        arrays = rng.random((4, 1, 6, 6), "f"), rng.random((4, 5, 2), "f")
        sharded = [jax.device_put(array, NamedSharding(mesh, spec)) for array in arrays]
        step = lambda image, grid: pystn.jax.grid_sample(2 * image, grid)
        each = jax.shard_map(step, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
        for f in (step, jax.jit(step), each, jax.jit(each)):
            found = f(*sharded)
            np.testing.assert_array_equal(found, pystn.grid_sample(2 * arrays[0], arrays[1]))
        print(len(found.sharding.device_set))
    """
    assert run_python(code) == "2"


def run_python(code):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_large_arrays_and_many_callbacks_end():
    """Callbacks run on threads of XLA's; they must not wait for others."""
    image = np.random.default_rng(0).random((4, 8, 128, 128))
    theta = np.eye(2, 3)[None].repeat(4, 0)

    @jax.jit
    def f(image):
        parts = [pystn.jax.warp_affine(image + k, theta, (128, 128)) for k in range(8)]
        return jax.lax.fori_loop(0, 8, lambda k, x: pystn.jax.warp_affine(x, theta, (128, 128)), sum(parts))

    assert_close(np.asarray(f(f(image))), 64 * image + 252, 1e-10)


# ---- kinds of arrays


def test_options_by_position_and_by_name():
    image, theta = jnp.ones((1, 1, 4, 4)), jnp.eye(2, 3)[None]
    expected = pystn.warp_affine(np.ones((1, 1, 4, 4)), np.eye(2, 3)[None], (3, 3), "cubic", "border")
    for found in (
        pystn.jax.warp_affine(image, theta, (3, 3), "cubic", "border"),
        pystn.jax.warp_affine(theta=theta, input=image, size=jnp.array([3, 3]), mode="cubic", padding_mode="border"),
        pystn.jax.apply("warp_affine", np.ones((1, 1, 4, 4)), theta, (3, 3), mode="cubic", padding_mode="border"),
        pystn.jax.apply(pystn.warp_affine, image, theta, size=(3, 3), mode="cubic", padding_mode="border"),
    ):
        np.testing.assert_array_equal(found, expected)


def test_numbers_as_options_have_gradients():
    image, grid = np.ones((1, 1, 4, 4)), np.full((1, 2, 2, 2), 3.0)

    def total(fill):
        return pystn.jax.grid_sample(image, grid, padding_mode="constant", fill_value=fill).sum()

    assert total(0.5) == 2.0
    assert jax.grad(total)(0.5) == 4.0
    assert jax.jit(jax.grad(total))(0.5) == 4.0
    kernels = ("linear", pystn.Gaussian(1.0))
    slope = lambda sigma: pystn.jax.grid_sample(image, grid / 4, kernels, kernel=(None, sigma)).sum()  # noqa: E731
    check(slope, (0.7,))


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "complex64"])
def test_dtypes_of_images(dtype):
    """By default JAX has no float64: values and gradients are those of pystn, in their dtypes."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.standard_normal((2, 2, 5, 5)), dtype)
    if dtype == "complex64":
        image += 1j * rng.standard_normal(image.shape).astype("f")
    grid = jnp.asarray(rng.uniform(-1.2, 1.2, (2, 3, 3, 2)), "float32")
    f = lambda image, grid: pystn.jax.grid_sample(image, grid, "cubic", return_mask=True)  # noqa: E731
    images = np.asarray(image)
    outputs = pystn.grid_sample(images, np.asarray(grid), "cubic", return_mask=True)
    gradients = pystn.grid_sample_vjp(outputs, images, np.asarray(grid), "cubic", return_mask=True)
    if dtype == "complex64":
        gradients = pystn.grid_sample_vjp(
            (outputs[0].conj(), outputs[1]), images, np.asarray(grid), "cubic", return_mask=True
        )
        gradients = gradients[0].conj(), gradients[1]
    tangents = pystn.grid_sample_jvp(images, np.asarray(grid), images, np.asarray(grid), "cubic", return_mask=True)
    for transform in (lambda f: f, jax.jit):
        found = transform(f)(image, grid)
        pulled_back = transform(pulled(f))(found, image, grid)
        moved = transform(pushed(f))((image, grid), image, grid)
        for a, b in zip((*found, *pulled_back, *moved), (*outputs, *gradients, *tangents), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("single_precision")
def test_images_of_integers_have_no_gradient():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.integers(0, 256, (1, 1, 5, 5)), "uint8")
    grid = jnp.asarray(rng.uniform(-1.2, 1.2, (1, 3, 3, 2)), "float32")
    f = lambda image, grid: pystn.jax.grid_sample(image, grid, return_mask=True)  # noqa: E731
    none = np.zeros(image.shape, jax.dtypes.float0)
    (output, _), (d_output, d_mask) = jax.jvp(f, (image, grid), (none, grid))
    np.testing.assert_array_equal(output, pystn.grid_sample(np.asarray(image), np.asarray(grid)))
    assert (output.dtype, d_output.dtype, d_mask.dtype) == (np.uint8, jax.dtypes.float0, np.float32)
    # Through the mask, and through slopes, which are no integers.
    for g, expected in (
        (lambda image, grid: f(image, grid)[0].astype("float32").sum(), np.zeros(grid.shape, "f")),
        (lambda image, grid: f(image, grid)[1].sum(), jax.grad(lambda g: f(image.astype("f"), g)[1].sum())(grid)),
        (
            lambda image, grid: pystn.jax.grid_gradient(image, grid, "cubic").sum(),
            jax.grad(lambda g: pystn.jax.grid_gradient(image.astype("f"), g, "cubic").sum())(grid),
        ),
    ):
        for transform in (lambda f: f, jax.jit):
            to_image, to_grid = transform(jax.grad(g, (0, 1), allow_int=True))(image, grid)
            assert to_image.dtype == jax.dtypes.float0
            assert_close(to_grid, expected, 1e-6)
    assert np.abs(expected).max() > 0


def test_complex_images_follow_the_conventions_of_jax():
    """Sampling as a matrix, in JAX: the gradients are those of the product."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 1, 4, 4)) + 1j * rng.standard_normal((1, 1, 4, 4))
    grid = rng.uniform(-0.7, 0.7, (1, 5, 2))
    matrix = pystn.grid_sample(np.eye(16).reshape(1, 16, 4, 4), grid)[0].T
    weights = rng.standard_normal(5) + 1j * rng.standard_normal(5)

    def sampled(image, grid):
        return pystn.jax.grid_sample(image, grid)[0, 0]

    def product(image, grid):
        return matrix @ image.reshape(-1)

    for loss in (lambda y: jnp.abs(y * weights + 1).sum(), lambda y: (y**3 * weights).sum().imag):
        found, expected = [
            jax.grad(lambda image, f=f, loss=loss: loss(f(image, grid)))(image) for f in (sampled, product)
        ]
        flat_close(found, expected)
    check(sampled, (image, grid))
    check(pulled(sampled), (weights, image, grid))


@pytest.mark.usefixtures("single_precision")
def test_single_precision_stays(recwarn):
    case = next(case for case in CASES if case.name == "thin-plate-targets")
    f = as_function(case)
    given = [jnp.asarray(array) for array in arguments(case)]
    for result in jax.tree.leaves([f(*given), jax.jit(jax.grad(lambda *a: squares(f(*a)), (0, 1, 2)))(*given)]):
        assert result.dtype == np.float32


# ---- errors


def test_wrong_kinds_of_arrays():
    image, grid = jnp.ones((1, 1, 4, 4)), jnp.zeros((1, 2, 2, 2))

    class Tensor:
        def __array__(self, *args, **kwargs):
            raise RuntimeError("on another device")

    sample = pystn.jax.grid_sample
    kind = f"{__name__}.test_wrong_kinds_of_arrays.<locals>.Tensor"
    for call, words in [
        (lambda: sample(Tensor(), grid), f"input must be a jax.Array or numpy.ndarray, got {kind}"),
        (lambda: sample(image, [0.0, 0.0]), "grid must be a jax.Array or numpy.ndarray, got builtins.list"),
        (lambda: sample(image, grid, fill_value=Tensor()), "fill_value must be a jax.Array"),
        (lambda: sample(image, grid, kernel=("a", None)), "kernel.0 must be a jax.Array"),
        (lambda: sample(image), "grid missing"),
        (lambda: sample(image, grid, modus="cubic"), "no argument 'modus'"),
        (lambda: pystn.jax.apply(np.sin, image), "expected a differentiable function"),
    ]:
        with pytest.raises(TypeError) as error:
            call()
        assert words in str(error.value)


def test_options_without_derivatives_are_static():
    values, grid = jnp.ones((1, 1, 4, 4)), jnp.zeros((1, 4, 4, 2))
    warp = lambda eps: pystn.jax.forward_warp(values, grid, (4, 4), eps=eps)  # noqa: E731
    np.testing.assert_array_equal(warp(jnp.array(0.1)), warp(0.1))
    with pytest.raises(TypeError, match="eps of forward_warp must be a Python value"):
        jax.jit(warp)(0.1)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.grad, lambda f: jax.jit(jax.grad(f))])
def test_wrong_shapes_and_options_raise_as_in_pystn(transform):
    """With jit while it traces: an error in a callback would be one of the runtime."""
    image = np.ones((2, 1, 4, 4))
    for grid, mode, words in [
        (np.zeros((3, 2, 2, 2)), "linear", r"batch sizes of input and grid must agree .* shapes \(2, 1, 4, 4\)"),
        (np.zeros((2, 2, 3)), "linear", r"grid has last axis 3, .* got \(2, 2, 3\)"),
        (np.zeros((2, 2, 2)), "cubist", "unknown mode"),
    ]:
        f = lambda image, grid=grid, mode=mode: pystn.jax.grid_sample(image, grid, mode).sum()  # noqa: E731
        with pytest.raises(ValueError, match=words):
            transform(f)(image)
    with pytest.raises(ValueError, match="params must have shape"):
        transform(lambda params: pystn.jax.translation_matrix(params).sum())(np.ones((2, 5)))
    with pytest.raises(ValueError, match="must broadcast"):
        transform(lambda a: pystn.jax.compose(a, np.ones((3, 2, 3))).sum())(np.ones((2, 2, 3)))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_derivatives_that_there_are_not(transform):
    image, grid = jnp.ones((1, 1, 5, 5)), jnp.full((1, 3, 2), 0.1)

    def loss(grid):
        return pystn.jax.grid_sample(image, grid, "cubic").sum()

    with pytest.raises(NotImplementedError, match="take one of the two in reverse mode"):
        transform(jax.jacfwd(jax.jacfwd(loss)))(grid)
    with pytest.raises(NotImplementedError, match="end at the second order"):
        transform(jax.grad(lambda grid: jax.hessian(loss)(grid).sum()))(grid)
    fill = lambda fill: pystn.jax.grid_sample(image, 3 + grid, padding_mode="constant", fill_value=fill).sum()  # noqa: E731
    assert transform(jax.grad(fill))(0.5) == 3
    with pytest.raises(NotImplementedError, match="grid_sample has no second-order derivatives to fill_value"):
        transform(jax.grad(lambda value: jax.grad(fill)(value) * value))(0.5)
    once = [pystn.ops.OPERATIONS[name] for name in ("grid_gradient",)]
    for operation in once:
        if not operation.second_order:
            slope = lambda grid: squares(pystn.jax.grid_gradient(image, grid, "cubic"))  # noqa: E731
            with pytest.raises(NotImplementedError, match="third order in the sampler"):
                transform(jax.hessian(slope))(grid)


def test_without_jax_the_message_says_what_to_install():
    code = """
        import sys
        sys.modules["jax"] = None
        import pystn
        try:
            import pystn.jax
        except ImportError as error:
            print(error)
    """
    assert run_python(code) == 'pystn.jax needs JAX: pip install "pystn[jax]"'
