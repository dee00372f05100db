"""Independent witnesses: PyTorch, SciPy and OpenCV, where they have the same feature."""

import numpy as np
import pytest
from conftest import away_from_kinks, coordinates

import pystn


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reach", [1.0, 1.4, 50.0])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-4)])
def test_torch_grid_sample(backend, cell, seed, reach, dtype, tolerance):
    """Value and both gradients, to rounding; the sums run in other orders."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    if cell["coords"] == "pixel":
        pytest.skip("PyTorch has no pixel coordinates")
    rng = np.random.default_rng(seed)
    batch, channels, *sizes = rng.integers(1, 24, 6)
    size, shape = sizes[:2], sizes[2:]
    input = rng.standard_normal((batch, channels, *size)).astype(dtype)
    grid = coordinates(rng, (batch, *shape), size, "normalized", reach)
    if dtype == np.float32:  # half of the gradients would differ at a kink that rounding moves over
        grid = away_from_kinks(grid, size, cell["align_corners"], "normalized", 1e-2 if reach < 50 else 0.1)
    grid = grid.astype(dtype)
    cotangent = rng.standard_normal((batch, channels, *shape)).astype(dtype)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (input, grid)]
    name = {"linear": "bilinear", "nearest": "nearest"}[cell["mode"]]
    expected = torch.nn.functional.grid_sample(*tensors, name, cell["padding_mode"], cell["align_corners"])
    expected.backward(torch.from_numpy(cotangent))
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    actual = [pystn.grid_sample(*arrays[1:], **cell), *pystn.grid_sample_vjp(*arrays, **cell)]
    for ours, theirs in zip(actual, (expected.detach(), tensors[0].grad, tensors[1].grad), strict=True):
        theirs = theirs.numpy()
        bound = tolerance * max(1.0, np.abs(theirs).max(initial=0))
        np.testing.assert_allclose(backend.numpy(ours), theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_torch_on_the_lattice(backend, rng, align_corners, padding_mode):
    """subgradient="right" is PyTorch's choice, at centres, borders and in reflected copies."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    n = 9 if align_corners else 8  # for which positions and coordinates are exact
    input = rng.standard_normal((1, 2, n, n))
    p = np.stack(np.meshgrid(np.arange(-20.0, 30), np.arange(-20.0, 30)), -1)[None]
    grid = 2 * p / (n - 1) - 1 if align_corners else (2 * p + 1) / n - 1
    cotangent = rng.standard_normal((1, 2, 50, 50))
    tensors = [torch.from_numpy(a).requires_grad_() for a in (input, grid)]
    output = torch.nn.functional.grid_sample(*tensors, "bilinear", padding_mode, align_corners)
    output.backward(torch.from_numpy(cotangent))
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    ours = [pystn.grid_sample(*arrays[1:], **options), *pystn.grid_sample_vjp(*arrays, **options)]
    for mine, theirs in zip(ours, (output.detach(), tensors[0].grad, tensors[1].grad), strict=True):
        np.testing.assert_allclose(backend.numpy(mine), theirs.numpy(), rtol=0, atol=1e-11)


def test_difference_from_torch_nan_is_outside(backend):
    """PyTorch takes NaN for -1 and so samples the border; here it is outside, as infinity is."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    image, grid = np.ones((1, 1, 4, 4)), np.full((1, 1, 1, 2), np.nan)
    theirs = torch.nn.functional.grid_sample(
        torch.from_numpy(image), torch.from_numpy(grid), padding_mode="border", align_corners=False
    )
    ours = pystn.grid_sample(backend.array(image), backend.array(grid), padding_mode="border")
    assert theirs.item() == 1
    assert backend.numpy(ours).item() == 0


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_torch_affine_grid(backend, rng, ndim, align_corners, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    for _ in range(5):
        size = tuple(rng.integers(1, 20, ndim))
        theta = rng.standard_normal((3, ndim, ndim + 1)).astype(dtype)
        cotangent = rng.standard_normal((3, *size, ndim)).astype(dtype)
        tensor = torch.from_numpy(theta).requires_grad_()
        expected = torch.nn.functional.affine_grid(tensor, (3, 1, *map(int, size)), align_corners)
        expected.backward(torch.from_numpy(cotangent))
        grid = pystn.affine_grid(backend.array(theta), size, align_corners)
        np.testing.assert_allclose(backend.numpy(grid), expected.detach().numpy(), rtol=0, atol=5 * tolerance)
        (grad,) = pystn.affine_grid_vjp(backend.array(cotangent), backend.array(theta), size, align_corners)
        bound = tolerance * np.prod(size) ** 0.5 * 10
        np.testing.assert_allclose(backend.numpy(grad), tensor.grad.numpy(), rtol=0, atol=bound)


@pytest.mark.parametrize("order, mode", [(0, "nearest"), (1, "linear")])
@pytest.mark.parametrize(
    "theirs, options",
    [
        ("grid-constant", {"padding_mode": "zeros"}),
        ("nearest", {"padding_mode": "border"}),
        ("reflect", {"padding_mode": "reflection"}),
    ],
)
def test_scipy_map_coordinates(backend, rng, order, mode, theirs, options):
    """In pixels, which SciPy calls indices, rows first. Ties of nearest differ and are kept away."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    image = rng.standard_normal((9, 11))
    points = away_from_kinks(coordinates(rng, (200,), image.shape, "pixel", 2.5), image.shape, False, "pixel")
    expected = ndimage.map_coordinates(image, points.T[::-1], order=order, mode=theirs)
    value = pystn.grid_sample(
        backend.array(image[None, None]), backend.array(points[None]), mode, coords="pixel", **options
    )
    np.testing.assert_allclose(backend.numpy(value)[0, 0], expected, rtol=0, atol=1e-12)


def test_scipy_mirror_is_reflection_with_align_corners(backend, rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    image = rng.standard_normal((9, 11))
    grid = coordinates(rng, (200,), image.shape, "normalized", 2.5)
    index = ((grid + 1) / 2 * (np.array([11, 9]) - 1)).T[::-1]
    expected = ndimage.map_coordinates(image, index, order=1, mode="mirror")
    value = pystn.grid_sample(
        backend.array(image[None, None]), backend.array(grid[None]), padding_mode="reflection", align_corners=True
    )
    np.testing.assert_allclose(backend.numpy(value)[0, 0], expected, rtol=0, atol=1e-12)


def test_scipy_rounds_ties_up_where_we_go_to_even(backend):
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    ramp = np.arange(5.0)
    ties = np.array([0.5, 1.5, 2.5])
    assert ndimage.map_coordinates(ramp, [ties], order=0).tolist() == [1, 2, 3]
    points = np.stack([ties, np.zeros(3)], -1)[None]
    value = pystn.grid_sample(backend.array(ramp.reshape(1, 1, 1, 5)), backend.array(points), "nearest", coords="pixel")
    assert backend.numpy(value).ravel().tolist() == [0, 2, 2]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("border", ["constant", "replicate", "reflect"])
def test_opencv_remap(backend, rng, channels, border):
    """Its linear remap of float images by float maps has full-precision weights since OpenCV 5."""
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("before OpenCV 5 remap rounds coordinates to 1/32 pixel")
    image = rng.standard_normal((40, 50, channels)).astype(np.float32)
    y, x = np.mgrid[:40, :50].astype(np.float32)
    map_x = (0.9 * x - 0.2 * y + 3.3).astype(np.float32)
    map_y = (0.2 * x + 0.9 * y - 4.7).astype(np.float32)
    flag = {"constant": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT}
    expected = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=flag[border])
    padding_mode = {"constant": "zeros", "replicate": "border", "reflect": "reflection"}[border]
    value = pystn.grid_sample(
        backend.array(image[None]),
        backend.array(np.stack([map_x, map_y], -1)[None]),
        padding_mode=padding_mode,
        coords="pixel",
        channel_axis=-1,
    )
    np.testing.assert_allclose(backend.numpy(value)[0], expected.reshape(40, 50, channels), rtol=0, atol=1e-4)


@pytest.mark.parametrize("reach", [1e3, 1e6])
def test_torch_far_outside(backend, cell, reach):
    """Exact where coordinates are binary fractions: how often they are reflected does not matter."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    if cell["coords"] == "pixel":
        pytest.skip("PyTorch has no pixel coordinates")
    rng = np.random.default_rng(5)
    n = 9 if cell["align_corners"] else 8
    input = rng.standard_normal((1, 2, n, n))
    # Off the multiples of 1/8 pixel where kinks and ties are, and exact: 1/32 pixel is a power of two here.
    p = np.rint(rng.uniform(-reach, reach, (1, 20, 20, 2)) * 8) / 8 + 1 / 32
    grid = p / 4
    cotangent = rng.standard_normal((1, 2, 20, 20))
    tensors = [torch.from_numpy(a).requires_grad_() for a in (input, grid)]
    name = {"linear": "bilinear", "nearest": "nearest"}[cell["mode"]]
    expected = torch.nn.functional.grid_sample(*tensors, name, cell["padding_mode"], cell["align_corners"])
    expected.backward(torch.from_numpy(cotangent))
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    actual = [pystn.grid_sample(*arrays[1:], **cell), *pystn.grid_sample_vjp(*arrays, **cell)]
    for ours, theirs in zip(actual, (expected.detach(), tensors[0].grad, tensors[1].grad), strict=True):
        np.testing.assert_allclose(backend.numpy(ours), theirs.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_difference_from_torch_infinity_is_outside(backend, padding_mode, bad):
    """PyTorch samples some pixel of the image there; here it reads nothing."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    image, grid = np.ones((1, 1, 4, 4)), np.full((1, 1, 1, 2), bad)
    theirs = torch.nn.functional.grid_sample(
        torch.from_numpy(image), torch.from_numpy(grid), padding_mode=padding_mode, align_corners=False
    )
    ours = pystn.grid_sample(backend.array(image), backend.array(grid), padding_mode=padding_mode)
    assert theirs.item() != 0
    assert backend.numpy(ours).item() == 0


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-4)])
def test_torch_warp_and_the_gradient_to_its_matrix(backend, rng, align_corners, dtype, tolerance):
    """affine_grid and grid_sample one after the other, at a size with many tiles."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    image = rng.standard_normal((2, 4, 50, 60)).astype(dtype)
    theta = (np.eye(2, 3) * 0.9 + 0.1 * rng.standard_normal((2, 2, 3))).astype(dtype)
    cotangent = rng.standard_normal((2, 4, 45, 55)).astype(dtype)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (image, theta)]
    grid = torch.nn.functional.affine_grid(tensors[1], (2, 4, 45, 55), align_corners)
    expected = torch.nn.functional.grid_sample(tensors[0], grid, align_corners=align_corners)
    expected.backward(torch.from_numpy(cotangent))
    arrays = [backend.array(a) for a in (cotangent, image, theta)]
    points = pystn.affine_grid(arrays[2], (45, 55), align_corners)
    value = pystn.grid_sample(arrays[1], points, align_corners=align_corners)
    grad_image, grad_grid = pystn.grid_sample_vjp(arrays[0], arrays[1], points, align_corners=align_corners)
    (grad_theta,) = pystn.affine_grid_vjp(grad_grid, arrays[2], (45, 55), align_corners)
    witnesses = (expected.detach(), tensors[0].grad, tensors[1].grad)
    for ours, theirs in zip((value, grad_image, grad_theta), witnesses, strict=True):
        theirs = theirs.numpy()
        bound = tolerance * max(1, np.abs(theirs).max())
        np.testing.assert_allclose(backend.numpy(ours), theirs, rtol=0, atol=bound)


def test_scipy_mirror_nearest(backend, rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    image = rng.standard_normal((9, 11))
    grid = away_from_kinks(coordinates(rng, (200,), image.shape, "normalized", 2.5), image.shape, True, "normalized")
    index = ((grid + 1) / 2 * (np.array([11, 9]) - 1)).T[::-1]
    expected = ndimage.map_coordinates(image, index, order=0, mode="mirror")
    options = {"padding_mode": "reflection", "align_corners": True}
    value = pystn.grid_sample(backend.array(image[None, None]), backend.array(grid[None]), "nearest", **options)
    np.testing.assert_array_equal(backend.numpy(value)[0, 0], expected)


@pytest.mark.parametrize("outside", [-0.25, 4.25])
def test_scipy_constant_cuts_where_zeros_fades(backend, outside):
    """SciPy's `constant` is 0 beyond the outermost centres; its `grid-constant` is our zeros."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    ramp = np.arange(1.0, 6)
    points = backend.array(np.array([[[outside, 0]]]))
    value = backend.numpy(pystn.grid_sample(backend.array(ramp.reshape(1, 1, 1, 5)), points, coords="pixel")).item()
    assert ndimage.map_coordinates(ramp, [[outside]], order=1, mode="constant").item() == 0
    assert ndimage.map_coordinates(ramp, [[outside]], order=1, mode="grid-constant").item() == value != 0


def test_opencv_reflect_101_is_reflection_with_align_corners(backend, rng):
    """Up to the rounding of the coordinates to float32 and to -1 .. 1 and back."""
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("before OpenCV 5 remap rounds coordinates to 1/32 pixel")
    image = rng.standard_normal((33, 65)).astype(np.float32)
    y, x = np.mgrid[:33, :65].astype(np.float32)
    map_x = (0.9 * x - 0.3 * y + 8.3).astype(np.float32)
    map_y = (0.3 * x + 0.9 * y - 12.7).astype(np.float32)
    expected = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    grid = np.stack([map_x.astype(float) / 32 - 1, map_y.astype(float) / 16 - 1], -1).astype(np.float32)
    value = pystn.grid_sample(
        backend.array(image[None, None]), backend.array(grid[None]), padding_mode="reflection", align_corners=True
    )
    np.testing.assert_allclose(backend.numpy(value)[0, 0], expected, rtol=0, atol=1e-4)
