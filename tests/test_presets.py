"""Presets against the libraries they are named after."""

import numpy as np
import pytest

import pystn
from pystn import presets


def points(rng, size, count=600):
    """Coordinates (ndim, count) in pixels, rows first: inside, outside, far outside, and on halves."""
    n = np.array(size, float)[:, None]
    found = rng.uniform(-1.5, 2.5, (len(size), count)) * n
    inside, halves, far = (slice(k * count // 4, (k + 1) * count // 4) for k in range(3))
    found[:, inside] = rng.uniform(0, 1, found[:, inside].shape) * (n - 1)
    found[:, halves] = np.round(2 * found[:, halves]) / 2
    found[:, far] *= 50
    return found


def sample(preset, image, coordinates):
    return pystn.grid_sample(*preset.prepare(image, coordinates), **preset.options)[0, 0]


# PyTorch and ONNX: normalized coordinates.


def exact(rng, ndim, align_corners, reach=3):
    """An image, and a grid for which positions are exact even in float32; off the ties of nearest."""
    size = ((5, 9, 3) if align_corners else (4, 8, 2))[:ndim]
    grid = np.round(rng.uniform(-reach, reach, (2, *(5, 4, 6)[:ndim], ndim)) * 32) / 32 + 1 / 64
    return rng.standard_normal((2, 3, *size)), grid


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    "ndim, mode", [(2, "nearest"), (2, "bilinear"), (2, "bicubic"), (3, "nearest"), (3, "bilinear")]
)
@pytest.mark.parametrize("reach", [1.0, 2.5, 200.0])
def test_torch(rng, ndim, mode, padding_mode, align_corners, reach):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    for _ in range(5):
        image, grid = exact(rng, ndim, align_corners, reach)
        expected = torch.nn.functional.grid_sample(
            *map(torch.from_numpy, (image, grid)), mode, padding_mode, align_corners
        )
        value = pystn.grid_sample(image, grid, **presets.torch(mode, padding_mode, align_corners))
        np.testing.assert_allclose(value, expected.numpy(), rtol=0, atol=1e-12)


def grid_sample_model(ndim, mode, padding_mode, align_corners):
    helper = pytest.importorskip("onnx", reason="compares with ONNX").helper
    double = 11  # TensorProto.DOUBLE
    names = {"X": [None] * (ndim + 2), "G": [None] * (ndim + 2), "Y": [None] * (ndim + 2)}
    x, g, y = (helper.make_tensor_value_info(name, double, shape) for name, shape in names.items())
    attributes = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    node = helper.make_node("GridSample", ["X", "G"], ["Y"], **attributes)
    graph = helper.make_graph([node], "sample", [x, g], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


ONNX_CELLS = [
    (ndim, mode, padding_mode, align_corners)
    for ndim in (2, 3)
    for mode in ("nearest", "linear", "cubic")
    for padding_mode in ("zeros", "border", "reflection")
    for align_corners in (0, 1)
]


@pytest.mark.parametrize("ndim, mode, padding_mode, align_corners", ONNX_CELLS)
def test_onnx_reference(rng, ndim, mode, padding_mode, align_corners):
    """It holds positions in float32, in which these are exact."""
    reference = pytest.importorskip("onnx.reference", reason="compares with ONNX' reference evaluator")
    evaluator = reference.ReferenceEvaluator(grid_sample_model(ndim, mode, padding_mode, align_corners))
    image, grid = exact(rng, ndim, bool(align_corners))
    if mode == "cubic" and padding_mode == "border":
        grid = np.clip(grid, -1, 1)  # beyond, it clips coordinates: see below
    (expected,) = evaluator.run(None, {"X": image, "G": grid})
    value = pystn.grid_sample(image, grid, **presets.onnx(mode, padding_mode, align_corners))
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndim, mode, padding_mode, align_corners", ONNX_CELLS)
def test_onnx_runtime(rng, ndim, mode, padding_mode, align_corners):
    runtime = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    if (ndim, mode) == (3, "cubic"):
        pytest.skip("ONNX Runtime has cubic for images only")
    model = grid_sample_model(ndim, mode, padding_mode, align_corners)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for _ in range(5):
        image, grid = exact(rng, ndim, bool(align_corners))
        (expected,) = session.run(None, {"X": image, "G": grid})
        value = pystn.grid_sample(image, grid, **presets.onnx(mode, padding_mode, align_corners))
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)


def test_difference_from_the_onnx_reference_cubic_border():
    """It clips the coordinate, and so reads the last pixel; ONNX Runtime, PyTorch and we clip every tap."""
    reference = pytest.importorskip("onnx.reference", reason="compares with ONNX' reference evaluator")
    evaluator = reference.ReferenceEvaluator(grid_sample_model(2, "cubic", "border", 1))
    image = np.array([0.0, 0, 0, 1, 3]).reshape(1, 1, 1, 5).repeat(3, 2)
    grid = np.array([1.25, 0.0]).reshape(1, 1, 1, 2)  # position 4.5
    (theirs,) = evaluator.run(None, {"X": image, "G": grid})
    ours = pystn.grid_sample(image, grid, **presets.onnx("cubic", "border", 1))
    assert theirs.item() == 3
    assert ours.item() == pytest.approx(3 + 0.75 / 8 * 2)


def test_difference_from_onnx_nearest_reflection_ties():
    """ONNX rounds -1.5 to -2 and reflects that to 1; we, as PyTorch, reflect to 0.5 and round to 0."""
    reference = pytest.importorskip("onnx.reference", reason="compares with ONNX' reference evaluator")
    evaluator = reference.ReferenceEvaluator(grid_sample_model(2, "nearest", "reflection", 0))
    image, grid = np.arange(8.0).reshape(1, 1, 1, 8), np.array([-1.25, 0.0]).reshape(1, 1, 1, 2)
    (theirs,) = evaluator.run(None, {"X": image, "G": grid})
    ours = pystn.grid_sample(image, grid, **presets.onnx("nearest", "reflection", 0))
    assert (theirs.item(), ours.item()) == (1, 0)


def test_names_before_operator_set_20():
    assert presets.onnx("bilinear") == presets.onnx("linear") == presets.torch("bilinear")
    assert presets.onnx("bicubic", align_corners=1) == presets.onnx("cubic", align_corners=True)


# SciPy and scikit-image.

SCIPY_MODES = ("reflect", "grid-mirror", "constant", "grid-constant", "nearest", "mirror", "grid-wrap", "wrap")
POLES = {2: 0.1716, 3: 0.2680, 4: 0.3614, 5: 0.4306}  # the largest of each spline
SIZES = [(40,), (9,), (2,), (1,), (41, 50), (9, 11), (2, 3), (1, 4), (7, 6, 5), (30, 31, 32)]


def scipy_bound(order, mode, prefilter, size, image):
    """1e-11 of the largest pixel; more where SciPy starts its recursion inexactly, off by z^2n."""
    bound = 1e-11
    longer = [n for n in size if n > 1]  # an axis of one pixel is not filtered
    if order > 1 and prefilter and mode in ("reflect", "grid-mirror", "symmetric") and longer:
        bound += 10 * POLES[order] ** (2 * min(longer))
    return bound * max(1, np.abs(image).max())


def off_mirrored_ties(coordinates, size):
    """Where order 0 under "mirror" is the same: see the test of the difference."""
    n = np.array(size, float)[:, None]
    tie = np.mod(coordinates, np.maximum(2 * n - 2, 1)) == n - 0.5
    return np.where(tie, coordinates + 0.25, coordinates)


@pytest.mark.parametrize("mode", SCIPY_MODES)
@pytest.mark.parametrize("prefilter", [True, False])
@pytest.mark.parametrize("order", range(6))
def test_scipy(rng, order, mode, prefilter):
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    options = {"order": order, "mode": mode, "cval": 0.75, "prefilter": prefilter}
    for size in SIZES:
        image, at = rng.standard_normal(size), points(rng, size)
        if order == 0 and mode == "mirror":
            at = off_mirrored_ties(at, size)
        expected = ndimage.map_coordinates(image, at, **options)
        value = sample(presets.scipy(**options), image, at)
        bound = scipy_bound(order, mode, prefilter, size, image)
        np.testing.assert_allclose(value, expected, rtol=0, atol=bound, err_msg=f"size {size}")


@pytest.mark.parametrize("mode", SCIPY_MODES)
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.complex128])
def test_scipy_of_other_images(rng, dtype, order, mode):
    """A result of SciPy's in double precision, from images of any type."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    image, at = (100 * rng.uniform(0, 1, (40, 45))).astype(dtype), off_mirrored_ties(points(rng, (40, 45)), (40, 45))
    cval = 1.0
    if dtype == np.complex128:
        image, cval = image + 1j * image[::-1], 1 - 2j
    output = np.complex128 if dtype == np.complex128 else np.float64
    expected = ndimage.map_coordinates(image, at, output, order=order, mode=mode, cval=cval)
    value = sample(presets.scipy(order, mode, cval), image, at)
    assert value.dtype == output
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-11 * np.abs(image).max())


def test_scipy_shapes_of_coordinates(rng):
    """Any number of axes of points, any strides, lists."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    image = rng.standard_normal((6, 7)).T
    at = rng.uniform(-3, 9, (3, 4, 5, 2)).T
    preset = presets.scipy(3, "mirror")
    np.testing.assert_allclose(sample(preset, image, at), ndimage.map_coordinates(image, at, mode="mirror"), atol=1e-12)
    assert sample(preset, [0, 1, 2], [[1, 2]]).tolist() == pytest.approx([1, 2])


def test_difference_from_scipy_mirror_ties():
    """At n - 1/2 SciPy rounds to n and reflects that to n - 2; we reflect to n - 3/2 and round up to n - 1."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    ramp, at = np.arange(5.0), np.array([[-0.5, 3.5, 4.5, 5.5]])
    assert ndimage.map_coordinates(ramp, at, order=0, mode="mirror").tolist() == [1, 4, 3, 3]
    assert sample(presets.scipy(0, "mirror"), ramp, at).tolist() == [1, 4, 4, 3]


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("mode", SCIPY_MODES)
def test_difference_from_scipy_not_finite(order, mode):
    """NaN is cval in most of SciPy's modes, NaN or a pixel in the others; infinity is what a cast makes of it."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    ramp, preset = np.arange(1.0, 9), presets.scipy(order, mode, 77)
    assert sample(preset, ramp, [[np.nan, np.inf, -np.inf]]).tolist() == [77] * 3
    if mode not in ("nearest", "grid-constant"):
        assert ndimage.map_coordinates(ramp, [[np.nan]], order=order, mode=mode, cval=77).item() == 77


SKIMAGE_MODES = ("constant", "edge", "symmetric", "reflect", "wrap")
BIQUADRATIC = "ignore:Bi-quadratic interpolation:UserWarning"  # order 2 is no longer what it once was


@pytest.mark.filterwarnings(BIQUADRATIC)
@pytest.mark.parametrize("mode", SKIMAGE_MODES)
@pytest.mark.parametrize("order", range(6))
def test_skimage_coordinates(rng, order, mode):
    transform = pytest.importorskip("skimage.transform", reason="compares with scikit-image")
    for size in ((25, 30), (8, 9, 10)):
        image, at = rng.standard_normal(size), off_mirrored_ties(points(rng, size), size)
        at = at.reshape(-1, *(20, 30) if len(size) == 2 else (5, 12, 10))
        expected = transform.warp(image, at, order=order, mode=mode, cval=0.75, clip=False)
        value = sample(presets.skimage(order, mode, 0.75), image, at)
        bound = scipy_bound(order, mode, True, size, image)
        np.testing.assert_allclose(value, expected, rtol=0, atol=bound)


# A similarity, one whose points are on halves, a projective map; by 30 x 30 points in and out of the image.
MATRICES = [
    [[1.3, -0.2, -3.3], [0.25, 1.2, -4.1], [0, 0, 1]],
    [[0.5, 0, -6], [0, 1.5, -9], [0, 0, 1]],
    [[9, 1, -60], [1, 8, -50], [0.001, 0.002, 1]],
]


@pytest.mark.filterwarnings(BIQUADRATIC)
@pytest.mark.parametrize("matrix", MATRICES, ids=["affine", "halves", "projective"])
@pytest.mark.parametrize("mode", SKIMAGE_MODES)
@pytest.mark.parametrize("order", range(6))
def test_skimage_homography(rng, order, mode, matrix):
    transform = pytest.importorskip("skimage.transform", reason="compares with scikit-image")
    image = rng.standard_normal((25, 27))
    matrix = np.array(matrix, float)
    expected = transform.warp(image, matrix, output_shape=(30, 30), order=order, mode=mode, cval=0.75, clip=False)
    row, column = np.mgrid[:30, :30].astype(float)
    x, y, z = np.tensordot(matrix, np.stack([column, row, np.ones((30, 30))]), 1)
    at = np.stack([y / z, x / z])
    value = sample(presets.skimage(order, mode, 0.75, homography=True), image, at)
    bound = scipy_bound(0 if order == 3 else order, mode, True, image.shape, image)
    if order == 0:  # its sum over the row of the matrix may round to the other side of a tie
        n = np.array(image.shape).reshape(2, 1, 1)
        tie = np.abs(np.mod(at, 1) - 0.5) < 1e-9
        safe = ~(tie & (np.mod(at, 1) != 0.5)).any(0)
        if mode == "reflect":
            safe &= ~(tie & (np.mod(at, 2 * n - 2) == n - 0.5)).any(0)
        value, expected = value[safe], expected[safe]
    np.testing.assert_allclose(value, expected, rtol=0, atol=bound)


def test_skimage_clips_unless_told_not_to(rng):
    transform = pytest.importorskip("skimage.transform", reason="compares with scikit-image")
    image, at = rng.uniform(0, 1, (20, 20)).round(), rng.uniform(0, 19, (2, 30, 30))
    value = sample(presets.skimage(3, "edge"), image, at)
    assert value.max() > 1.01
    np.testing.assert_allclose(value.clip(0, 1), transform.warp(image, at, order=3, mode="edge"), rtol=0, atol=1e-11)


# OpenCV.

INTERPOLATIONS = {
    "nearest": "INTER_NEAREST",
    "linear": "INTER_LINEAR",
    "cubic": "INTER_CUBIC",
    "lanczos4": "INTER_LANCZOS4",
}
BORDERS = {
    "constant": "BORDER_CONSTANT",
    "replicate": "BORDER_REPLICATE",
    "reflect": "BORDER_REFLECT",
    "reflect101": "BORDER_REFLECT_101",
    "wrap": "BORDER_WRAP",
}
VALUE = (3.0, 5.0, 7.0, 11.0)


def opencv5():
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("before OpenCV 5 remap rounds coordinates to 1/32 pixel")
    return cv2


def opencv_image(rng, dtype, channels):
    size = (20, 33, channels)
    return (rng.standard_normal(size) if dtype == np.float32 else rng.integers(0, 256, size)).astype(dtype)


def opencv_map(rng, reach, interpolation, border):
    """Maps (50, 60, 2) up to `reach` pixels beyond an image of 20 x 33."""
    found = rng.uniform(-reach, reach + np.array([33, 20]), (50, 60, 2))
    if interpolation == "cubic" and border in ("reflect", "reflect101", "wrap"):
        found = found.clip(-16, np.array([33, 20]) + 15)  # it folds once only
    return found


def remap(cv2, image, at, interpolation, border):
    """cv2.remap and ours, as float64."""
    at, channels = at.astype(np.float32), image.shape[-1]
    flags = getattr(cv2, INTERPOLATIONS[interpolation]), getattr(cv2, BORDERS[border])
    maps = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
    theirs = cv2.remap(image, *maps, flags[0], borderMode=flags[1], borderValue=VALUE)
    options = presets.opencv(interpolation, border, VALUE[:channels])
    assert options == presets.opencv(*flags, VALUE[:channels])
    ours = pystn.grid_sample(image[None], at[None], **options)[0]
    return theirs.reshape(ours.shape).astype(float), ours.astype(float)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
@pytest.mark.parametrize("reach", [0, 60, 3000])
def test_opencv(rng, dtype, channels, interpolation, border, reach):
    """Anywhere. Integers are exact but where the last bit decides how they are rounded."""
    cv2 = opencv5()
    image = opencv_image(rng, dtype, channels)
    at = opencv_map(rng, reach, interpolation, border)
    if interpolation == "nearest" or reach > 1000:
        # No ties, which have their test; and exact in float32 when folded, here of the coordinate, there of taps.
        at = np.round(32 * at) / 32 + 1 / 64
    theirs, ours = remap(cv2, image, at, interpolation, border)
    if interpolation == "nearest":
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5 if dtype == np.float32 else 1)
        assert dtype == np.float32 or np.mean(ours != theirs) < 1e-3


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("interpolation, channels", [("lanczos4", 1), ("lanczos4", 3), ("linear", 2), ("cubic", 2)])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-5), (np.uint8, 1)])
def test_opencv_tables(rng, dtype, tolerance, channels, interpolation, border):
    """At multiples of 1/32 pixel, which its tables hold; their weights are rounded to 2^-15 for uint8."""
    cv2 = opencv5()
    image = opencv_image(rng, dtype, channels)
    at = np.round(32 * opencv_map(rng, 60, interpolation, border)) / 32
    theirs, ours = remap(cv2, image, at, interpolation, border)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 0.3), (np.uint8, 12)])
def test_opencv_tables_anywhere(rng, dtype, tolerance, border):
    """Elsewhere its coordinates are off by up to 1/64 pixel in x and y: times the steepest slope of this noise."""
    cv2 = opencv5()
    image = opencv_image(rng, dtype, 1)
    theirs, ours = remap(cv2, image, opencv_map(rng, 60, "lanczos4", border), "lanczos4", border)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("border", BORDERS)
def test_opencv_nearest_ties(rng, border):
    """Half to even; OpenCV rounds before it folds, so of coordinates beyond the image round them first."""
    cv2 = opencv5()
    image = opencv_image(rng, np.float32, 1)
    for reach in (0, 60):
        at = np.round(2 * opencv_map(rng, reach, "nearest", border)) / 2
        at = at.clip(0, (32, 19)) if reach == 0 else at
        theirs, ours = remap(cv2, image, at, "nearest", border)
        rounded = remap(cv2, image, np.rint(at), "nearest", border)[1]
        np.testing.assert_array_equal(rounded, theirs)
        if reach == 0 or border not in ("reflect", "wrap"):
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert (ours != theirs).any()


def test_difference_from_opencv_one_value_is_for_every_channel(rng):
    cv2 = opencv5()
    image, at = opencv_image(rng, np.float32, 3), np.full((1, 1, 2), -9, np.float32)
    theirs = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderValue=5)
    ours = pystn.grid_sample(image[None], at[None], **presets.opencv("linear", "constant", 5))
    assert theirs.ravel().tolist() == [5, 0, 0]
    assert ours.ravel().tolist() == [5, 5, 5]


# The presets themselves.

EVERY_PRESET = [
    presets.torch("bicubic", "reflection", True),
    presets.onnx("cubic", "border", 1),
    presets.opencv("cubic", "wrap"),
    presets.scipy(3, "constant", 2.0).options,
    presets.skimage(3, "reflect", homography=True).options,
]


@pytest.mark.parametrize("options", EVERY_PRESET)
def test_options_are_taken_by_every_sampler(rng, options):
    shape = (1, 6, 7, 2) if options.get("channel_axis") == -1 else (1, 2, 6, 7)
    image, grid = rng.standard_normal(shape), rng.uniform(0, 1, (1, 5, 2))
    value = pystn.grid_sample(image, grid, **options)
    pystn.grid_sample_vjp(value, image, grid, **options)
    pystn.grid_sample_jvp(image, grid, image, grid, **options)
    pystn.grid_sample_vjp2(image, grid, value, image, grid, **options)
    pystn.grid_gradient(image, grid, **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: presets.torch("linear"), "mode must be one of 'nearest', 'bilinear', 'bicubic', got 'linear'"),
        (lambda: presets.torch(padding_mode="wrap"), "padding_mode must be one of .*, got 'wrap'"),
        (lambda: presets.torch(align_corners=1), "align_corners must be True or False, got 1"),
        (lambda: presets.onnx("trilinear"), "mode must be one of .*, got 'trilinear'"),
        (lambda: presets.onnx(padding_mode=None), "padding_mode must be one of .*, got None"),
        (lambda: presets.onnx(align_corners=2), "align_corners must be one of 0, 1, got 2"),
        (lambda: presets.opencv("area"), "interpolation must be one of .*, got 'area'"),
        (lambda: presets.opencv(3), "interpolation must be one of .*, got 3"),
        (lambda: presets.opencv(True), "interpolation must be one of .*, got True"),
        (lambda: presets.opencv(border="mirror"), "border must be one of .*, got 'mirror'"),
        (lambda: presets.opencv(border="transparent"), "got 'transparent': BORDER_TRANSPARENT keeps"),
        (lambda: presets.opencv(border=5), "got 5: BORDER_TRANSPARENT keeps"),
        (lambda: presets.scipy(6), "order must be one of 0, 1, 2, 3, 4, 5, got 6"),
        (lambda: presets.scipy(mode="edge"), "mode must be one of .*, got 'edge'"),
        (lambda: presets.scipy(prefilter=1), "prefilter must be True or False, got 1"),
        (lambda: presets.skimage(-1), "order must be one of 0, 1, 2, 3, 4, 5, got -1"),
        (lambda: presets.skimage(mode="nearest"), "mode must be one of .*, got 'nearest'"),
        (lambda: presets.skimage(homography="no"), "homography must be True or False, got 'no'"),
        (lambda: presets.scipy().prepare(np.zeros((2,) * 4), np.zeros((4, 1))), "1 to 3 axes.*got shape"),
        (lambda: presets.scipy().prepare(np.zeros((0, 2)), np.zeros((2, 1))), r"none of them empty.*\(0, 2\)"),
        (lambda: presets.scipy().prepare(np.zeros((2, 2)), np.zeros((3, 1))), r"shape \(2, \.\.\.\).*got \(3, 1\)"),
        (lambda: presets.scipy().prepare(np.zeros((2, 2)), np.zeros(2)), r"at least one axis.*got \(2,\)"),
    ],
)
def test_errors_say_what_was_expected_and_given(call, message):
    with pytest.raises(ValueError, match=message):
        call()
