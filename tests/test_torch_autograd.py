"""pystn on torch tensors under all that torch does with functions: torch.func, and graphs of autograd."""

import gc
import threading
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter of PyTorch needs it")

from jacobians import assert_adjoint  # noqa: E402
from operations import CASES  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.autograd import gradcheck  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch_cases import (  # noqa: E402
    FILTERS,
    FIRST_ORDER_OPTIONS,
    Problem,
    close,
    every_case,
    images_and_grid,
    listed,
    same,
    selected,
    squares,
    uniform,
    with_gradients,
)

import pystn  # noqa: E402
import pystn.torch as stn  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(words) for words in FILTERS]

THIRD = "pystn has derivatives to the second order"


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
