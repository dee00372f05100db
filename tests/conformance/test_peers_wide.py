"""Independent witnesses of volumes, wide kernels, boundaries and second derivatives: PyTorch and SciPy."""

import numpy as np
import pytest
from conftest import coordinates, skipped_if_torch_has_none

import pystn

TORCH_MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
CELLS = [
    (ndim, mode, padding_mode, align_corners)
    for ndim, modes in ((2, ("nearest", "linear", "cubic")), (3, ("nearest", "linear")))
    for mode in modes
    for padding_mode in ("zeros", "border", "reflection")
    for align_corners in (False, True)
]


def drawn(rng, ndim, reach):
    """Image, grid and cotangent; PyTorch wants grids with as many axes as the image."""
    size, shape = (rng.integers(2, 8, ndim) for _ in range(2))
    return (
        rng.standard_normal((2, 3, *size)),
        coordinates(rng, (2, *shape), tuple(size), "normalized", reach),
        rng.standard_normal((2, 3, *shape)),
    )


def near(backend, actual, expected, what):
    expected = expected.detach().numpy()
    bound = 1e-12 * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(backend.numpy(actual), expected, rtol=0, atol=bound, err_msg=what)


def of_torch(torch, mode, padding_mode, align_corners, *arrays):
    """Its grid_sample, autograd.grad of it, and the tensors of cotangent, image and grid."""
    g, image, points = tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    output = torch.nn.functional.grid_sample(image, points, TORCH_MODES[mode], padding_mode, align_corners)
    return output, torch.autograd.grad(output, (image, points), g, create_graph=True), tensors


@pytest.mark.parametrize("ndim, mode, padding_mode, align_corners", CELLS)
@pytest.mark.parametrize("reach", [1.2, 2.5])
def test_torch_value_and_gradients(backend, rng, ndim, mode, padding_mode, align_corners, reach):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    for _ in range(3):
        input, grid, cotangent = drawn(rng, ndim, reach)
        output, gradients, _ = of_torch(torch, *options.values(), cotangent, input, grid)
        arrays = [backend.array(a) for a in (cotangent, input, grid)]
        near(backend, pystn.grid_sample(*arrays[1:], **options), output, "value")
        ours = pystn.grid_sample_vjp(*arrays, **options)
        for what, mine, theirs in zip(("grad_input", "grad_grid"), ours, gradients, strict=True):
            near(backend, mine, theirs, what)


@pytest.mark.parametrize("ndim, mode, padding_mode, align_corners", CELLS)
@pytest.mark.parametrize("reach", [1.2, 2.5])
def test_torch_gradients_of_gradients(backend, rng, ndim, mode, padding_mode, align_corners, reach):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    for _ in range(3):
        input, grid, cotangent = drawn(rng, ndim, reach)
        _, gradients, (g, image, points) = of_torch(torch, *options.values(), cotangent, input, grid)
        arrays = [backend.array(a) for a in (cotangent, input, grid)]
        directions = rng.standard_normal(input.shape), rng.standard_normal(grid.shape)
        with skipped_if_torch_has_none():
            twice = torch.autograd.grad(
                gradients, (g, image, points), tuple(map(torch.from_numpy, directions)), allow_unused=True
            )
        ours = pystn.grid_sample_vjp2(*map(backend.array, directions), *arrays, **options)
        for what, mine, theirs, primal in zip(
            ("grad_grad_output", "grad_input", "grad_grid"), ours, twice, (g, image, points), strict=True
        ):
            near(backend, mine, torch.zeros_like(primal) if theirs is None else theirs, f"vjp2: {what}")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_torch_trilinear_on_the_lattice(backend, rng, align_corners, padding_mode):
    """subgradient="right" is PyTorch's choice in volumes too."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    n = 5 if align_corners else 4  # for which positions and coordinates are exact
    input = rng.standard_normal((1, 2, n, n, n))
    p = np.stack(np.meshgrid(*[np.arange(-7.0, 11)] * 3, indexing="ij"), -1)[None]
    grid = 2 * p / (n - 1) - 1 if align_corners else (2 * p + 1) / n - 1
    cotangent = rng.standard_normal((1, 2, *p.shape[1:-1]))
    tensors = [torch.from_numpy(a).requires_grad_() for a in (input, grid)]
    output = torch.nn.functional.grid_sample(*tensors, "bilinear", padding_mode, align_corners)
    output.backward(torch.from_numpy(cotangent))
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    ours = [pystn.grid_sample(*arrays[1:], **options), *pystn.grid_sample_vjp(*arrays, **options)]
    for mine, theirs in zip(ours, (output.detach(), tensors[0].grad, tensors[1].grad), strict=True):
        np.testing.assert_allclose(backend.numpy(mine), theirs.numpy(), rtol=0, atol=1e-11)


SCIPY_BOUNDARIES = {
    "mirror": "mirror",
    "symmetric": "reflect",
    "wrap": "grid-wrap",
    "constant": "grid-constant",
    "zeros": "grid-constant",
}


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("padding_mode", SCIPY_BOUNDARIES)
def test_scipy_splines(backend, rng, ndim, order, padding_mode):
    """map_coordinates of coefficients; ties of order 0 go up there as here."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    for size in ((7, 6, 5)[:ndim], (2, 9, 3)[:ndim]):
        image = rng.standard_normal(size)
        points = coordinates(rng, (100,), size, "pixel", 2.5)
        fill = 0.75 if padding_mode == "constant" else 0.0
        theirs = {"order": order, "mode": SCIPY_BOUNDARIES[padding_mode], "cval": fill, "prefilter": False}
        expected = ndimage.map_coordinates(image, points[:, ::-1].T, **theirs)
        arrays = [backend.array(a) for a in (image[None, None], points[None])]
        options = {"padding_mode": padding_mode, "coords": "pixel", "fill_value": fill}
        value = pystn.grid_sample(*arrays, pystn.BSpline(order), **options)
        np.testing.assert_allclose(backend.numpy(value)[0, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", range(2, 6))
@pytest.mark.parametrize("padding_mode, theirs", [("mirror", "mirror"), ("wrap", "grid-wrap")])
def test_scipy_spline_filter(backend, rng, order, padding_mode, theirs):
    """SciPy's "reflect" is left out: its start of the recursion is cut off early."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    image = rng.standard_normal((13, 9))
    expected = ndimage.spline_filter(image, order, mode=theirs)
    actual = pystn.spline_filter(backend.array(image[None, None]), order, padding_mode)
    bound = 1e-11 * np.abs(expected).max()
    np.testing.assert_allclose(backend.numpy(actual)[0, 0], expected, rtol=0, atol=bound)
    points = coordinates(rng, (100,), image.shape, "pixel", 2)
    expected = ndimage.map_coordinates(image, points[:, ::-1].T, order=order, mode=theirs)
    mode = pystn.BSpline(order, prefilter=True)
    arrays = [backend.array(a) for a in (image[None, None], points[None])]
    value = pystn.grid_sample(*arrays, mode, padding_mode, coords="pixel")
    np.testing.assert_allclose(backend.numpy(value)[0, 0], expected, rtol=0, atol=1e-11)
