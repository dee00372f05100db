"""pystn on torch tensors on a CUDA device: the memory, the stream, the allocator and the derivatives are torch's."""

import gc

import pytest

torch = pytest.importorskip("torch", reason="the adapter of PyTorch needs it")

from conftest import has_device  # noqa: E402
from operations import CASES  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch_cases import FILTERS, Problem, listed  # noqa: E402

import pystn  # noqa: E402
import pystn.torch as stn  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (torch.cuda.is_available() and has_device()), reason="needs a CUDA device, and CuPy there"),
    *[pytest.mark.filterwarnings(words) for words in FILTERS],
]

NAMES = [
    "grid_sample-2d",
    "grid_sample-mask",
    "grid_sample-fill",
    "grid_sample-sigma",
    "grid_push",
    "warp_affine-shared",
    "affine_grid-2d",
    "compose-left",
    "thin-plate-targets",
    "cpab-2d",
    "free-form-2d",
]
SECOND = [name for name in NAMES if name not in ("grid_sample-fill", "grid_sample-sigma")]


def named(name):
    return Problem(next(case for case in CASES if case.name == name))


def on_device(problem):
    return [t.detach().cuda().requires_grad_() for t in problem.tensors()]


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_cpu(name):
    problem = named(name)
    found = []
    for given in (on_device(problem), problem.tensors()):
        outputs = listed(problem(*given))
        gradients = torch.autograd.grad(sum((o**2).sum() for o in outputs), given)
        assert {t.device for t in (*outputs, *gradients)} == {given[0].device}
        found.append([t.detach().cpu() for t in (*outputs, *gradients)])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    problem = named(name)
    assert gradcheck(problem, on_device(problem), check_forward_ad=True, fast_mode=True, nondet_tol=1e-10)


@pytest.mark.parametrize("name", SECOND)
def test_gradgradcheck(name):
    problem = named(name)
    assert gradgradcheck(problem, on_device(problem), check_fwd_over_rev=True, fast_mode=True, nondet_tol=1e-10)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.uint8, torch.uint16]
)
def test_memory_is_shared_both_ways(dtype):
    given = torch.arange(12, device="cuda").reshape(3, 4).to(dtype).t()
    with stn.tensors.device_of(given):
        array = stn.tensors.to_array(given)
        back = stn.tensors.to_tensor(array)
    assert array.data.ptr == given.data_ptr() == back.data_ptr()
    assert back.stride() == given.stride()
    assert back.dtype == dtype
    assert torch.equal(back, given)


def test_empty_tensors():
    image = torch.zeros(0, 3, 5, 5, device="cuda", requires_grad=True)
    output = stn.grid_sample(image, torch.zeros(0, 2, 2, 2, device="cuda"))
    assert output.shape == (0, 3, 2, 2)
    output.sum().backward()
    assert image.grad.shape == image.shape


def test_results_are_in_memory_of_torchs_allocator():
    import cupy

    image = torch.rand(4, 16, 256, 256, device="cuda")
    theta = torch.eye(2, 3, device="cuda").expand(4, -1, -1).contiguous()
    stn.warp_affine(image, theta, (256, 256))  # compiles
    torch.cuda.synchronize()
    gc.collect()
    before, pool = torch.cuda.memory_allocated(), cupy.get_default_memory_pool().total_bytes()
    output = stn.warp_affine(image, theta, (256, 256))
    assert torch.cuda.memory_allocated() - before >= output.nbytes
    assert cupy.get_default_memory_pool().total_bytes() == pool
    del output
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_work_is_in_order_on_torchs_stream():
    """What is queued before and after on a stream of torch's is seen, without a synchronization."""
    image = torch.zeros(1, 64, 512, 512, device="cuda")
    theta = torch.eye(2, 3, device="cuda")[None].requires_grad_()
    stn.warp_affine(image, theta, (512, 512), align_corners=True).sum().backward()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for k in range(1, 6):
            torch.cuda._sleep(10_000_000)
            image.fill_(k)
            output = stn.warp_affine(image, theta, (512, 512), align_corners=True)
            image.fill_(-1)
            total = output.detach().mean()
            assert total.item() == pytest.approx(k)
    stream.synchronize()
    import cupy

    with torch.cuda.stream(stream), stn.tensors.device_of(image):
        assert cupy.cuda.get_current_stream().ptr == stream.cuda_stream
    assert cupy.cuda.get_current_stream().ptr != stream.cuda_stream
    with torch.cuda.stream(stream):
        torch.ones(3, device="cuda").sum().item()  # the stream is alive after CuPy's object is gone


def test_arrays_of_two_devices_are_refused():
    with pytest.raises(TypeError, match="input is on cuda:0 and grid on cpu"):
        stn.grid_sample(torch.zeros(1, 1, 2, 2, device="cuda"), torch.zeros(1, 1, 1, 2))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_the_second_device():
    problem = named("grid_sample-2d")
    given = [t.to("cuda:1") for t in problem.tensors(requires_grad=False)]
    output = problem(*given)
    assert output.device == given[0].device
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(output.cpu(), problem(*[t.cpu() for t in given]))


def test_deterministic_gradients():
    image = torch.rand(2, 3, 32, 32, device="cuda", requires_grad=True)
    grid = 0.1 * torch.rand(2, 200, 200, 2, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (torch.autograd.grad(stn.grid_sample(image, grid).sin().sum(), image)[0] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)


def test_compiled():
    problem = named("warp_affine-shared")
    given = on_device(problem)
    found = listed(torch.compile(problem.__call__, backend="aot_eager", fullgraph=True)(*given))
    torch.testing.assert_close(found, listed(problem(*given)))


def test_families_hold_their_state_on_the_device():
    spline = pystn.ThinPlateSpline(pystn.control_points((4, 4)), (28, 28))
    theta = torch.from_numpy(spline.identity(3)).cuda().requires_grad_()
    for _ in range(2):
        stn.apply(spline, theta).sum().backward()
    torch.testing.assert_close(
        theta.grad.cpu(), 2 * torch.func.grad(lambda t: stn.apply(spline, t).sum())(theta.detach().cpu())
    )
