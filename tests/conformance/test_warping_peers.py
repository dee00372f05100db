"""Independent witnesses of the warps: PyTorch, SciPy, OpenCV and scikit-image."""

import numpy as np
import pytest
from warps import AFFINE, PROJECTIVE, matrices, positions

import pystn
from pystn import presets


def near(backend, actual, expected, tolerance, what):
    bound = tolerance * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(backend.numpy(actual), expected, rtol=0, atol=bound, err_msg=what)


# ---------------------------------------------------------------------------------------------
# PyTorch

TORCH_MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


@pytest.mark.parametrize("ndim, mode", [(2, "nearest"), (2, "linear"), (2, "cubic"), (3, "nearest"), (3, "linear")])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_torch_value_and_gradients(backend, rng, ndim, mode, padding_mode, align_corners):
    """affine_grid and grid_sample one after the other, and autograd through both to image and matrix."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    for _ in range(4):
        image, size = (tuple(map(int, rng.integers(2, 40 if ndim == 2 else 9, ndim))) for _ in range(2))
        theta = matrices(rng, AFFINE[ndim], (2,), image, size, align_corners, clear=1e-9)
        input, cotangent = rng.standard_normal((2, 3, *image)), rng.standard_normal((2, 3, *size))
        tensors = [torch.from_numpy(a).requires_grad_() for a in (input, theta)]
        grid = torch.nn.functional.affine_grid(tensors[1], (2, 3, *size), align_corners)
        output = torch.nn.functional.grid_sample(tensors[0], grid, TORCH_MODES[mode], padding_mode, align_corners)
        output.backward(torch.from_numpy(cotangent))
        options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
        arrays = [backend.array(a) for a in (cotangent, input, theta)]
        near(backend, pystn.warp_affine(*arrays[1:], size, **options), output.detach().numpy(), 1e-12, "value")
        found = pystn.warp_affine_vjp(*arrays, (2, 3, *size), **options)
        for what, ours, tensor in zip(("grad_input", "grad_theta"), found, tensors, strict=True):
            theirs = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
            near(backend, ours, theirs, 1e-12, what)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_torch_projective(backend, rng, padding_mode, align_corners):
    """Of a homography written in PyTorch's operations, all nine entries."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    image, size = (9, 13), (11, 33)
    theta = matrices(rng, PROJECTIVE, (2,), image, size, align_corners)
    input, cotangent = rng.standard_normal((2, 3, *image)), rng.standard_normal((2, 3, *size))
    tensors = [torch.from_numpy(a).requires_grad_() for a in (input, theta)]
    identity = torch.eye(2, 3, dtype=torch.float64)[None]
    lattice = torch.nn.functional.affine_grid(identity, (1, 1, *size), align_corners)
    q = torch.cat([lattice, torch.ones(1, *size, 1)], -1) @ tensors[1].transpose(1, 2)[:, None]
    grid = q[..., :2] / q[..., 2:]
    output = torch.nn.functional.grid_sample(tensors[0], grid, "bilinear", padding_mode, align_corners)
    output.backward(torch.from_numpy(cotangent))
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    arrays = [backend.array(a) for a in (cotangent, input, theta)]
    near(backend, pystn.warp_projective(*arrays[1:], size, **options), output.detach().numpy(), 1e-12, "value")
    found = pystn.warp_projective_vjp(*arrays, size, **options)
    for what, ours, tensor in zip(("grad_input", "grad_theta"), found, tensors, strict=True):
        near(backend, ours, tensor.grad.numpy(), 1e-12, what)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_torch_projection(backend, rng, reduce, align_corners):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    image, size = (5, 6, 7), (4, 3, 9)
    theta = matrices(rng, AFFINE[3], (2,), image, size, align_corners)
    input, cotangent = rng.standard_normal((2, 3, *image)), rng.standard_normal((2, 3, *size[1:]))
    tensors = [torch.from_numpy(a).requires_grad_() for a in (input, theta)]
    grid = torch.nn.functional.affine_grid(tensors[1], (2, 3, *size), align_corners)
    volume = torch.nn.functional.grid_sample(tensors[0], grid, "bilinear", "border", align_corners)
    output = volume.max(dim=2).values if reduce == "max" else getattr(volume, reduce)(dim=2)
    output.backward(torch.from_numpy(cotangent))
    options = {"padding_mode": "border", "align_corners": align_corners}
    arrays = [backend.array(a) for a in (cotangent, input, theta)]
    value = pystn.warp_project(*arrays[1:], size, reduce, **options)
    near(backend, value, output.detach().numpy(), 1e-12, "value")
    found = pystn.warp_project_vjp(*arrays, size, reduce, **options)
    for what, ours, tensor in zip(("grad_input", "grad_theta"), found, tensors, strict=True):
        near(backend, ours, tensor.grad.numpy(), 1e-12, what)


# ---------------------------------------------------------------------------------------------
# SciPy


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("mode", ["grid-constant", "nearest", "mirror", "reflect", "grid-wrap", "constant"])
def test_scipy_affine_transform(backend, rng, ndim, order, mode):
    """Its matrix is for indices, rows first; splines with their prefilter, through the preset."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    # SciPy's prefilter under "reflect" is right on long axes only.
    image, size = {1: ((21,), (40,)), 2: ((17, 16), (13, 30)), 3: ((15, 16, 17), (5, 6, 20))}[ndim]
    theta = matrices(rng, AFFINE[ndim], (1,), image, size, coords="pixel")
    input = rng.standard_normal(image)
    matrix = theta[0, ::-1, :-1][:, ::-1]
    expected = ndimage.affine_transform(
        input, matrix, offset=theta[0, ::-1, -1], output_shape=size, order=order, mode=mode, cval=0.75
    )
    preset = presets.scipy(order, mode, 0.75)
    prepared, origin = preset.prepare(input, np.zeros((ndim, 1)))  # some are padded, and begin elsewhere
    theta[..., -1] += origin[0, 0]
    value = pystn.warp_affine(backend.array(prepared), backend.array(theta), size, **preset.options)
    tolerance = 1e-7 if order == 3 and mode == "reflect" else 1e-11
    near(backend, value, expected[None, None], tolerance, "value")


# ---------------------------------------------------------------------------------------------
# OpenCV

BORDERS = {"constant": "constant", "replicate": "border", "reflect": "symmetric", "reflect_101": "mirror"}


def opencv5():
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("before OpenCV 5 warps round coordinates to 1/32 pixel")
    return cv2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("name", ["warpAffine", "warpPerspective"])
def test_opencv_linear(backend, rng, name, border, channels):
    """Matrices as they are with WARP_INVERSE_MAP: coords="pixel"."""
    cv2 = opencv5()
    warp = AFFINE[2] if name == "warpAffine" else PROJECTIVE
    image, size = (40, 50), (33, 61)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for _ in range(3):
        theta = matrices(rng, warp, (1,), image, size, coords="pixel", spread=0.5, tilt=0.25)
        input = rng.standard_normal((*image, channels)).astype(np.float32)
        border_mode = getattr(cv2, f"BORDER_{border.upper()}")
        expected = getattr(cv2, name)(
            input, theta[0], size[::-1], flags=flags, borderMode=border_mode, borderValue=(2,) * 3
        )
        options = {"padding_mode": BORDERS[border], "fill_value": 2.0, "coords": "pixel", "channel_axis": -1}
        value = warp.forward(backend.array(input[None]), backend.array(theta.astype(np.float32)), size, **options)
        # Positions in single precision: some roundings of up to a hundred pixels, on slopes of up to 8.
        np.testing.assert_allclose(backend.numpy(value)[0], expected.reshape(*size, channels), rtol=0, atol=1e-3)


# ---------------------------------------------------------------------------------------------
# scikit-image

SKIMAGE_MODES = ("constant", "edge", "symmetric", "reflect", "wrap")


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("mode", SKIMAGE_MODES)
@pytest.mark.parametrize("kind", ["affine", "projective"])
def test_skimage_warp(backend, rng, order, mode, kind):
    """A matrix for its inverse map is one from output to input, x first. Order 3 is then Catmull and Rom's."""
    transform = pytest.importorskip("skimage.transform", reason="compares with scikit-image")
    warp = AFFINE[2] if kind == "affine" else PROJECTIVE
    image, size = (25, 27), (30, 32)
    theta = matrices(rng, warp, (1,), image, size, coords="pixel", tilt=0.25)
    whole = np.vstack([theta[0], [0, 0, 1]]) if kind == "affine" else theta[0]
    input = rng.standard_normal(image)
    options = {"order": order, "mode": mode, "cval": 0.75, "clip": False}
    for inverse_map in (whole, transform.ProjectiveTransform(whole)):
        expected = transform.warp(input, inverse_map, output_shape=size, **options)
        preset = presets.skimage(order, mode, 0.75, homography=True)
        value = backend.numpy(
            warp.forward(backend.array(input[None, None]), backend.array(theta), size, **preset.options)
        )
        p = positions(warp, theta, image, size, coords="pixel")[0]
        settled = np.ones(size, bool)
        if order == 0:  # ties, but for rounding
            settled = (np.abs(2 * p - np.rint(2 * p)) > 1e-9).all(axis=-1)
        np.testing.assert_allclose(value[0, 0][settled], expected[settled], rtol=0, atol=1e-11)
