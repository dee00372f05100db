"""pystn on torch tensors: every operation of the table under all that torch does with functions and with tensors."""

import copy
import gc
import inspect
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter of PyTorch needs it")

import torch.nn.functional as F  # noqa: E402
from jacobians import assert_adjoint  # noqa: E402
from operations import CASES  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch_cases import FILTERS, Problem, listed, selected  # noqa: E402

import pystn  # noqa: E402
import pystn.torch as stn  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(words) for words in FILTERS]

every_case = pytest.mark.parametrize("case", **selected())
curved_case = pytest.mark.parametrize("case", **selected(lambda case: case.operation.second_order))
FIRST_ORDER_OPTIONS = [case for case in CASES if case.arrays and not case.operation.curved_parameters]
THIRD = "pystn has derivatives to the second order"


def close(found, expected, tolerance=1e-11):
    """Of the same dtype, shape and values."""
    found, expected = listed(found), listed(expected)
    assert [f.dtype for f in found] == [e.dtype for e in expected]
    assert [f.shape for f in found] == [e.shape for e in expected]
    for f, e in zip(found, expected, strict=True):
        scale = max(e.detach().abs().max().item() if e.numel() else 0, 1e-3)
        torch.testing.assert_close(f, e, rtol=0, atol=tolerance * scale)


def same(found, expected):
    """Bit for bit."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    bits = [t.detach().resolve_conj().resolve_neg().contiguous().flatten() for t in (found, expected)]
    bits = [t.view(torch.int16) if t.dtype == torch.bfloat16 else t for t in bits]
    assert bits[0].numpy().tobytes() == bits[1].numpy().tobytes()


def uniform(*shape, dtype=torch.float64, seed=0, **kind):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=dtype, **kind)


def images_and_grid(dtype=torch.float64, batch=2, requires_grad=True):
    image = uniform(batch, 3, 7, 6, dtype=dtype)
    grid = 2.4 * uniform(batch, 4, 5, 2, dtype=dtype, seed=1) - 1.2
    return image.requires_grad_(requires_grad), grid.requires_grad_(requires_grad)


def squares(*outputs):
    """A loss whose cotangents and curvature are no constants, not for rotations either."""
    total = 0
    for output in outputs:
        square = output.abs() ** 2 if output.is_complex() else output**2
        weights = torch.linspace(0.5, 1.5, output.numel(), dtype=square.dtype).reshape(output.shape)
        total = total + (weights * square).sum()
    return total


# ---- the table


def test_every_operation_has_a_function_here():
    assert set(stn.__all__) >= {"apply", *pystn.ops.OPERATIONS}
    for name in pystn.ops.OPERATIONS:
        function = getattr(stn, name)
        assert function.__name__ == name
        assert f"pystn.{name}" in inspect.getdoc(function)


@every_case
def test_values_are_those_on_arrays_bit_for_bit(case):
    problem = Problem(case)
    arrays = problem.arrays()
    found = listed(problem(*problem.tensors()))
    options = problem.options(arrays)
    call, given = pystn.calls.bind(
        problem.operation, arrays[: problem.count], options, lambda value: isinstance(value, np.ndarray)
    )
    expected = call.forward(given)
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert isinstance(f, torch.Tensor)
        same(f, torch.from_numpy(np.array(e)))


@pytest.mark.parametrize("name", ["grid_sample", "affine_grid", "box_iou"])
def test_functions_names_and_pystns_functions_are_the_same(name):
    problem = Problem(next(case for case in CASES if case.operation.name == name))
    given = problem.tensors()
    options = problem.options(given)
    expected = getattr(stn, name)(*given, **options)
    same(stn.apply(name, *given, **options), expected)
    same(stn.apply(getattr(pystn, name), *given, **options), expected)


def slow(problem):
    """Whether a numerical Jacobian, column by column, is small enough."""
    outputs = listed(problem(*problem.tensors(requires_grad=False)))
    return sum(t.numel() for t in problem.tensors()) * (1 + sum(o.numel() for o in outputs) // 100) <= 150


@every_case
def test_gradcheck(case):
    problem = Problem(case)
    assert gradcheck(
        problem,
        problem.tensors(),
        check_forward_ad=True,
        check_undefined_grad=True,
        fast_mode=not slow(problem),
    )


@curved_case
def test_gradgradcheck(case):
    f, given = Problem(case).curved()
    assert gradgradcheck(f, given, check_fwd_over_rev=True, check_undefined_grad=True, fast_mode=True)


def test_which_cases_have_first_order_only():
    first_order = {case.operation.name for case in CASES if not case.operation.second_order}
    assert first_order == {"grid_gradient", "linearized_grid_sample"}
    assert {name for case in FIRST_ORDER_OPTIONS for name in case.arrays} == {"fill_value", "kernel", "mask"}


@pytest.mark.parametrize("case", FIRST_ORDER_OPTIONS, ids=str)
def test_options_of_samplers_have_no_second_order(case):
    problem = Problem(case)
    given = problem.tensors()
    image, option = given[0], given[-1]
    (gradient,) = torch.autograd.grad(squares(*listed(problem(*given))), image, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second-order derivatives to"):
        torch.autograd.grad(gradient.sum(), option)
    (gradient,) = torch.autograd.grad(squares(*listed(problem(*given))), option, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second-order derivatives to"):
        torch.autograd.grad(gradient.sum(), image)


def test_grid_gradient_has_no_second_order():
    problem = Problem(next(case for case in CASES if case.operation.name == "grid_gradient"))
    given = problem.tensors()
    gradients = torch.autograd.grad(squares(problem(*given)), given, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second-order derivatives"):
        torch.autograd.grad(gradients[0].sum(), given)


# ---- torch.func


@every_case
def test_vjp_and_jvp(case):
    problem = Problem(case)
    given = problem.tensors(requires_grad=False)
    tangents = [uniform(*t.shape, seed=k + 1) - 0.5 for k, t in enumerate(given)]
    outputs, pull = torch.func.vjp(problem, *given)
    cotangents = [uniform(*o.shape, seed=11) - 0.5 for o in listed(outputs)]
    gradients = pull(tuple(cotangents) if len(cotangents) > 1 else cotangents[0])
    again, pushed = torch.func.jvp(problem, tuple(given), tuple(tangents))
    for a, b in zip(listed(outputs), listed(again), strict=True):
        same(a, b)
    flat = [torch.cat([t.flatten() for t in ts]).numpy() for ts in (listed(pushed), cotangents)]
    assert_adjoint(*flat, [g.numpy() for g in gradients], [t.numpy() for t in tangents])


SMALL = selected(
    lambda case: (
        case.operation.second_order and not case.arrays and sum(np.size(array) for array in case.primals()) <= 40
    )
)
small_case = pytest.mark.parametrize("case", **SMALL)


@small_case
def test_jacobians_of_both_modes_are_the_same(case):
    problem = Problem(case)
    given = problem.tensors(requires_grad=False)
    every = tuple(range(len(given)))
    reverse = torch.func.jacrev(problem, argnums=every)(*given)
    forward = torch.func.jacfwd(problem, argnums=every)(*given)
    close(reverse, forward)


@small_case
def test_hessians_of_all_modes_are_the_same(case):
    problem = Problem(case)
    given = problem.tensors(requires_grad=False)

    def loss(first):
        return squares(*listed(problem(first, *given[1:])))

    hessian = torch.func.hessian(loss)(given[0])
    assert hessian.abs().max() > 0
    close(torch.func.jacrev(torch.func.jacrev(loss))(given[0]), hessian)
    close(torch.func.jacrev(torch.func.jacfwd(loss))(given[0]), hessian)
    close(torch.autograd.functional.hessian(loss, given[0]), hessian)


def test_the_cases_of_jacobians_are_many():
    assert len({case.operation.name for case in SMALL["argvalues"]}) > 15


CURVED = ["grid_sample-1d", "compose-left", "thin-plate-2d", "affine_grid-2d"]


@pytest.mark.parametrize("name", CURVED)
def test_derivatives_of_the_third_order_are_refused(name):
    problem = Problem(next(case for case in CASES if case.name == name))
    given = problem.tensors(requires_grad=False)

    def loss(first):
        return squares(*listed(problem(first, *given[1:])))

    jacrev, jacfwd = torch.func.jacrev, torch.func.jacfwd
    for derivative in (
        jacfwd(jacfwd(loss)),
        jacrev(jacrev(jacrev(loss))),
        jacfwd(jacrev(jacrev(loss))),
        jacrev(jacfwd(jacrev(loss))),
        jacrev(jacrev(jacfwd(loss))),
        torch.func.grad(lambda x: torch.func.grad(lambda y: torch.func.grad(loss)(y).sum())(x).sum()),
    ):
        with pytest.raises(NotImplementedError, match=THIRD):
            derivative(given[0])


def stacked(problem, count, dim, shared=()):
    """Tensors of several calls, along an axis, but for those that all share; and those of each call."""
    each = [problem.tensors(seed, requires_grad=False) for seed in range(count)]
    each = [[each[0][k] if k in shared or k >= problem.count else t for k, t in enumerate(ts)] for ts in each]
    dims = tuple(None if k in shared or k >= problem.count else dim for k in range(len(each[0])))
    together = [ts[0] if d is None else torch.stack(ts, d) for ts, d in zip(zip(*each, strict=True), dims, strict=True)]
    return together, dims, each


def stack_each(results):
    return [torch.stack(entries) for entries in zip(*map(listed, results), strict=True)]


@pytest.mark.parametrize("shared", [(), (0,)], ids=["all", "shared"])
@every_case
def test_vmap_is_a_loop(case, shared):
    problem = Problem(case)
    if shared and problem.count < 2:
        shared = range(1, len(problem.arrays()))  # options are shared anyway
    together, dims, each = stacked(problem, 3, -1, shared)
    close(listed(torch.vmap(problem, dims)(*together)), stack_each(problem(*ts) for ts in each))

    every = tuple(range(len(together)))
    gradient = torch.func.grad(lambda *ts: squares(*listed(problem(*ts))), argnums=every)
    close(torch.vmap(gradient, dims)(*together), stack_each(gradient(*ts) for ts in each), 1e-10)


@pytest.mark.parametrize("case", FIRST_ORDER_OPTIONS + [c for c in CASES if c.name == "thin-plate-2d"], ids=str)
def test_vmap_over_options_that_are_tensors(case):
    problem = Problem(case)
    given = problem.tensors(requires_grad=False)
    options = torch.stack([given[-1], 1.1 * given[-1]], -1)
    dims = (None,) * (len(given) - 1) + (-1,)

    def gradient(*ts):
        return torch.func.grad(lambda *ts: squares(*listed(problem(*ts))), argnums=tuple(range(len(ts))))(*ts)

    expected = [gradient(*given[:-1], options[..., k]) for k in range(2)]
    close(torch.vmap(gradient, dims)(*given[:-1], options), stack_each(expected), 1e-10)


def test_vmap_of_no_calls():
    images, grids = torch.zeros(0, 1, 2, 5, 5), torch.zeros(0, 1, 3, 4, 2)
    assert torch.vmap(stn.grid_sample)(images, grids).shape == (0, 1, 2, 3, 4)
    gradient = torch.func.grad(lambda image, grid: stn.grid_sample(image, grid).sum())
    assert torch.vmap(gradient)(images, grids).shape == images.shape


def test_vmap_in_vmap():
    image, grid = images_and_grid(requires_grad=False)
    images = torch.stack([image, image + 1, image - 1])
    grids = torch.stack([grid, 0.5 * grid])
    every_pair = torch.vmap(torch.vmap(stn.grid_sample, (None, 0)), (0, None))
    expected = torch.stack([torch.stack([stn.grid_sample(i, g) for g in grids]) for i in images])
    close(every_pair(images, grids), expected)


def test_gradients_of_single_samples():
    """torch.func.grad of a network's loss, sample by sample, in one call."""
    image, _ = images_and_grid(batch=4, requires_grad=False)
    weight = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 1.1, 0.05]], dtype=torch.float64)

    def loss(weight, image):
        return squares(stn.warp_affine(image[None], weight[None], (5, 5), padding_mode="border"))

    found = torch.vmap(torch.func.grad(loss), (None, 0))(weight, image)
    close(found, torch.stack([torch.func.grad(loss)(weight, i) for i in image]))


def test_what_writes_functions_down_has_operators_or_is_refused():
    """make_fx and what uses it: never a value of the moment for a function."""
    image, grid = images_and_grid(requires_grad=False)

    def gradients(i, g):
        i, g = i.detach().requires_grad_(), g.detach().requires_grad_()
        return torch.autograd.grad(squares(stn.grid_sample(i, g, "cubic")), (i, g))

    written = make_fx(gradients)(image, grid)
    close(written(image + 1, 0.5 * grid), gradients(image + 1, 0.5 * grid))
    with pytest.raises(NotImplementedError, match="written down"):
        make_fx(torch.func.grad(lambda g: stn.grid_sample(image, g).sum()))(grid)
    with pytest.raises(NotImplementedError, match="written down"):
        torch.func.linearize(lambda g: stn.grid_sample(image, g), grid)


def test_fake_tensors():
    with FakeTensorMode():
        image, grid = torch.empty(2, 3, 5, 6, requires_grad=True), torch.empty(2, 4, 4, 2)
        output = stn.grid_sample(image, grid)
        output.sum().backward()
    assert output.shape == (2, 3, 4, 4)
    assert image.grad.shape == image.shape


@pytest.mark.parametrize(
    "jacobian",
    [
        lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
        lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True, strategy="forward-mode"),
        lambda f, x: torch.autograd.grad(f(x), x, torch.ones(2, 1, 2, 3, 3, 2), is_grads_batched=True),
    ],
    ids=["vectorize", "forward", "batched"],
)
def test_the_older_vmap_is_refused_in_words(jacobian):
    theta = torch.eye(2, 3)[None].requires_grad_()
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        jacobian(lambda t: stn.affine_grid(t, (3, 3)).reshape(1, 2, 3, 3)[..., None].expand(-1, -1, -1, -1, 2), theta)


# ---- in place of torch.nn.functional's

BOTH_RANKS = pytest.mark.parametrize("size", [(5, 6), (3, 5, 4)], ids=["4-D", "5-D"])
CORNERS = pytest.mark.parametrize("align_corners", [None, False, True])


def with_gradients(f, *tensors):
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    output = f(*tensors)
    return [output, *torch.autograd.grad(squares(output), tensors)]


@pytest.mark.filterwarnings("ignore:Default (grid_sample|affine_grid) (and|behavior):UserWarning")
@pytest.mark.parametrize("positional", [True, False], ids=["positional", "named"])
@CORNERS
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    "size, mode",
    [((5, 6), "bilinear"), ((5, 6), "nearest"), ((5, 6), "bicubic"), ((3, 5, 4), "bilinear"), ((3, 5, 4), "nearest")],
    ids=str,
)
def test_grid_sample_is_torchs(size, mode, padding_mode, align_corners, positional):
    image = uniform(2, 3, *size) - 0.5
    grid = 3 * uniform(2, *[n - 1 for n in size], len(size), seed=1) - 1.5
    if positional:
        calls = [lambda i, g, f=f: f(i, g, mode, padding_mode, align_corners) for f in (stn.grid_sample, F.grid_sample)]
    else:
        options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
        calls = [lambda i, g, f=f: f(input=i, grid=g, **options) for f in (stn.grid_sample, F.grid_sample)]
    ours, theirs = (with_gradients(f, image, grid) for f in calls)
    close(ours, theirs)


@pytest.mark.filterwarnings("ignore:Default (grid_sample|affine_grid) (and|behavior):UserWarning")
@CORNERS
@pytest.mark.parametrize("named", [True, False], ids=["named", "positional"])
@BOTH_RANKS
def test_affine_grid_is_torchs(size, align_corners, named):
    theta = uniform(2, len(size), len(size) + 1)

    def call(f):
        if named:
            return lambda t: f(theta=t, size=torch.Size((2, 3, *size)), align_corners=align_corners)
        return lambda t: f(t, [2, 3, *size], align_corners)

    close(with_gradients(call(stn.affine_grid), theta), with_gradients(call(F.affine_grid), theta))


@pytest.mark.filterwarnings("ignore:Default (grid_sample|affine_grid) (and|behavior):UserWarning")
def test_defaults_are_torchs():
    image, grid = images_and_grid()
    close(with_gradients(stn.grid_sample, image, grid), with_gradients(F.grid_sample, image, grid))
    theta = uniform(2, 2, 3)
    close(stn.affine_grid(theta, (2, 1, 4, 5)), F.affine_grid(theta, (2, 1, 4, 5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_edges_that_torch_has_too(dtype):
    """Samples on pixels and borders, far away and nowhere."""
    image = uniform(1, 2, 4, 4, dtype=dtype)
    axis = torch.tensor([-1.0, -0.75, -0.25, 0.25, 0.75, 1.0, 1e10, float("nan"), float("inf")], dtype=dtype)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)[None]
    for padding_mode in ("zeros", "border"):
        for align_corners in (False, True):
            ours = stn.grid_sample(image, grid, "bilinear", padding_mode, align_corners)
            theirs = F.grid_sample(image, grid, "bilinear", padding_mode, align_corners)
            finite = grid.isfinite().all(-1).expand(1, 2, -1, -1)[0:1]
            close(ours[finite], theirs[finite], 1e-6)


class Transformer(torch.nn.Module):
    """The network of the paper, small: a localisation net, a sampler, a classifier."""

    def __init__(self, library, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.library = library
        self.localisation = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 5),
            torch.nn.MaxPool2d(2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(144, 6),
        )
        with torch.no_grad():
            self.localisation[-1].weight *= 0.1
            self.localisation[-1].bias.copy_(torch.tensor([0.83, 0.11, 0.02, -0.07, 0.87, 0.03]))
        self.classifier = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 5, stride=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
        )

    def forward(self, image):
        theta = self.localisation(image).reshape(-1, 2, 3)
        grid = self.library.affine_grid(theta, image.shape, align_corners=False)
        return self.classifier(self.library.grid_sample(image, grid, padding_mode="border", align_corners=False))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam], ids=["sgd", "adam"])
def test_training_goes_as_with_torchs_functions(optimizer):
    # Smooth ones: where an image bends the two libraries, which round differently, do not turn off.
    y, x = torch.linspace(-1, 1, 16)[:, None], torch.linspace(-1, 1, 16)
    images = torch.stack([torch.sin(x * (1 + k % 3) + y * (k % 2) + 0.1 * k)[None] for k in range(8)])
    labels = torch.arange(8) % 3
    losses = {}
    for library in (stn, F):
        network = Transformer(library)
        steps = optimizer(network.parameters(), lr=0.003)
        losses[library] = []
        for _ in range(20):
            loss = F.cross_entropy(network(images), labels)
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses[library].append(loss.item())
    assert losses[stn][-1] < losses[stn][0]
    np.testing.assert_allclose(losses[stn], losses[F], rtol=0, atol=1e-5)


# ---- tensors of all kinds


def test_the_cpu_shares_memory(monkeypatch):
    seen = []

    def spy(input, grid, **options):
        seen.extend([input.ctypes.data, grid.ctypes.data])
        return pystn.grid_sample(input, grid, **options)

    operation = pystn.ops.OPERATIONS["grid_sample"]
    monkeypatch.setitem(vars(operation), "forward", spy)
    image, grid = images_and_grid()
    stn.grid_sample(image, grid)
    assert seen == [image.data_ptr(), grid.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.uint8])
def test_both_ways_in_the_same_memory(dtype):
    given = torch.ones(3, 4).to(dtype)
    array = stn.tensors.to_array(given)
    assert str(array.dtype) in str(dtype)
    assert array.__array_interface__["data"][0] == given.data_ptr()
    back = stn.tensors.to_tensor(array)
    assert back.data_ptr() == given.data_ptr()
    same(back, given)


UNCHANGED = [
    ("spline_filter", (uniform(1, 1, 5, 5),), {"order": 1}),
    ("displacement_grid", (torch.zeros(1, 4, 4, 2, dtype=torch.float64),), {}),
    (
        "normalized_to_pixel",
        (torch.eye(2, 3, dtype=torch.float64)[None],),
        {"input_size": (2, 2), "output_size": (2, 2)},
    ),
    ("translation_matrix", (uniform(1, 2),), {}),
    ("theta_to_box", (uniform(1, 2, 3),), {}),
    ("lie_parameters", (torch.zeros(1, 2, 3, dtype=torch.float64),), {"group": "aff2"}),
    ("lie_generator", (uniform(1, 6),), {"group": "aff2"}),
]


@pytest.mark.parametrize("name, given, options", UNCHANGED, ids=[entry[0] for entry in UNCHANGED])
def test_what_changes_nothing_is_a_copy_all_the_same(name, given, options):
    """Results in the memory of arguments would be changed with them, behind autograd's back."""
    given = [t.clone().requires_grad_() for t in given]
    output = getattr(stn, name)(*given, **options)
    cotangent = uniform(*output.shape)
    (gradient,) = torch.autograd.grad(output, given, cotangent)
    (_, pushed) = torch.func.jvp(lambda *ts: getattr(stn, name)(*ts, **options), tuple(given), tuple(given))
    pointers = [t.untyped_storage().data_ptr() for t in (*given, cotangent, output, gradient, pushed)]
    assert len(set(pointers)) == len(pointers)
    output.mul_(2)
    assert output.grad_fn is not None


def layouts(image):
    wide = torch.zeros(*image.shape[:-1], 2 * image.shape[-1], dtype=image.dtype)
    wide[..., ::2] = image
    yield "transposed", image.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield "strided", wide[..., ::2]
    yield "channels_last", image.contiguous(memory_format=torch.channels_last)
    yield "offset", torch.cat([image[:1], image])[1:]
    yield "neg", torch._neg_view(-image)
    yield "parameter", torch.nn.Parameter(image.clone())


@pytest.mark.parametrize("name", [name for name, _ in layouts(torch.zeros(1, 1, 2, 2))])
def test_layouts(name):
    image, grid = images_and_grid(requires_grad=False)
    expected = with_gradients(stn.grid_sample, image, grid)
    given = dict(layouts(image))[name].detach().requires_grad_()
    points = grid.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    output = stn.grid_sample(given, points)
    squares(output).backward()
    same(output, expected[0])
    close([given.grad, points.grad], expected[1:], 1e-13)


def test_expanded_tensors_and_cotangents():
    image, grid = images_and_grid(requires_grad=False)
    small = image[:1, :, :, :1].clone().requires_grad_()
    wide = small.expand(2, 3, 7, 6)
    stn.grid_sample(wide, grid).sum().backward()  # a cotangent of one number
    whole = wide.detach().clone().requires_grad_()
    stn.grid_sample(whole, grid).backward(torch.ones(2, 3, 4, 5, dtype=torch.float64))
    close(small.grad, whole.grad.sum((0, 3), keepdim=True), 1e-13)


def test_conjugated_views_and_complex_images():
    image, grid = images_and_grid(torch.float64, requires_grad=False)
    image = torch.complex(image, image.flip(0))
    conjugated = image.conj()
    assert conjugated.is_conj()
    same(stn.grid_sample(conjugated, grid), stn.grid_sample(conjugated.clone().resolve_conj(), grid))
    given = [image.requires_grad_(), grid.requires_grad_()]
    assert gradcheck(stn.grid_sample, given, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(stn.grid_sample, given, check_fwd_over_rev=True, fast_mode=True)
    theta = torch.eye(2, 3, dtype=torch.float64).add(0.1)[None].requires_grad_()
    assert gradcheck(lambda i, t: stn.warp_affine(i[:1], t, (4, 4)), [image, theta], fast_mode=True)
    single = stn.grid_sample(image.detach().to(torch.complex64), grid.detach().float())
    assert single.dtype == torch.complex64
    close(single.to(torch.complex128), stn.grid_sample(image, grid), 1e-6)


def test_complex_images_by_hand():
    """The convention of torch: a gradient is d/d re + i d/d im."""
    image, grid = images_and_grid(torch.float64, requires_grad=False)
    image = torch.complex(image, image.flip(0)).requires_grad_()
    stn.grid_sample(image, grid).abs().pow(2).sum().backward()
    parts = [part.detach().clone().requires_grad_() for part in (image.real, image.imag)]
    sum(stn.grid_sample(part, grid).pow(2).sum() for part in parts).backward()
    close(image.grad, torch.complex(parts[0].grad, parts[1].grad), 1e-13)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_images_of_half_precision(dtype, tolerance):
    image, grid = images_and_grid(torch.float32, requires_grad=False)
    given = [image.to(dtype).requires_grad_(), grid.requires_grad_()]
    output = stn.grid_sample(*given)
    output.float().sum().backward()
    assert [output.dtype, given[0].grad.dtype, given[1].grad.dtype] == [dtype, dtype, torch.float32]
    expected = [image.to(dtype).float().requires_grad_(), grid.detach().clone().requires_grad_()]
    exact = stn.grid_sample(*expected)
    exact.sum().backward()
    close(output.float(), exact, tolerance)
    close(given[0].grad.float(), expected[0].grad, tolerance)
    close(given[1].grad, expected[1].grad, tolerance)
    pushed = torch.func.jvp(stn.grid_sample, tuple(g.detach() for g in given), tuple(g.detach() for g in given))[1]
    assert pushed.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_of_half_precision_are_raised(dtype):
    theta = torch.eye(2, 3, dtype=dtype)[None].requires_grad_()
    grid = stn.affine_grid(theta, (4, 4))
    assert grid.dtype == torch.float32
    image = torch.ones(1, 1, 4, 4, dtype=dtype)
    output = stn.grid_sample(image, grid.to(dtype))
    assert output.dtype == dtype
    output.sum().backward()
    assert theta.grad.dtype == dtype
    filled = stn.grid_sample(image, 3 + 0 * grid, padding_mode="constant", fill_value=torch.tensor(0.5, dtype=dtype))
    assert (filled == 0.5).all()


def test_autocast():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))
    image = uniform(4, 1, 8, 8, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theta = network(image).reshape(-1, 2, 3)
        assert theta.dtype == torch.bfloat16
        output = stn.warp_affine(image, theta, (8, 8))
        half = stn.warp_affine(F.conv2d(image, torch.ones(1, 1, 3, 3)), theta, (8, 8))
        assert half.dtype == torch.bfloat16
    assert output.dtype == torch.float32
    (output.sum() + half.sum()).backward()
    assert network[1].weight.grad.dtype == torch.float32
    assert network[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16])
def test_integer_images(dtype):
    image = (200 * uniform(1, 2, 6, 6)).to(dtype)
    theta = torch.eye(2, 3)[None].add(0.1).requires_grad_()
    output = stn.warp_affine(image, theta, (5, 5))
    assert output.dtype == dtype
    assert not output.requires_grad
    values, mask = stn.warp_affine(image, theta, (5, 5), return_mask=True)
    assert not values.requires_grad
    assert mask.requires_grad
    mask.sum().backward()
    assert theta.grad.abs().sum() > 0
    numbers = torch.from_numpy(pystn.warp_affine(image.numpy(), theta.detach().numpy(), (5, 5), return_mask=True)[0])
    same(values, numbers)


def test_integer_images_in_forward_mode():
    image = (200 * uniform(1, 2, 6, 6)).to(torch.uint8)
    theta = torch.eye(2, 3, dtype=torch.float64)[None].add(0.1)

    def warp(theta):
        return stn.warp_affine(image, theta, (5, 5), return_mask=True)

    with torch.autograd.forward_ad.dual_level():
        moved = torch.autograd.forward_ad.make_dual(theta, torch.ones_like(theta))
        values, mask = (torch.autograd.forward_ad.unpack_dual(t).tangent for t in warp(moved))
        alone = torch.autograd.forward_ad.unpack_dual(stn.warp_affine(image, moved, (5, 5))).tangent
    assert values is None
    assert alone is None
    ones = np.ones((1, 2, 3))
    expected = pystn.warp_affine_jvp(image.numpy(), theta.numpy(), None, ones, (5, 5), return_mask=True)
    same(mask, torch.from_numpy(expected[1]))
    forward, reverse = (jacobian(lambda t: warp(t)[1])(theta) for jacobian in (torch.func.jacfwd, torch.func.jacrev))
    close(forward.double(), reverse, 1e-6)


def one_batch(case):
    """Whether all of a case's arrays have its batch, and its options none."""
    return not case.arrays and len({len(a) for a in case.primals()}) == 1 and len(case.options.get("size", ())) < 4


@pytest.mark.parametrize("case", **selected(one_batch))
def test_empty_batches(case):
    problem = Problem(case)
    given = [t.detach()[:0].requires_grad_() for t in problem.tensors()]
    outputs = listed(problem(*given))
    assert all(output.shape[0] == 0 for output in outputs)
    squares(*outputs).backward()
    assert [t.grad.shape for t in given] == [t.shape for t in given]
    meta = listed(problem(*[t.detach().to("meta") for t in given]))
    assert [m.shape for m in meta] == [o.shape for o in outputs]


@pytest.mark.parametrize("of_image, of_grid", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_images_and_grids_of_two_precisions(of_image, of_grid):
    image, grid = images_and_grid(torch.float32, requires_grad=False)
    found = with_gradients(stn.grid_sample, image.to(of_image), grid.to(of_grid))
    assert [t.dtype for t in found] == [of_image, of_image, of_grid]
    expected = with_gradients(stn.grid_sample, image.double(), grid.double())
    close([t.double() for t in found], expected, 1e-5)
    image, grid = image.to(of_image), grid.to(of_grid)
    assert torch.func.jvp(stn.grid_sample, (image, grid), (image, grid))[1].dtype == of_image


# ---- the meta device


def metas(tensors):
    return [t.detach().to("meta").requires_grad_(t.requires_grad) for t in tensors]


def described(tensors):
    return [(t.shape, t.dtype) for t in tensors]


@every_case
def test_meta_tensors_have_shapes_and_dtypes_in_all_directions(case):
    problem = Problem(case)

    def everything(given):
        outputs = listed(problem(*given))
        gradients = torch.autograd.grad(squares_of(outputs), given, create_graph=True)
        seconds = []
        if case.operation.second_order and (case.operation.curved_parameters or not case.arrays):
            seconds = torch.autograd.grad(squares_of(gradients), given)
        pushed = torch.func.jvp(problem, tuple(t.detach() for t in given), tuple(t.detach() for t in given))[1]
        return [*outputs, *gradients, *seconds, *listed(pushed)]

    def squares_of(tensors):
        return sum((t**2).sum() for t in tensors)

    for dtype in (torch.float64, torch.float32):
        given = problem.tensors(dtype=dtype)
        real, imagined = everything(given), everything(metas(given))
        assert described(imagined) == described(real)
        assert all(t.is_meta for t in imagined)


def test_meta_tensors_of_other_dtypes():
    for dtype in (torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.complex64):
        image, grid = torch.ones(1, 2, 5, 5).to(dtype), torch.zeros(1, 3, 3, 2)
        real = stn.grid_sample(image, grid, return_mask=True)
        assert described(stn.grid_sample(image.to("meta"), grid.to("meta"), return_mask=True)) == described(real)


# ---- what autograd does


def test_without_gradients():
    image, grid = images_and_grid()
    with torch.no_grad():
        assert not stn.grid_sample(image, grid).requires_grad
    with torch.inference_mode():
        output = stn.grid_sample(image, grid)
    assert output.is_inference()
    same(output, stn.grid_sample(image, grid))
    assert not stn.grid_sample(image.detach(), grid.detach()).requires_grad


def test_only_what_needs_a_gradient_is_computed(monkeypatch):
    asked = []
    operation = pystn.ops.OPERATIONS["grid_sample"]
    vjp = operation.functions[0]

    def spy(*arrays, wrt, **options):
        asked.append(tuple(wrt))
        return vjp(*arrays, wrt=wrt, **options)

    monkeypatch.setitem(vars(operation), "functions", (spy, *operation.functions[1:]))
    image, grid = images_and_grid()
    stn.grid_sample(image.detach(), grid).sum().backward()
    stn.grid_sample(image, grid.detach()).sum().backward()
    stn.grid_sample(image, grid).sum().backward()
    assert asked == [("grid",), ("input",), ("input", "grid")]


def test_a_change_in_place_is_noticed():
    image, grid = images_and_grid(requires_grad=False)
    grid.requires_grad_()
    output = stn.grid_sample(image, grid)
    image.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_outputs_may_be_changed_in_place():
    image, grid = images_and_grid()
    output = stn.grid_sample(image, grid)
    output.mul_(2).relu_()
    (found,) = torch.autograd.grad(output.sum(), grid)
    (expected,) = torch.autograd.grad((2 * stn.grid_sample(image, grid)).relu().sum(), grid)
    close(found, expected)


def test_graphs_are_used_twice():
    image, grid = images_and_grid()
    loss = squares(stn.grid_sample(image, grid))
    first = torch.autograd.grad(loss, (image, grid), retain_graph=True)
    second = torch.autograd.grad(loss, (image, grid))
    for a, b in zip(first, second, strict=True):
        same(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, image)


def test_gradients_add_up():
    """Into memory of their own: that of a first gradient, or of a cotangent, is not touched."""
    image, grid = images_and_grid()
    cotangent = torch.ones(2, 3, 4, 5, dtype=torch.float64)
    stn.grid_sample(image, grid).backward(cotangent)
    once, pointer = image.grad.clone(), image.grad.data_ptr()
    stn.grid_sample(image, grid).backward(cotangent)
    assert image.grad.data_ptr() == pointer
    close(image.grad, 2 * once, 1e-13)
    assert (cotangent == 1).all()


def test_one_tensor_as_two_arguments():
    theta = torch.eye(3, dtype=torch.float64).add(0.1)[None].requires_grad_()
    assert gradcheck(lambda t: stn.compose(t, t), theta)


def test_hooks_and_retained_gradients():
    image, grid = images_and_grid()
    seen = []
    output = stn.grid_sample(image, grid)
    output.retain_grad()
    grid.register_hook(lambda g: seen.append(g.shape) or 2 * g)
    output.sum().backward()
    assert seen == [grid.shape]
    assert (output.grad == 1).all()
    close(grid.grad, 2 * torch.func.grad(lambda g: stn.grid_sample(image, g).sum())(grid.detach()))


def test_saved_tensors_go_through_hooks_and_checkpoints():
    image, grid = images_and_grid()
    expected = with_gradients(stn.grid_sample, image, grid)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or len(packed) - 1, packed.__getitem__):
        output = stn.grid_sample(image, grid)
    close(torch.autograd.grad(squares(output), (image, grid)), expected[1:])
    assert len(packed) >= 2
    output = torch.utils.checkpoint.checkpoint(stn.grid_sample, image, grid, use_reentrant=False)
    close(torch.autograd.grad(squares(output), (image, grid)), expected[1:])


def test_memory_is_freed():
    image, grid = images_and_grid()
    output = stn.grid_sample(image, grid)
    squares(output).backward()
    gone = [weakref.ref(t) for t in (output, output.grad_fn)]
    del output
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


@contextmanager
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def test_deterministic_algorithms_are_asked_for(monkeypatch):
    asked = []
    operation = pystn.ops.OPERATIONS["grid_sample"]

    def spy(*arrays, **options):
        asked.append(options.get("deterministic"))
        return pystn.grid_sample(*arrays, **options)

    monkeypatch.setitem(vars(operation), "forward", spy)
    image, grid = images_and_grid()
    stn.grid_sample(image, grid)
    with deterministic():
        stn.grid_sample(image, grid)
        stn.grid_sample(image, grid, deterministic=False)
        stn.affine_grid(torch.eye(2, 3)[None], (2, 2))  # which has no such option
    assert asked == [None, True, False]
    assert not torch.are_deterministic_algorithms_enabled()


def test_two_threads_differentiate_at_once():
    inputs = [[t.detach().requires_grad_() for t in images_and_grid(batch=8)] for _ in range(2)]
    expected = with_gradients(stn.grid_sample, *inputs[0])[1:]
    barrier, failed = threading.Barrier(2), []

    def work(image, grid):
        barrier.wait()
        try:
            for _ in range(20):
                close(torch.autograd.grad(squares(stn.grid_sample(image, grid)), (image, grid)), expected)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=given) for given in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed


class Warp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.family = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (6, 5))
        self.theta = torch.nn.Parameter(torch.from_numpy(self.family.identity()).float() + 0.01)

    def forward(self, image):
        return stn.grid_sample(image, stn.apply(self.family, self.theta))


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_modules_with_a_family_are_copied_and_pickled(used):
    network, image = Warp(), uniform(1, 2, 8, 8, dtype=torch.float32)
    if used:
        network(image).sum().backward()
    expected = network(image)
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(buffer, weights_only=False),
    ):
        same(other(image), expected)
        other.theta.grad = None
        other(image).sum().backward()
        assert other.theta.grad.abs().sum() > 0
        assert other.family is not network.family
        assert pystn.ops.operation(other.family).source is other.family


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_worker_of_a_data_loader():
    """In a process of its own: none can be forked where other tests have started the threads of JAX."""
    python("""
        import torch
        import pystn.torch as stn

        class Rotated(torch.utils.data.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                image = torch.arange(3 * 64 * 64, dtype=torch.float32).reshape(1, 3, 64, 64) + index
                theta = torch.eye(2, 3)[None].mul(0.5 + 0.1 * index).requires_grad_()
                output = stn.warp_affine(image, theta, (64, 64))
                output.sum().backward()
                return output[0].detach(), theta.grad[0]

        dataset = Rotated()
        expected = [dataset[k] for k in range(4)]
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
        for found, values in zip(loader, expected, strict=True):
            for one, other in zip(found, values, strict=True):
                assert torch.equal(one, other)
    """)


# ---- errors

IMAGE, GRID = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 2, 2)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: stn.grid_sample(np.zeros((1, 1, 4, 4)), GRID), TypeError, r"input must be a torch.Tensor, got numpy"),
        (lambda: stn.grid_sample(IMAGE, np.zeros((1, 2, 2, 2))), TypeError, r"grid must be .*got numpy.ndarray"),
        (lambda: stn.grid_sample(IMAGE, [[[[0.0, 0.0]]]]), TypeError, r"grid must be .*got builtins.list"),
        (lambda: stn.grid_sample(IMAGE, None), TypeError, r"grid must be a torch.Tensor"),
        (lambda: stn.grid_sample(IMAGE.to_sparse(), GRID), TypeError, "input must be a dense tensor"),
        (lambda: stn.grid_sample(IMAGE[0, 0].to_sparse_csr(), GRID), TypeError, "input must be a dense tensor"),
        (lambda: stn.grid_sample(IMAGE.to_mkldnn(), GRID), TypeError, "input must be a dense tensor"),
        (lambda: stn.grid_sample(torch.nested.nested_tensor([IMAGE[0]]), GRID), TypeError, "must be a dense tensor"),
        (lambda: stn.grid_sample(IMAGE.to("meta"), GRID), TypeError, "input is on meta and grid on cpu"),
        (lambda: stn.grid_sample(IMAGE, GRID.to("meta")), TypeError, "input is on cpu and grid on meta"),
        (lambda: stn.grid_sample(IMAGE, GRID, fill_value=torch.zeros(1).to("meta")), TypeError, "fill_value on meta"),
        (lambda: stn.grid_sample(IMAGE.bool(), GRID), TypeError, "got torch.bool"),
        (lambda: stn.grid_sample(IMAGE.long(), GRID), TypeError, "got torch.int64"),
        (lambda: stn.grid_sample(IMAGE.double().long().to("meta"), GRID.to("meta")), TypeError, "got torch.int64"),
        (lambda: stn.grid_sample(IMAGE, GRID.long()), TypeError, "grid|int64"),
        (lambda: stn.grid_sample(IMAGE, GRID[..., :1]), ValueError, "grid"),
        (lambda: stn.grid_sample(IMAGE, GRID, out=torch.zeros(1, 1, 2, 2)), TypeError, "no argument 'out'"),
        (lambda: stn.grid_sample(IMAGE, GRID, interpolation="linear"), TypeError, "no argument 'interpolation'"),
        (lambda: stn.grid_sample(IMAGE, GRID, mode="quintic"), ValueError, "quintic"),
        (lambda: stn.grid_sample(IMAGE), TypeError, "grid missing"),
        (lambda: stn.grid_sample(IMAGE, GRID, grid=GRID), TypeError, "twice"),
        (lambda: stn.grid_sample(IMAGE, GRID, "cubic", "zeros", False, 1), TypeError, "by position"),
        (lambda: stn.affine_grid(torch.eye(2, 3)[None], IMAGE), (TypeError, ValueError), "size"),
        (lambda: stn.apply(np.sin, IMAGE), TypeError, "expected a differentiable function of pystn"),
        (lambda: stn.apply("grid_simple", IMAGE, GRID), TypeError, "expected a differentiable function of pystn"),
        (lambda: stn.apply("affine_matrix", IMAGE[0, 0, 0, :3]), (TypeError, ValueError), "params"),
    ],
)
def test_errors_say_what_was_expected(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_dtypes_that_do_not_go_together_are_refused_as_pystn_does():
    first, second = torch.eye(2, 3)[None], torch.eye(2, 3, dtype=torch.float64)[None]
    with pytest.raises(TypeError) as expected:
        pystn.compose(first.numpy(), second.numpy())
    with pytest.raises(TypeError) as found:
        stn.compose(first, second)
    assert str(found.value) == str(expected.value)


def python(code):
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_without_torch_an_import_names_the_extra():
    python("""
        import sys
        sys.modules["torch"] = None
        import pystn
        try:
            import pystn.torch
        except ImportError as error:
            assert 'pip install "pystn[torch]"' in str(error), error
        else:
            raise SystemExit("no error")
    """)


def test_pystn_does_not_import_torch():
    python("""
        import sys, pystn
        assert "torch" not in sys.modules and "pystn.torch" not in sys.modules
    """)


IMAGES_OF_MEMORY = [
    case for case in CASES if case.operation.primals[0] in ("input", "values") and "channel_axis" not in case.options
]


@pytest.mark.parametrize("case", IMAGES_OF_MEMORY, ids=str)
def test_channels_last_in_memory_are_read_so_and_stay_so(case, monkeypatch):
    """Tensors of memory format channels_last: the same values and gradients, the channels last in memory again."""
    problem = Problem(case)
    image, *rest = problem.tensors()
    moved = image.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    expected, found = listed(problem(image, *rest)), listed(problem(moved, *rest))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    axis = -2 if case.operation.name == "grid_gradient" else -1
    assert found[0].movedim(1, axis).is_contiguous()
    cotangent = torch.ones_like(expected[0])
    (to_image,) = torch.autograd.grad(expected[0], image, cotangent)
    (to_moved,) = torch.autograd.grad(found[0], moved, cotangent)
    torch.testing.assert_close(to_moved, to_image, rtol=0, atol=1e-12)

    called, forward = [], pystn.calls.Call.forward
    monkeypatch.setattr(
        pystn.calls.Call, "forward", lambda self, arrays: called.append(dict(self.options)) or forward(self, arrays)
    )
    problem(moved, *rest)
    assert called[0]["channel_axis"] == -1
