"""Errors say what was wrong, what was expected and what was given, before anything is written."""

import re

import numpy as np
import pytest

import pystn

IMAGE, GRID = np.zeros((2, 3, 8, 9)), np.zeros((2, 4, 5, 2))
OUTPUT = np.zeros((2, 3, 4, 5))


def raises(error, message, call, *arguments, **options):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error, message, image, grid",
    [
        (ValueError, "input must have 3 to 5 axes, (N, C, W), (N, C, H, W), (N, C, D, H, W): got 2", IMAGE[0, 0], GRID),
        (ValueError, "(N, C, D, H, W): got 6 axes, shape (1, 1, 2, 3, 8, 9)", IMAGE[None, None], GRID),
        (ValueError, "grid has last axis 2, but input (N, C, D, H, W) has 3 spatial axes", IMAGE[None], GRID),
        (ValueError, "grid must have 2 axes or more, (N, ..., 2): got 1 axes, shape (2,)", IMAGE, np.zeros(2)),
        (
            ValueError,
            "grid has last axis 3, but input (N, C, H, W) has 2 spatial axes: "
            "expected grid of shape (N, ..., 2), got (2, 4, 5, 3)",
            IMAGE,
            np.zeros((2, 4, 5, 3)),
        ),
        (
            ValueError,
            "batch sizes of input and grid must agree or one of them be 1: got 2 and 3",
            IMAGE,
            np.zeros((3, 4, 5, 2)),
        ),
        (ValueError, "input has an empty spatial axis", np.zeros((2, 3, 0, 9)), GRID),
        (TypeError, "uint8, int16, uint16 in native byte order, got dtype int64", IMAGE.astype("i8"), GRID),
        (
            TypeError,
            "grid must be float32 or float64 in native byte order, got dtype float16",
            IMAGE,
            GRID.astype("f2"),
        ),
        (TypeError, "grid must be float32 or float64 in native byte order, got dtype >f8", IMAGE, GRID.astype(">f8")),
        (TypeError, "grid must be a numpy.ndarray, got builtins.list: pass numpy.asarray", IMAGE, GRID.tolist()),
        (TypeError, "input must be a numpy.ndarray, got builtins.NoneType", None, GRID),
        (TypeError, "input is a masked array, whose mask would be lost", np.ma.array(IMAGE), GRID),
    ],
)
def test_image_and_grid(error, message, image, grid):
    for call, before, after in (
        (pystn.grid_sample, (), ()),
        (pystn.grid_sample_vjp, (OUTPUT,), ()),
        (pystn.grid_sample_jvp, (), (None, None)),
    ):
        raises(error, message, call, *before, image, grid, *after)


def test_layout_is_named_as_chosen():
    message = "grid has last axis 3, but input (N, H, W, C) has 2 spatial axes"
    raises(ValueError, message, pystn.grid_sample, IMAGE, np.zeros((2, 4, 5, 3)), channel_axis=-1)


def test_torch_tensor_is_told_what_to_pass():
    torch = pytest.importorskip("torch", reason="passes a tensor")
    message = "input must be a numpy.ndarray, got torch.Tensor: the functions of pystn.torch take tensors"
    raises(TypeError, message, pystn.grid_sample, torch.zeros(2, 3, 8, 9), GRID)
    raises(
        TypeError, "theta must be a numpy.ndarray, got torch.Tensor", pystn.affine_grid, torch.zeros(1, 2, 3), (2, 2)
    )


@pytest.mark.parametrize(
    "error, message, options",
    [
        (
            ValueError,
            "unknown mode: expected one of 'nearest', 'linear', 'bilinear', 'trilinear', 'cubic', 'bicubic', "
            "'tricubic' or a kernel, Nearest(), Linear(), Cubic(), BSpline(), Lanczos(), Gaussian(), Tabulated(); "
            "got 'quintic'",
            {"mode": "quintic"},
        ),
        (TypeError, "unknown mode", {"mode": 1}),
        (TypeError, "unknown mode", {"mode": [None, "linear"]}),
        (ValueError, "mode must be one value or one for each of the 2 spatial axes: got 1", {"mode": ["linear"]}),
        (ValueError, "an option per axis needs 1 to 3 entries", {"mode": ["linear"] * 4}),
        (TypeError, "unknown mode", {"mode": pystn.Linear}),
        (
            ValueError,
            "unknown padding_mode: expected one of 'zeros', 'border', 'reflection', 'mirror', 'symmetric', 'wrap', "
            "'constant', got 'reflect'",
            {"padding_mode": "reflect"},
        ),
        (ValueError, "padding_mode must be one value or one for each", {"padding_mode": ("wrap",) * 3}),
        (ValueError, "unknown padding_mode", {"padding_mode": ("wrap", "reflect")}),
        (ValueError, "unknown cutoff: expected one of None, 'center', 'edge', got 'centre'", {"cutoff": "centre"}),
        (TypeError, "unknown cutoff", {"cutoff": 1}),
        (ValueError, "fill_value must be a number or one for each of the 3 channels", {"fill_value": [1.0, 2.0]}),
        (TypeError, "fill_value must be a number or a sequence", {"fill_value": "1"}),
        (TypeError, "fill_value must be a number or a sequence", {"fill_value": np.ones((3, 1))}),
        (TypeError, "fill_value must be a number or a sequence", {"fill_value": None}),
        (TypeError, "fill_value must be a number or one per channel, got True", {"fill_value": True}),
        (TypeError, "fill_value must be real for an input of dtype float64", {"fill_value": 1j}),
        (TypeError, "unknown padding_mode", {"padding_mode": None}),
        (TypeError, "align_corners must be True or False, got 1", {"align_corners": 1}),
        (TypeError, "align_corners must be True or False, got None", {"align_corners": None}),
        (ValueError, "unknown coords: expected one of 'normalized', 'pixel', got 'pixels'", {"coords": "pixels"}),
        (
            ValueError,
            "unknown subgradient: expected one of 'right', 'left', 'central', 'zero', got 'stn'",
            {"subgradient": "stn"},
        ),
        (ValueError, "unknown channel_axis: expected one of 1, -1, got 3", {"channel_axis": 3}),
        (TypeError, "unknown channel_axis", {"channel_axis": 1.0}),
        (
            ValueError,
            "align_corners=True has no meaning with coords='pixel'",
            {"align_corners": True, "coords": "pixel"},
        ),
    ],
)
def test_options(error, message, options):
    for call, before, after in (
        (pystn.grid_sample, (), ()),
        (pystn.grid_sample_vjp, (OUTPUT,), ()),
        (pystn.grid_sample_jvp, (), (None, None)),
    ):
        raises(error, message, call, *before, IMAGE, GRID, *after, **options)


def test_cotangents_and_tangents():
    vjp, jvp = pystn.grid_sample_vjp, pystn.grid_sample_jvp
    message = "grad_output must have the shape of the output, (2, 3, 4, 5): got (2, 3, 5, 4)"
    raises(ValueError, message, vjp, np.zeros((2, 3, 5, 4)), IMAGE, GRID)
    message = "grad_output must have the dtype of the output, float64: got float32"
    raises(TypeError, message, vjp, OUTPUT.astype("f4"), IMAGE, GRID)
    raises(ValueError, "d_input must have the shape of input, (2, 3, 8, 9)", jvp, IMAGE, GRID, IMAGE[:1], None)
    raises(TypeError, "d_grid must have the dtype of grid, float64", jvp, IMAGE, GRID, None, GRID.astype("f4"))
    message = "unknown entry of wrt: expected some of ('input', 'grid', 'fill_value', 'kernel'), got 'theta'"
    raises(ValueError, message, vjp, OUTPUT, IMAGE, GRID, wrt=("input", "theta"))


@pytest.mark.parametrize(
    "error, message, out",
    [
        (ValueError, "out must have shape (2, 3, 4, 5): got (2, 3, 4, 4)", np.zeros((2, 3, 4, 4))),
        (TypeError, "out must have dtype float64: got float32", np.zeros((2, 3, 4, 5), np.float32)),
        (TypeError, "out must be a numpy.ndarray, got builtins.list", [0]),
        (ValueError, "out must be writeable", np.broadcast_to(np.zeros(5), (2, 3, 4, 5))),
        (
            ValueError,
            "out must not overlap itself",
            np.lib.stride_tricks.as_strided(np.zeros(200), (2, 3, 4, 5), (160, 40, 8, 8)),
        ),
        (
            ValueError,
            "out must be aligned to its itemsize, 8",
            np.zeros((2, 3, 4, 5), np.dtype([("pad", "i1"), ("value", "f8")]))["value"],
        ),
    ],
)
def test_out(error, message, out):
    raises(error, message, pystn.grid_sample, IMAGE, GRID, out=out)


def test_out_must_not_overlap_what_is_read_or_written():
    memory = np.zeros(2000)
    image, out = memory[:432].reshape(2, 3, 8, 9), memory[400:520].reshape(2, 3, 4, 5)
    raises(ValueError, "out must not overlap an array that is read", pystn.grid_sample, image, GRID, out=out)
    interleaved = memory[:864].reshape(2, 3, 8, 18)
    pystn.grid_sample(interleaved[..., ::2], GRID, out=memory[1000:1120].reshape(2, 3, 4, 5))
    grads = memory[:432].reshape(2, 3, 8, 9), memory[432:512].reshape(2, 4, 5, 2)
    pystn.grid_sample_vjp(OUTPUT, IMAGE, GRID, out=grads)
    overlapping = grads[0], memory[430:510].reshape(2, 4, 5, 2)
    message = "out: grad_input must not overlap"
    raises(ValueError, message, pystn.grid_sample_vjp, OUTPUT, IMAGE, GRID, out=overlapping)
    message = "out must be a tuple (grad_input, grad_grid) of arrays or None, got ndarray"
    raises(TypeError, message, pystn.grid_sample_vjp, OUTPUT, IMAGE, GRID, out=grads[0])


def test_nothing_is_written_before_an_error():
    out = np.full((2, 3, 4, 5), 7.0)
    for grid in (GRID[:, :, :4], GRID[..., :1], np.zeros((3, 4, 5, 2))):
        with pytest.raises(ValueError):
            pystn.grid_sample(IMAGE, grid, out=out)
    with pytest.raises(TypeError):
        pystn.grid_sample_jvp(IMAGE, GRID, IMAGE.astype("f4"), None, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    "error, message, theta, size",
    [
        (
            ValueError,
            "theta must have shape (N, ..., ndim, ndim + 1) with ndim 1 to 3: got (2, 3)",
            np.zeros((2, 3)),
            (4, 5),
        ),
        (
            ValueError,
            "theta must have shape (N, ..., ndim, ndim + 1) with ndim 1 to 3: got (1, 3, 3)",
            np.zeros((1, 3, 3)),
            (4, 5),
        ),
        (TypeError, "theta must be float32 or float64", np.zeros((1, 2, 3), int), (4, 5)),
        (
            ValueError,
            "size must have 2 entries (spatial) or 4 (N, C, spatial) for a transform in 2 dimensions: got (4, 5, 6)",
            np.zeros((1, 2, 3)),
            (4, 5, 6),
        ),
        (ValueError, "size must not be negative: got (4, -5)", np.zeros((1, 2, 3)), (4, -5)),
        (TypeError, "size must be a tuple of integers, got 4", np.zeros((1, 2, 3)), 4),
        (TypeError, "size must be a tuple of integers, got (4.5, 5)", np.zeros((1, 2, 3)), (4.5, 5)),
        (TypeError, "size must be a tuple of integers, got 'ab'", np.zeros((1, 2, 3)), "ab"),
        (
            ValueError,
            "size (N, C, spatial) must have the batch size, 1: got (2, 3, 4, 5)",
            np.zeros((1, 2, 3)),
            (2, 3, 4, 5),
        ),
    ],
)
def test_affine_grid(error, message, theta, size):
    raises(error, message, pystn.affine_grid, theta, size)
    raises(error, message, pystn.affine_grid_vjp, np.zeros((1, 4, 5, 2)), theta, size)
    raises(error, message, pystn.affine_grid_jvp, theta, None, size)


def test_affine_grid_arrays():
    theta = np.zeros((1, 2, 3))
    raises(TypeError, "align_corners must be True or False, got 'no'", pystn.affine_grid, theta, (4, 5), "no")
    message = "grad_grid must have the shape of the grid, (1, 4, 5, 2): got (1, 5, 4, 2)"
    raises(ValueError, message, pystn.affine_grid_vjp, np.zeros((1, 5, 4, 2)), theta, (4, 5))
    message = "d_theta must have the shape of theta, (1, 2, 3)"
    raises(ValueError, message, pystn.affine_grid_jvp, theta, np.zeros((2, 2, 3)), (4, 5))
    raises(ValueError, "out must have shape (1, 4, 5, 2)", pystn.affine_grid, theta, (4, 5), out=np.zeros((4, 5, 2)))


@pytest.mark.parametrize("dtype", ["f2", "i4", "u1", "?", "c8", "c16", "g", ">f4", "<U3", "O"])
def test_dtypes_that_are_not_read(dtype):
    """Each array is named, with the dtype that it has."""
    wrong = np.zeros((2, 3, 8, 9), dtype)
    if wrong.dtype in (np.float32, np.float64):
        pytest.skip("here this is a dtype that is read")
    if wrong.dtype not in (np.float16, np.uint8, np.complex64, np.complex128):
        message = f"uint8, int16, uint16 in native byte order, got dtype {wrong.dtype}"
        raises(TypeError, message, pystn.grid_sample, wrong, GRID)
    message = f"must be float32 or float64 in native byte order, got dtype {wrong.dtype}"
    raises(TypeError, f"grid {message}", pystn.grid_sample, IMAGE, np.zeros(GRID.shape, dtype))
    raises(TypeError, f"theta {message}", pystn.affine_grid, np.zeros((1, 2, 3), dtype), (2, 2))
    message = f"grad_output must have the dtype of the output, float64: got {wrong.dtype}"
    raises(TypeError, message, pystn.grid_sample_vjp, np.zeros(OUTPUT.shape, dtype), IMAGE, GRID)
    message = f"d_input must have the dtype of input, float64: got {wrong.dtype}"
    raises(TypeError, message, pystn.grid_sample_jvp, IMAGE, GRID, wrong, None)


@pytest.mark.parametrize("name", ["grad_output", "d_input", "d_grid", "d_theta", "grad_grid", "out"])
@pytest.mark.parametrize("kind", [list, np.ma.array], ids=["list", "masked"])
def test_every_array_has_to_be_one(name, kind):
    theta, grid = np.zeros((2, 2, 3)), np.zeros((2, 4, 5, 2))
    calls = {
        "grad_output": lambda: pystn.grid_sample_vjp(kind(OUTPUT), IMAGE, GRID),
        "d_input": lambda: pystn.grid_sample_jvp(IMAGE, GRID, kind(IMAGE), None),
        "d_grid": lambda: pystn.grid_sample_jvp(IMAGE, GRID, None, kind(GRID)),
        "d_theta": lambda: pystn.affine_grid_jvp(theta, kind(theta), (4, 5)),
        "grad_grid": lambda: pystn.affine_grid_vjp(kind(grid), theta, (4, 5)),
        "out": lambda: pystn.grid_sample(IMAGE, GRID, out=kind(OUTPUT)),
    }
    expected = f"{name} must be a numpy.ndarray, got builtins.list" if kind is list else f"{name} is a masked array"
    raises(TypeError, expected, calls[name])


@pytest.mark.parametrize("wrt", [None, 5, 1.0], ids=str)
def test_wrt_that_is_no_sequence_is_named(wrt):
    raises(TypeError, "wrt", pystn.grid_sample_vjp, OUTPUT, IMAGE, GRID, wrt=wrt)


@pytest.mark.parametrize("wrt", ["theta", "", ("input", None), (("input",),), "input,grid"], ids=str)
def test_wrt_of_unknown_names(wrt):
    message = "unknown entry of wrt: expected some of ('input', 'grid', 'fill_value', 'kernel'), got "
    raises(ValueError, message, pystn.grid_sample_vjp, OUTPUT, IMAGE, GRID, wrt=wrt)


def test_shapes_that_follow_from_the_layout():
    image = np.zeros((2, 8, 9, 3))
    message = "grad_output must have the shape of the output, (2, 4, 5, 3): got (2, 3, 4, 5)"
    raises(ValueError, message, pystn.grid_sample_vjp, OUTPUT, image, GRID, channel_axis=-1)
    message = "out must have shape (2, 4, 5, 3): got (2, 3, 4, 5)"
    raises(ValueError, message, pystn.grid_sample, image, GRID, channel_axis=-1, out=OUTPUT.copy())
    message = "input has an empty spatial axis"
    raises(ValueError, message, pystn.grid_sample, np.zeros((2, 8, 0, 3)), GRID, channel_axis=-1)
    assert pystn.grid_sample(np.zeros((2, 8, 9, 0)), GRID, channel_axis=-1).shape == (2, 4, 5, 0)


def outs_of(shape, dtype):
    """Arrays of a shape that no result may be written into."""
    good = np.full(shape, 7, dtype)
    yield ValueError, np.full((*shape[:-1], shape[-1] + 1), 7, dtype)
    yield ValueError, np.full(shape[1:], 7, dtype)
    yield TypeError, good.astype(np.float32)
    yield TypeError, good.astype(">f8")
    yield TypeError, good.astype(int)
    read_only = good.copy()
    read_only.flags.writeable = False
    yield ValueError, read_only
    same = np.lib.stride_tricks.as_strided(good, shape, (0, *good.strides[1:]))
    yield ValueError, same
    overlapping = np.lib.stride_tricks.as_strided(good, shape, (*good.strides[:-2], good.itemsize, good.itemsize))
    yield ValueError, overlapping


THETA = np.zeros((2, 2, 3))
WRITERS = {
    "grid_sample": (OUTPUT.shape, lambda out: pystn.grid_sample(IMAGE, GRID, out=out)),
    "vjp, input": (IMAGE.shape, lambda out: pystn.grid_sample_vjp(OUTPUT, IMAGE, GRID, out=(out, None))),
    "vjp, grid": (GRID.shape, lambda out: pystn.grid_sample_vjp(OUTPUT, IMAGE, GRID, out=(None, out))),
    "jvp": (OUTPUT.shape, lambda out: pystn.grid_sample_jvp(IMAGE, GRID, IMAGE, GRID, out=out)),
    "affine_grid": (GRID.shape, lambda out: pystn.affine_grid(THETA, (4, 5), out=out)),
    "affine vjp": (THETA.shape, lambda out: pystn.affine_grid_vjp(GRID, THETA, (4, 5), out=(out,))),
    "affine jvp": (GRID.shape, lambda out: pystn.affine_grid_jvp(THETA, THETA, (4, 5), out=out)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_out_that_does_not_fit_is_refused_and_left_alone(writer):
    shape, call = WRITERS[writer]
    for error, out in outs_of(shape, np.float64):
        with pytest.raises(error, match="out"):
            call(out)
        assert (np.asarray(out) == 7).all()
    good = np.full(shape, 7.0)
    call(good)
    assert not (good == 7).any()


def test_no_out_overlaps_anything_that_is_read():
    """Every array that is read, in every operation that writes."""

    def view(a, memory):  # of the first numbers of a block of memory
        return memory[: a.size].reshape(a.shape)

    for reads, writes, call in (
        ((OUTPUT, IMAGE, GRID), IMAGE, lambda o, *a: pystn.grid_sample_vjp(*a, out=(o, None))),
        ((OUTPUT, IMAGE, GRID), GRID, lambda o, *a: pystn.grid_sample_vjp(*a, out=(None, o))),
        ((IMAGE, GRID, IMAGE, GRID), OUTPUT, lambda o, *a: pystn.grid_sample_jvp(*a, out=o)),
        ((IMAGE, GRID), OUTPUT, lambda o, *a: pystn.grid_sample(*a, out=o)),
        ((THETA,), GRID, lambda o, t: pystn.affine_grid(t, (4, 5), out=o)),
        ((THETA, THETA), GRID, lambda o, t, d: pystn.affine_grid_jvp(t, d, (4, 5), out=o)),
        ((GRID, THETA), THETA, lambda o, g, t: pystn.affine_grid_vjp(g, t, (4, 5), out=(o,))),
    ):
        for i in range(len(reads)):
            memory = np.zeros(2000)
            out = memory[10 : 10 + writes.size].reshape(writes.shape)
            arrays = [view(a, memory) if j == i else a.copy() for j, a in enumerate(reads)]
            raises(ValueError, "must not overlap an array that is read", call, out, *arrays)
            call(out, *(a.copy() for a in arrays))


def test_interleaved_arrays_do_not_overlap():
    """One block of memory, the even numbers read and the odd ones written."""
    memory = np.zeros((2, 3, 8, 18))
    memory[..., ::2] = 1
    points = np.stack(np.meshgrid(np.arange(9.0), np.arange(8.0)), -1)[None]
    pystn.grid_sample(memory[..., ::2], points, coords="pixel", out=memory[..., 1::2])
    assert (memory == 1).all()


@pytest.mark.parametrize(
    "bad, error",
    [((4, None), TypeError), (None, TypeError), ((), ValueError), ((4,), ValueError), ((1, 2, 3, 4, 5), ValueError)],
    ids=str,
)
def test_size_is_named(bad, error):
    raises(error, "size", pystn.affine_grid, THETA, bad)
    raises(error, "size", pystn.affine_grid_vjp, GRID, THETA, bad)
    raises(error, "size", pystn.affine_grid_jvp, THETA, THETA, bad)


def test_out_of_a_vjp_is_a_tuple_of_its_length():
    for out in ([None, None], (None,), (None, None, None), np.zeros(3)):
        raises(
            TypeError,
            "out must be a tuple (grad_input, grad_grid)",
            pystn.grid_sample_vjp,
            OUTPUT,
            IMAGE,
            GRID,
            out=out,
        )
    for out in ([None], (), (None, None), np.zeros((2, 2, 3))):
        raises(TypeError, "out must be a tuple (grad_theta)", pystn.affine_grid_vjp, GRID, THETA, (4, 5), out=out)


@pytest.mark.parametrize(
    "error, message, kernel",
    [
        (ValueError, "ties must be one of 'even', 'up', got 'down'", lambda: pystn.Nearest(ties="down")),
        (TypeError, "a must be a real number, got '-0.5'", lambda: pystn.Cubic(a="-0.5")),
        (TypeError, "a must be a real number, got True", lambda: pystn.Cubic(a=True)),
        (ValueError, "a must be finite, got nan", lambda: pystn.Cubic(a=np.nan)),
        (ValueError, "order must be one of 0, 1, 2, 3, 4, 5, 6, 7, got 8", lambda: pystn.BSpline(8)),
        (TypeError, "prefilter must be True or False, got 1", lambda: pystn.BSpline(3, 1)),
        (ValueError, "a must be one of 2, 3, 4, got 1", lambda: pystn.Lanczos(1)),
        (ValueError, "sigma must be positive, got 0.0", lambda: pystn.Gaussian(0)),
        (ValueError, "truncate must be positive, got -1.0", lambda: pystn.Gaussian(1, -1)),
        (ValueError, "sigma must be 1e-3 pixels or more, got 0.0001", lambda: pystn.Gaussian(1e-4)),
        (ValueError, "truncate * sigma must be at most 32 pixels, got 4.0 * 9.0", lambda: pystn.Gaussian(9)),
        (ValueError, "table must be a sequence of 2 real numbers or more", lambda: pystn.Tabulated([1.0], 1)),
        (ValueError, "table must be a sequence of 2 real numbers or more", lambda: pystn.Tabulated([1j, 2], 1)),
        (ValueError, "table must be finite", lambda: pystn.Tabulated([0, np.inf], 1)),
        (ValueError, "support must be positive and at most 32, got 33.0", lambda: pystn.Tabulated([0, 1, 0], 33)),
    ],
)
def test_kernels(error, message, kernel):
    raises(error, message, kernel)


def test_gradients_and_tangents_of_options():
    vjp, jvp = pystn.grid_sample_vjp, pystn.grid_sample_jvp
    raises(ValueError, "wrt names 'kernel', but mode has no parameter", vjp, OUTPUT, IMAGE, GRID, wrt="kernel")
    message = "d_kernel must have the shape of the parameters of Cubic(a=-0.75), (): got (2,)"
    raises(ValueError, message, jvp, IMAGE, GRID, None, None, "cubic", d_kernel=np.zeros(2))
    raises(ValueError, "d_kernel must have the shape", jvp, IMAGE, GRID, None, None, d_kernel=1.0)
    message = "d_kernel must be a tuple of one tangent or None for each axis' mode"
    raises(TypeError, message, jvp, IMAGE, GRID, None, None, ("cubic", "linear"), d_kernel=1.0)
    raises(ValueError, "d_fill_value must be a number or one for", jvp, IMAGE, GRID, None, None, d_fill_value=[1.0])
    message = "with return_mask=True grad_output must be a tuple of the cotangents of output and mask, got ndarray"
    raises(TypeError, message, vjp, OUTPUT, IMAGE, GRID, return_mask=True)
    mask = np.zeros((2, 4, 4))
    message = "grad_mask must have the shape of the mask, (2, 4, 5): got (2, 4, 4)"
    raises(ValueError, message, vjp, (OUTPUT, mask), IMAGE, GRID, return_mask=True)
    raises(TypeError, "return_mask must be True or False, got 1", pystn.grid_sample, IMAGE, GRID, return_mask=1)
    raises(
        ValueError, "gg_grid must have the shape of grid", pystn.grid_sample_vjp2, None, GRID[:1], OUTPUT, IMAGE, GRID
    )
    raises(
        TypeError,
        "gg_input must have the dtype of input",
        pystn.grid_sample_vjp2,
        IMAGE.astype("f4"),
        None,
        OUTPUT,
        IMAGE,
        GRID,
    )


def test_splatting():
    values = np.zeros((2, 3, 4, 5))
    push = pystn.grid_push
    message = "values must have shape (N, C, *shape) for a grid (N, *shape, 2): got (2, 3, 5, 4) with grid (2, 4, 5, 2)"
    raises(ValueError, message, push, np.zeros((2, 3, 5, 4)), GRID, (8, 9))
    raises(TypeError, "values must be one of float16, bfloat16", push, values.astype("u1"), GRID, (8, 9))
    raises(ValueError, "size must have 2 entries (spatial) or 4", push, values, GRID, (8, 9, 3))
    raises(TypeError, "size must be a tuple of integers, got (8.5, 9)", push, values, GRID, (8.5, 9))
    raises(
        ValueError, "size must be 1 or more along every axis for a grid that points into it", push, values, GRID, (0, 9)
    )
    raises(ValueError, "batch sizes of values and grid must agree", push, np.zeros((3, 3, 4, 5)), GRID, (8, 9))
    raises(
        ValueError,
        "grid must have shape (N, ..., ndim) with ndim 1 to 3",
        pystn.grid_count,
        np.zeros((2, 5, 4)),
        (8, 9),
    )
    raises(
        ValueError,
        "grad_output must have the shape of the output, (2, 3, 8, 9)",
        pystn.grid_push_vjp,
        values,
        values,
        GRID,
        (8, 9),
    )
    raises(ValueError, "d_values must have the shape of values", pystn.grid_push_jvp, values, GRID, IMAGE, None, (8, 9))
    raises(ValueError, "eps must be positive, got 0", pystn.forward_warp, values, GRID, (8, 9), eps=0)
    raises(ValueError, "mode must be one value or one for each of the 2", push, values, GRID, (8, 9), ("linear",) * 3)
