"""pystn on torch tensors: every operation of the table, in place of torch's own functions, in modules; errors.

torch.func and graphs are in `test_torch_autograd.py`, tensors of all kinds in `test_torch_tensors.py`.
"""

import copy
import inspect
import io
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter of PyTorch needs it")

import torch.nn.functional as F  # noqa: E402
from operations import CASES  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
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

curved_case = pytest.mark.parametrize("case", **selected(lambda case: case.operation.second_order))


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


# ---- in place of torch.nn.functional's

BOTH_RANKS = pytest.mark.parametrize("size", [(5, 6), (3, 5, 4)], ids=["4-D", "5-D"])
CORNERS = pytest.mark.parametrize("align_corners", [None, False, True])


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


# ---- modules and processes


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
