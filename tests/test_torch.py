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
    bits = [tensor.detach().resolve_conj().contiguous().flatten() for tensor in (found, expected)]
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
    assert set(stn.__all__) == {"apply", *pystn.ops.OPERATIONS}
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
    assert {case.operation.name for case in CASES if not case.operation.second_order} == {"grid_gradient"}
    assert {name for case in FIRST_ORDER_OPTIONS for name in case.arrays} == {"fill_value", "kernel"}


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
    lambda case: case.operation.second_order
    and not case.arrays
    and sum(np.size(array) for array in case.primals()) <= 40
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
    together = [
        ts[0] if d is None else torch.stack(ts, d) for ts, d in zip(zip(*each, strict=True), dims, strict=True)
    ]
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


def test_vmap_in_vmap():
    image, grid = images_and_grid(requires_grad=False)
    images = torch.stack([image, image + 1, image - 1])
    grids = torch.stack([grid, 0.5 * grid])
    every_pair = torch.vmap(torch.vmap(stn.grid_sample, (None, 0)), (0, None))
    expected = torch.stack([torch.stack([stn.grid_sample(i, g) for g in grids]) for i in images])
    close(every_pair(images, grids), expected)


def test_gradients_of_single_samples():
    """torch.func.grad of a network's loss, sample by sample, in one call."""
    image, grid = images_and_grid(batch=4, requires_grad=False)
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
    with pytest.raises((NotImplementedError, RuntimeError), match=r"pystn|forward AD"):
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
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@BOTH_RANKS
def test_grid_sample_is_torchs(size, mode, padding_mode, align_corners, positional):
    if mode == "bicubic" and len(size) == 3:
        pytest.skip("torch has no tricubic")
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
            torch.nn.Conv2d(1, 4, 5), torch.nn.MaxPool2d(2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 6)
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
