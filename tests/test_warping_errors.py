"""Errors of the warps say what was wrong, what was expected and what was given, before any work."""

import re

import numpy as np
import pytest
from warps import WARPS

import pystn

IMAGE = {1: (9,), 2: (8, 9), 3: (7, 8, 9)}
SIZE = {1: (5,), 2: (4, 5), 3: (3, 4, 5)}


class Given:
    """Arguments that are right, one of which a test spoils."""

    def __init__(self, warp):
        self.warp = warp
        self.input, self.theta = np.ones((2, 3, *IMAGE[warp.ndim])), np.zeros((2, warp.rows, warp.ndim + 1))
        self.size, self.options = SIZE[warp.ndim], {}
        self.output = np.zeros((2, 3, *warp.spatial(self.size)))
        self.d_input = self.d_theta = self.out = self.outs = None

    def calls(self):
        """The warp and both derivatives."""
        read = self.input, self.theta
        return {
            "forward": lambda: self.warp.forward(*read, self.size, out=self.out, **self.options),
            "vjp": lambda: self.warp.vjp(self.output, *read, self.size, out=self.outs, **self.options),
            "jvp": lambda: self.warp.jvp(*read, self.d_input, self.d_theta, self.size, out=self.out, **self.options),
        }

    def refused(self, error, *fragments, of=("forward", "vjp", "jvp")):
        """By the error, in one line, naming all fragments."""
        for name in of:
            with pytest.raises(error) as caught:
                self.calls()[name]()
            message = str(caught.value)
            assert "\n" not in message
            for fragment in fragments:
                assert fragment in message, f"{name}: {message}"


@pytest.fixture(params=WARPS)
def given(request):
    return Given(WARPS[request.param])


def test_what_is_given_is_right(given):
    """So that each error below is of what is wrong there."""
    for call in given.calls().values():
        call()


def test_the_shape_of_theta(given):
    warp = given.warp
    rows, columns = warp.rows, warp.ndim + 1
    wrong = [(2, rows, columns + 1), (2, rows + 1, columns), (rows, columns), (2, columns, rows), (columns,), ()]
    wrong += [(2, 3, 2, 2), (2, 4, 4, 4)]
    for shape in wrong:
        if len(shape) >= 3 and shape[-2:] == (rows, columns):
            continue
        given.theta = np.zeros(shape)
        given.refused(ValueError, "theta", f"{rows}, {columns}", str(shape))


def test_a_matrix_for_another_number_of_axes(given):
    for other in WARPS.values():
        if (other.rows, other.ndim) == (given.warp.rows, given.warp.ndim):
            continue
        given.theta = np.zeros((2, other.rows, other.ndim + 1))
        given.refused(ValueError, "theta", str(given.theta.shape))


def test_images_of_other_axes(given):
    """The projective warp is of images alone, the projection of volumes; no warp takes 2 or 6 axes."""
    name = given.warp.name
    for shape in [(2, 3), (2, 3, 4, 5, 6, 7), (3,), ()]:
        given.input = np.ones(shape)
        given.refused(ValueError, "input", str(shape))
    for ndim in (1, 2, 3):
        if ndim == given.warp.ndim:
            continue
        given.input = np.ones((2, 3, *IMAGE[ndim]))
        if name == "warp_affine":
            given.refused(ValueError, "theta", str(given.theta.shape))
        else:
            given.refused(ValueError, "input", str(given.input.shape))


@pytest.mark.parametrize("dtype", ["f2", "i4", "u1", "?", "c8", "g", ">f4", ">f8", "O"])
def test_types_of_theta(given, dtype):
    given.theta = given.theta.astype(dtype)
    given.refused(TypeError, f"theta must be float32 or float64 in native byte order, got dtype {given.theta.dtype}")


@pytest.mark.parametrize("dtype", ["i8", "u4", "i1", "?", "g", ">f4", "O"])
def test_types_of_input(given, dtype):
    given.input = given.input.astype(dtype)
    given.refused(TypeError, "input", "in native byte order, got dtype", str(given.input.dtype))


@pytest.mark.parametrize("name", ["input", "theta"])
@pytest.mark.parametrize("kind", [list, np.ma.array, type(None)], ids=["list", "masked", "None"])
def test_primals_are_arrays(given, name, kind):
    setattr(given, name, None if kind is type(None) else kind(getattr(given, name)))
    word = "is a masked array" if kind is np.ma.array else "must be a numpy.ndarray, got builtins."
    given.refused(TypeError, f"{name} {word}")


def test_torch_tensors_are_told_what_to_pass(given):
    torch = pytest.importorskip("torch", reason="passes a tensor")
    theta, given.theta = given.theta, torch.from_numpy(given.theta)
    hint = "must be a numpy.ndarray, got torch.Tensor: the functions of pystn.torch take tensors"
    given.refused(TypeError, f"theta {hint}")
    given.theta, given.input = theta, torch.from_numpy(given.input)
    given.refused(TypeError, f"input {hint}")


def test_batches(given):
    theta = given.theta
    for n in (3, 0):
        given.theta = np.repeat(theta[:1], n, axis=0)
        given.refused(ValueError, "input and theta must agree or one of them be 1", f"2 and {n}")


def test_sizes(given):
    ndim = given.warp.ndim
    spatial = given.size
    for size in [(*spatial, 4), (2, 3, *spatial, 4), (), spatial[:-1]]:
        if len(size) in (ndim, ndim + 2):
            continue
        given.size = size
        given.refused(ValueError, "size", str(size), f"{ndim} entries")
    given.size = (*spatial[:-1], -1)
    given.refused(ValueError, "size must not be negative", str(given.size))
    given.size = (2, 3, *spatial[:-1], -1)
    given.refused(ValueError, "size must not be negative", str(given.size))
    given.size = (3, 3, *spatial)
    given.refused(ValueError, "size", "batch size", str(given.size))
    for size in (4, None, "ab", (*spatial[:-1], 4.5), (*spatial[:-1], None), [[4]] * ndim):
        given.size = size
        given.refused(TypeError, "size must be a tuple of integers", repr(size)[:20])


def test_an_empty_image_has_no_samples(given):
    given.input = given.input[..., :0]
    given.refused(ValueError, "input", "empty spatial axis", str(given.input.shape))


@pytest.mark.parametrize(
    "error, message, options",
    [
        (ValueError, "unknown mode", {"mode": "quintic"}),
        (TypeError, "unknown mode", {"mode": 1}),
        (ValueError, "an option per axis needs 1 to 3 entries", {"mode": ("linear",) * 4}),
        (ValueError, "unknown padding_mode", {"padding_mode": "reflect"}),
        (TypeError, "align_corners must be True or False, got 1", {"align_corners": 1}),
        (ValueError, "unknown coords", {"coords": "pixels"}),
        (ValueError, "unknown cutoff", {"cutoff": "centre"}),
        (ValueError, "unknown subgradient", {"subgradient": "stn"}),
        (ValueError, "unknown channel_axis", {"channel_axis": 3}),
        (
            ValueError,
            "align_corners=True has no meaning with coords='pixel'",
            {"align_corners": True, "coords": "pixel"},
        ),
        (ValueError, "fill_value must be a number or one for each of the 3 channels", {"fill_value": [1.0, 2.0]}),
        (TypeError, "fill_value must be a number", {"fill_value": "1"}),
        (TypeError, "fill_value must be real", {"fill_value": 1j}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_of_the_sampler(given, error, message, options):
    given.options = options
    given.refused(error, message)


@pytest.mark.parametrize("option", ["mode", "padding_mode"])
def test_options_per_axis(given, option):
    count = given.warp.ndim % 3 + 1  # another number
    given.options = {option: ({"mode": "linear", "padding_mode": "wrap"}[option],) * count}
    given.refused(ValueError, f"{option} must be one value or one for each of the {given.warp.ndim}", f"got {count}")


@pytest.mark.parametrize("bad", [0, 0.0, -1e-9, np.nan, np.inf, -np.inf])
def test_denominators_are_positive_and_finite(bad):
    given = Given(WARPS["projective"])
    given.options = {"min_denominator": bad}
    given.refused(ValueError, "min_denominator", repr(float(bad)) if np.isfinite(bad) and bad else str(bad))


@pytest.mark.parametrize("bad", ["1", (1.0,), 1j, True])
def test_denominators_are_numbers(bad):
    given = Given(WARPS["projective"])
    given.options = {"min_denominator": bad}
    given.refused(TypeError, "min_denominator", repr(bad))


@pytest.mark.parametrize("bad", [1, None, "no"])
def test_cull_behind_is_a_flag(bad):
    given = Given(WARPS["projective"])
    given.options = {"cull_behind": bad}
    given.refused(TypeError, f"cull_behind must be True or False, got {bad!r}")


@pytest.mark.parametrize("bad, error", [("median", ValueError), ("SUM", ValueError), (1, TypeError), (None, TypeError)])
def test_reductions(bad, error):
    given = Given(WARPS["project-sum"])
    given.options = {"reduce": bad}
    given.refused(error, "reduce", "'sum'", "'mean'", "'max'", repr(bad))


@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_complex_numbers_have_no_maximum(dtype):
    given = Given(WARPS["project-max"])
    given.input, given.output = given.input.astype(dtype), given.output.astype(dtype)
    given.refused((TypeError, ValueError), "max", str(given.input.dtype))
    for reduce in ("sum", "mean"):
        given.options = {"reduce": reduce}
        for call in given.calls().values():
            call()


NOT_TAKEN = {
    "warp_affine": ("min_denominator", "cull_behind", "reduce"),
    "warp_projective": ("reduce",),
    "warp_project": ("return_mask", "min_denominator", "cull_behind", "d_fill_value", "d_kernel"),
}


def test_options_that_a_warp_has_not(given):
    """None is taken in silence."""
    for option in NOT_TAKEN[given.warp.name]:
        given.options = {option: 1.0}
        given.refused(TypeError, option, of=["jvp"] if option.startswith("d_") else ("forward", "vjp", "jvp"))


@pytest.mark.parametrize("warp", [name for name, warp in WARPS.items() if warp.reduce is None])
def test_masks(warp):
    given = Given(WARPS[warp])
    given.options = {"return_mask": 1}
    given.refused(TypeError, "return_mask must be True or False, got 1")
    given.options = {"return_mask": True}
    given.refused(TypeError, "with return_mask=True grad_output must be a tuple of the cotangents", of=["vjp"])
    output, mask = given.output, np.zeros((2, *given.size[:-1], 6))
    given.output = (output, mask)
    shape = f"grad_mask must have the shape of the mask, {(2, *given.size)}: got {mask.shape}"
    given.refused(ValueError, shape, of=["vjp"])
    given.output = (output, np.zeros((2, *given.size), np.float32))
    given.refused(TypeError, "grad_mask must have the dtype of the mask, float64: got float32", of=["vjp"])
    given.options, given.output = {}, (output, mask)
    given.refused(TypeError, "grad_output must be a numpy.ndarray", of=["vjp"])


def test_cotangents_and_tangents(given):
    output = given.output
    given.output = np.zeros((*output.shape[:-1], 6))
    expected = f"grad_output must have the shape of the output, {output.shape}: got {given.output.shape}"
    given.refused(ValueError, expected, of=["vjp"])
    given.output = output.astype("f4")
    given.refused(TypeError, "grad_output must have the dtype of the output, float64: got float32", of=["vjp"])
    given.output = output.tolist()
    given.refused(TypeError, "grad_output must be a numpy.ndarray, got builtins.list", of=["vjp"])
    given.d_input = given.input[:1]
    message = f"d_input must have the shape of input, {given.input.shape}: got {given.d_input.shape}"
    given.refused(ValueError, message, of=["jvp"])
    given.d_input = given.input.astype("f4")
    given.refused(TypeError, "d_input must have the dtype of input, float64: got float32", of=["jvp"])
    given.d_input, given.d_theta = None, given.theta[:1]
    message = f"d_theta must have the shape of theta, {given.theta.shape}: got {given.d_theta.shape}"
    given.refused(ValueError, message, of=["jvp"])
    given.d_theta = given.theta.astype("f4")
    given.refused(TypeError, "d_theta must have the dtype of theta, float64: got float32", of=["jvp"])
    given.d_theta = given.theta.tolist()
    given.refused(TypeError, "d_theta must be a numpy.ndarray, got builtins.list", of=["jvp"])


@pytest.mark.parametrize("wrt", ["grid", "", ("input", None), (("input",),), "input,theta"], ids=str)
def test_wrt_of_unknown_names(given, wrt):
    given.options = {"wrt": wrt}
    allowed = ("input", "theta") if given.warp.reduce else ("input", "theta", "fill_value", "kernel")
    given.refused(ValueError, f"unknown entry of wrt: expected some of {allowed}", of=["vjp"])


@pytest.mark.parametrize("wrt", [None, 5, 1.0], ids=str)
def test_wrt_that_is_no_sequence(given, wrt):
    given.options = {"wrt": wrt}
    given.refused(TypeError, "wrt", of=["vjp"])


def test_derivatives_of_options(given):
    if given.warp.reduce is not None:
        for name in ("fill_value", "kernel"):
            given.options = {"wrt": ("input", name)}
            given.refused(
                ValueError, f"unknown entry of wrt: expected some of ('input', 'theta'), got {name!r}", of=["vjp"]
            )
        return
    given.options = {"wrt": "kernel"}
    given.refused(ValueError, "wrt names 'kernel', but mode has no parameter", of=["vjp"])
    given.options = {"mode": "cubic", "d_kernel": np.zeros(2)}
    given.refused(
        ValueError, "d_kernel must have the shape of the parameters of Cubic(a=-0.75), (): got (2,)", of=["jvp"]
    )
    given.options = {"d_fill_value": [1.0]}
    given.refused(ValueError, "d_fill_value must be a number or one for", of=["jvp"])


def outs_of(shape):
    """Arrays that no result of float64 and this shape may be written into."""
    good = np.full(shape, 7.0)
    yield ValueError, f"must have shape {shape}", np.full((*shape[:-1], shape[-1] + 1), 7.0)
    yield ValueError, f"must have shape {shape}", np.full(shape[1:], 7.0)
    yield TypeError, "must have dtype float64: got float32", good.astype(np.float32)
    yield TypeError, "must have dtype float64: got >f8", good.astype(">f8")
    read_only = good.copy()
    read_only.flags.writeable = False
    yield ValueError, "must be writeable", read_only
    same = np.lib.stride_tricks.as_strided(good, shape, (0, *good.strides[1:]))
    yield ValueError, "must not overlap itself", same
    packed = np.zeros(shape, np.dtype([("pad", "i1"), ("value", "f8")]))
    packed["value"] = 7
    yield ValueError, "must be aligned to its itemsize, 8", packed["value"]


def test_outs_that_do_not_fit_are_refused_and_left_alone(given):
    for error, message, out in outs_of(given.output.shape):
        given.out = out
        given.refused(error, "out", message, of=["forward", "jvp"])
        assert (np.asarray(out) == 7).all()
    for at, name in enumerate(("input", "theta")):
        for error, message, out in outs_of(getattr(given, name).shape):
            given.outs = (out, None) if at == 0 else (None, out)
            given.refused(error, f"out: grad_{name}", message, of=["vjp"])
            assert (np.asarray(out) == 7).all()
    for outs in ([None, None], (None,), (None, None, None), np.zeros(3)):
        given.outs = outs
        given.refused(TypeError, "out must be a tuple (grad_input, grad_theta) of arrays or None", of=["vjp"])
    given.out = given.output.tolist()
    given.refused(TypeError, "out must be a numpy.ndarray, got builtins.list", of=["forward", "jvp"])


def test_nothing_is_written_before_an_error(given):
    """Whatever else is wrong."""
    given.out = np.full(given.output.shape, 7.0)
    given.outs = np.full(given.input.shape, 7.0), np.full(given.theta.shape, 7.0)
    right = given.theta
    for theta in (right[..., :1], right.astype(int), np.repeat(right, 2, axis=0)):
        given.theta = theta
        given.refused((TypeError, ValueError))
    given.theta, given.d_theta = right, right.astype("f4")
    given.refused(TypeError, "d_theta", of=["jvp"])
    given.options, given.output = {"wrt": "grid"}, given.output
    given.refused(ValueError, "wrt", of=["vjp"])
    given.options, given.output = {}, given.output[..., :-1]
    given.refused(ValueError, "grad_output", of=["vjp"])
    for array in (given.out, *given.outs):
        assert (array == 7).all()


def test_layout_is_named_as_chosen(given):
    """With channels last shapes are those of channels last."""
    given.input = np.ascontiguousarray(np.moveaxis(given.input, 1, -1))
    given.output = np.ascontiguousarray(np.moveaxis(given.output, 1, -1))
    given.options = {"channel_axis": -1}
    for call in given.calls().values():
        call()
    shape, given.out = given.output.shape, np.moveaxis(given.output, -1, 1).copy()
    given.refused(ValueError, f"out must have shape {shape}: got {given.out.shape}", of=["forward", "jvp"])
    given.output = given.out
    message = f"grad_output must have the shape of the output, {shape}: got {given.output.shape}"
    given.refused(ValueError, message, of=["vjp"])


def test_every_warp_is_public_and_documented():
    for warp in ("warp_affine", "warp_projective", "warp_project"):
        for name in (warp, f"{warp}_vjp", f"{warp}_jvp", f"{warp}_vjp2"):
            assert name in pystn.__all__
            documentation = getattr(pystn, name).__doc__
            for section in ("Parameters\n", "Returns\n", "Raises\n", "Examples\n"):
                assert section in documentation, name
            assert re.search(r"^    >>> ", documentation, re.MULTILINE), name
