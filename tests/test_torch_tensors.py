"""pystn on torch tensors of all kinds: memory they share, layouts, dtypes, empty batches, the meta device."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter of PyTorch needs it")

import torch.nn.functional as F  # noqa: E402
from operations import CASES  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch_cases import (  # noqa: E402
    FILTERS,
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


# ---- memory and layouts


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


# ---- dtypes and sizes


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
