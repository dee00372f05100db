"""The adapter to HIPS autograd: every operation in both modes and to the second order, in functions with others."""

import subprocess
import sys

import numpy as np
import pytest
from jacobians import assert_close
from operations import CASES

autograd = pytest.importorskip("autograd", reason="HIPS autograd is not installed")

import autograd.numpy as anp  # noqa: E402
from autograd import grad, hessian, jacobian, make_jvp, make_vjp  # noqa: E402
from autograd.differential_operators import hessian_vector_product, make_hvp  # noqa: E402
from autograd.test_util import check_grads  # noqa: E402

import pystn  # noqa: E402
import pystn.autograd as stn  # noqa: E402
from pystn.calls import bind  # noqa: E402
from pystn.systems.adapted import SYSTEMS  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)  # noqa: NPY002 (check_grads draws from it)


def bound(case):
    return bind(case.operation, case.primals(), {**case.options, **case.arrays}, lambda v: isinstance(v, np.ndarray))


def flat(case):
    """The case as a function of its primals and of those options that are arrays, and all these."""
    call, arrays = bound(case)
    count = len(case.operation.primals)

    def function(*values):
        options = {}
        for name, value in zip(call.given, values[count:], strict=True):
            base, _, axis = name.partition(".")
            if axis:
                options.setdefault(base, [None] * len(case.options["mode"]))[int(axis)] = value
            else:
                options[base] = value
        return stn.apply(case.f, *values[:count], **case.options, **options)

    return function, [np.asarray(array) for array in arrays]


def curved(case):
    """The same of what it has second derivatives of."""
    function, arrays = flat(case)
    count = len(arrays) if case.operation.curved_parameters else len(case.operation.primals)
    return lambda *values: function(*values, *arrays[count:]), arrays[:count]


def every(arrays):
    return tuple(range(len(arrays)))


def pulled_back(function):
    """The VJP as a function of the arrays and the cotangent."""
    return lambda arrays, cotangent: make_vjp(function, every(arrays))(*arrays)[0](cotangent)


def pushed_forward(function):
    """The JVP as a function of the arrays and their tangents."""
    return lambda arrays, tangents: make_jvp(function, every(arrays))(*arrays)(tangents)[1]


def drawn(like):
    if isinstance(like, tuple):
        return tuple(map(drawn, like))
    return np.asarray(np.random.standard_normal(np.shape(like)))  # noqa: NPY002


SECOND = [case for case in CASES if case.operation.second_order]


def test_every_operation_is_there():
    assert set(stn.__all__) == {"apply", *SYSTEMS, *pystn.ops.OPERATIONS}
    for name in pystn.ops.OPERATIONS:
        assert getattr(stn, name).__name__ == name
        assert f"pystn.{name}" in getattr(stn, name).__doc__


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_are_those_of_pystn_and_plain_arrays(case):
    function, arrays = flat(case)
    expected = bound(case)[0].forward(arrays)
    found = function(*arrays)
    found = found if isinstance(found, tuple) else (found,)
    for value, other in zip(found, expected, strict=True):
        assert type(value) is type(other)
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_order(case):
    function, arrays = flat(case)
    check_grads(function, every(arrays), modes=["rev", "fwd"], order=1)(*arrays)


@pytest.mark.parametrize("case", SECOND, ids=str)
def test_second_order_in_reverse(case):
    function, arrays = curved(case)
    check_grads(function, every(arrays), modes=["rev"], order=2)(*arrays)


@pytest.mark.parametrize("case", SECOND, ids=str)
def test_second_order_forward_over_reverse(case):
    function, arrays = curved(case)
    check_grads(pulled_back(function), (0, 1), modes=["fwd"], order=1)(tuple(arrays), drawn(function(*arrays)))


@pytest.mark.parametrize("case", SECOND, ids=str)
def test_second_order_reverse_over_forward(case):
    function, arrays = curved(case)
    check_grads(pushed_forward(function), (0, 1), modes=["rev"], order=1)(tuple(arrays), drawn(tuple(arrays)))


IDENTITY = np.eye(2, 3)[None]
RNG = np.random.default_rng(5)
IMAGE = RNG.standard_normal((2, 2, 5, 6))
THETA = IDENTITY + RNG.uniform(-0.15, 0.15, (2, 2, 3))
GRID = pystn.affine_grid(THETA, (3, 4))


def energy(image, theta):
    """A function of both that is not linear in the samples, with autograd's own operations before and after."""
    grid = stn.affine_grid(anp.tanh(theta), (3, 4))
    samples = stn.grid_sample(anp.exp(image), grid, "cubic", "border")
    return anp.sum(anp.sin(samples) * anp.mean(grid, axis=-1)[:, None])


def test_in_a_function_with_others():
    check_grads(energy, (0, 1), modes=["rev"], order=2)(IMAGE, THETA)
    check_grads(energy, (0, 1), modes=["fwd"], order=1)(IMAGE, THETA)


def test_gradients_come_from_one_pass(monkeypatch):
    wanted = []
    sample = pystn.ops.operation("grid_sample")
    vjp = type(sample).vjp

    def counted(self, *arrays, wrt, **options):
        wanted.append(tuple(wrt))
        return vjp(self, *arrays, wrt=wrt, **options)

    monkeypatch.setattr(type(sample), "vjp", counted)
    loss = lambda image, grid: anp.sum(stn.grid_sample(image, grid) ** 2)  # noqa: E731
    grad(loss, (0, 1))(IMAGE, GRID)
    grad(loss, 1)(IMAGE, GRID)
    assert wanted == [("input", "grid"), ("grid",)]


def test_hessian_products_agree_with_the_hessian():
    loss = lambda theta: energy(IMAGE, theta)  # noqa: E731
    direction = drawn(THETA)
    expected = np.tensordot(hessian(loss)(THETA), direction, 3)
    for found in (
        hessian_vector_product(loss)(THETA, direction),
        make_hvp(loss)(THETA)[0](direction),
        make_jvp(grad(loss))(THETA)(direction)[1],
        grad(lambda theta: make_jvp(loss)(theta)(direction)[1])(THETA),
    ):
        assert_close(found, expected, 1e-12)


def test_a_jacobian_is_that_of_forward_mode():
    warp = lambda theta: stn.warp_affine(IMAGE, theta, (3, 2), padding_mode="border")  # noqa: E731
    full = jacobian(warp)(THETA)
    value, pushed = make_jvp(warp)(THETA)(THETA)
    assert type(value) is np.ndarray
    assert full.shape == (2, 2, 3, 2, 2, 2, 3)
    assert_close(pushed, np.tensordot(full, THETA, 3), 1e-12)


def test_linear_operations_have_all_orders():
    cube = lambda theta: anp.sum(stn.affine_grid(theta, (3, 4)) ** 3)  # noqa: E731
    plain = lambda theta: anp.sum(anp.einsum("nij,jhw->nhwi", theta, points) ** 3)  # noqa: E731
    x, y = pystn.affine_grid(IDENTITY, (3, 4))[0].transpose(2, 0, 1)
    points = np.stack([x, y, np.ones_like(x)])

    def thrice(f, steps=(grad, grad, grad)):
        for derivative in steps:
            f = (lambda g, d: lambda theta: anp.sum(d(g)(theta) * THETA))(f, derivative)
        return f(THETA)

    forward = lambda f: lambda theta: make_jvp(f)(theta)(THETA)[1]  # noqa: E731
    assert thrice(cube) == pytest.approx(thrice(plain), rel=1e-12)
    assert thrice(cube, (grad, forward, grad)) == pytest.approx(thrice(plain, (grad, forward, grad)), rel=1e-12)


def test_complex_images_have_autograds_gradients():
    rng = np.random.default_rng(1)
    image = rng.standard_normal(IMAGE.shape) + 1j * rng.standard_normal(IMAGE.shape)
    sample = lambda image, grid: stn.grid_sample(image, grid, "cubic")  # noqa: E731
    check_grads(sample, (0, 1), modes=["rev"], order=2)(image, GRID)
    check_grads(sample, (0, 1), modes=["fwd"], order=1)(image, GRID)
    check_grads(pulled_back(sample), (0, 1), modes=["fwd"], order=1)((image, GRID), sample(image, GRID))
    check_grads(pushed_forward(sample), (0, 1), modes=["rev"], order=1)((image, GRID), (image, GRID))

    loss = lambda image: anp.sum(anp.abs(sample(image, GRID)) ** 2)  # noqa: E731
    (expected, _) = pystn.grid_sample_vjp(2 * sample(image, GRID), image, GRID, "cubic")
    assert_close(grad(loss)(image), expected.conj(), 1e-12)


def test_complex_fill_values_and_kernels():
    rng = np.random.default_rng(2)
    image, grid = IMAGE + 1j * rng.standard_normal(IMAGE.shape), rng.uniform(-1.5, 1.5, (2, 7, 2))

    def sample(fill, sigma):
        return stn.grid_sample(image, grid, pystn.Gaussian(0.7), "constant", fill_value=fill, kernel=sigma)

    check_grads(sample, (0, 1), modes=["rev", "fwd"], order=1)(np.array([0.5 + 1j, -2j]), 0.7)
    check_grads(sample, (0, 1), modes=["rev", "fwd"], order=1)(0.5, 0.7)


def test_dtypes_are_those_of_pystn():
    image, grid = IMAGE.astype(np.float32), GRID.astype(np.float32)
    # float64 enters after the samples: autograd hands cotangents and tangents of that on.
    loss = lambda image, grid: anp.sum(stn.grid_sample(image, grid) * IMAGE[:, :, :3, :4])  # noqa: E731
    assert [g.dtype for g in grad(loss, (0, 1))(image, grid)] == [np.float32] * 2
    assert make_jvp(lambda image: stn.grid_sample(image, grid))(image)(IMAGE)[1].dtype == np.float32
    product = make_hvp(loss, (0, 1))(image, grid)[0]((IMAGE, GRID))
    assert [g.dtype for g in product] == [np.float32] * 2

    pixels = (100 * np.abs(IMAGE)).astype(np.uint8)
    assert stn.grid_sample(pixels, grid).dtype == np.uint8
    gradients = grad(loss, 0)(pixels, grid), grad(loss, 1)(pixels, grid)
    expected = pystn.grid_sample_vjp(IMAGE[:, :, :3, :4].astype(np.float32), pixels, grid)
    for found, other in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(found, other)


def test_numbers_are_options_with_gradients():
    beyond = np.full((1, 3, 2), 5.0)
    loss = lambda fill: anp.sum(stn.grid_sample(IMAGE, beyond, padding_mode="constant", fill_value=fill))  # noqa: E731
    assert loss(0.5) == loss(np.float64(0.5)) == 6.0
    assert grad(loss)(0.5) == 12.0
    assert grad(loss)(np.float64(0.5)) == 12.0
    np.testing.assert_array_equal(grad(loss)(np.array([0.25, 0.5])), [6.0, 6.0])
    np.testing.assert_array_equal(grad(loss)(np.array([0, 1])), [6.0, 6.0])

    blur = lambda sigma: stn.grid_sample(IMAGE, GRID, pystn.Gaussian(1.0), kernel=sigma)  # noqa: E731
    np.testing.assert_array_equal(blur(0.7), pystn.grid_sample(IMAGE, GRID, pystn.Gaussian(0.7)))


def test_only_the_mask_or_only_the_samples():
    def sample(k):
        return lambda grid: stn.grid_sample(IMAGE, grid, return_mask=True)[k]

    for k in range(2):
        check_grads(sample(k), modes=["rev"], order=2)(1.3 * GRID)
        check_grads(sample(k), modes=["fwd"], order=1)(1.3 * GRID)

    # The derivative along the cotangent of one result alone, then the second one of that.
    def pulled(grid):
        return make_jvp(lambda g: make_vjp(sample(0))(grid)[0](g))(sample(0)(GRID))(sample(0)(GRID))[1]

    check_grads(pulled, modes=["rev"], order=1)(1.3 * GRID)

    pullback, (samples, mask) = make_vjp(lambda grid: stn.grid_sample(IMAGE, grid, return_mask=True))(1.3 * GRID)
    check_grads(lambda g: pullback((samples, g)), modes=["rev", "fwd"], order=1)(mask)


def test_a_second_derivative_passes_options_that_it_does_not_need():
    """The gradient to the fill value is there, and what is made of the others goes on."""
    loss = lambda grid, fill: anp.sum(  # noqa: E731
        stn.grid_sample(IMAGE, grid, "cubic", "constant", fill_value=fill) ** 2
    )
    both = lambda grid: anp.sum(grad(loss, (0, 1))(grid, 0.5)[0] ** 2)  # noqa: E731
    alone = lambda grid: anp.sum(grad(loss, 0)(grid, 0.5) ** 2)  # noqa: E731
    np.testing.assert_array_equal(grad(both)(GRID), grad(alone)(GRID))


def test_what_there_is_not():
    fill = lambda fill: anp.sum(stn.grid_sample(IMAGE, GRID * 2, padding_mode="constant", fill_value=fill) ** 2)  # noqa: E731
    loss = lambda grid: anp.sum(stn.grid_sample(IMAGE, grid, "cubic"))  # noqa: E731
    twice = lambda grid: anp.sum(grad(loss)(grid) ** 2)  # noqa: E731
    slopes = lambda grid: anp.sum(stn.grid_gradient(IMAGE, grid) ** 2)  # noqa: E731
    forward = lambda f: lambda x: make_jvp(f)(x)(x)[1]  # noqa: E731
    for call, words in [
        (lambda: grad(grad(fill))(0.5), "no second-order derivatives to fill_value"),
        (lambda: grad(grad(twice))(GRID), "asked for the third"),
        (lambda: forward(grad(twice))(GRID), "asked for the third"),
        (lambda: grad(lambda grid: anp.sum(grad(slopes)(grid)))(GRID), "no second-order derivatives"),
        (lambda: forward(forward(loss))(GRID), "in forward mode alone"),
    ]:
        with pytest.raises(NotImplementedError, match=words):
            call()


class Tensor:
    """An array of another framework."""

    shape = (1, 2, 5, 6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: stn.grid_sample(Tensor(), GRID), "input must be a numpy.ndarray.*got .*Tensor"),
        (lambda: stn.grid_sample(IMAGE, GRID.tolist()), "grid must be a numpy.ndarray.*got builtins.list"),
        (lambda: stn.grid_sample(IMAGE, GRID, fill_value=Tensor()), "fill_value must be a numpy.ndarray.*Tensor"),
        (lambda: stn.grid_sample(IMAGE, GRID, pystn.Cubic(), kernel=[None, [1.0]]), "kernel.1 must be.*list"),
        (lambda: grad(lambda x: stn.grid_sample(x, GRID)[0, 0, 0, 0])([IMAGE]), "input must be.*got builtins.list"),
        (lambda: grad(lambda x: anp.sum(stn.grid_sample(IMAGE, GRID, fill_value=[x, x])))(1.0), "no gradient to fill"),
        (lambda: grad(lambda x: anp.sum(stn.forward_warp(IMAGE, GRID, (5, 6), eps=x)))(0.1), "no gradient to eps"),
        (lambda: stn.grid_sample(IMAGE, GRID, out=IMAGE), "no argument 'out'"),
        (lambda: stn.grid_sample(IMAGE), "grid missing"),
        (lambda: stn.apply(np.sin, IMAGE), "expected a differentiable function of pystn"),
        (lambda: stn.grid_sample(IMAGE.astype(int), GRID), "input must be one of"),
    ],
)
def test_errors(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_without_autograd():
    found = run("import sys; sys.modules['autograd'] = None; import pystn.autograd")
    assert found.returncode == 1
    assert 'ImportError: pystn.autograd needs autograd: pip install "pystn[autograd]"' in found.stderr
    found = run("import sys, pystn; sys.exit('autograd' in sys.modules)")
    assert found.returncode == 0
