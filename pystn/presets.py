"""The conventions of other libraries as ready options of `pystn.grid_sample` and its kin.

`torch`, `onnx` and `opencv` return a dict of keyword options. `scipy` and `skimage` return a `Preset`:
besides such a dict in ``options`` it has ``prepare``, which turns their arguments, an image and
coordinates with rows first, into arrays for pystn. No preset imports its library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pystn.interpolation import BSpline, Cubic, Interpolation, Lanczos, Linear, Nearest, check_host, choice
from pystn.splines import spline_filter
from pystn.typing import Array

__all__ = ["Preset", "onnx", "opencv", "scipy", "skimage", "torch"]

PAD = 12  # SciPy's, before it filters where it has no exact boundary condition

TORCH_MODES = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}
ONNX_MODES = {"nearest": "nearest", "linear": "linear", "cubic": "cubic", "bilinear": "linear", "bicubic": "cubic"}
NORMALIZED_PADDINGS = ("zeros", "border", "reflection")

OPENCV_INTERPOLATIONS: dict[str, tuple[int, Interpolation]] = {
    "nearest": (0, Nearest()),
    "linear": (1, Linear()),
    "cubic": (2, Cubic()),
    "lanczos4": (4, Lanczos(4)),
}
OPENCV_BORDERS = {
    "constant": (0, "constant"),
    "replicate": (1, "border"),
    "reflect": (2, "symmetric"),
    "wrap": (3, "wrap"),
    "reflect101": (4, "mirror"),
}
TRANSPARENT = ("transparent", 5)

SCIPY_PADDINGS = {
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "constant": "mirror",  # of taps; samples are cut off at the outermost centres
    "grid-constant": "constant",
    "nearest": "border",
    "mirror": "mirror",
    "grid-wrap": "wrap",
    "wrap": "mirror",  # of taps; coordinates are folded with period n - 1
}
# How SciPy pads the image, as numpy.pad calls it, and the boundary it then filters under.
SCIPY_PADDED = {"nearest": ("edge", "symmetric"), "grid-constant": ("constant", "mirror")}
SKIMAGE_MODES = {
    "constant": "grid-constant",
    "edge": "nearest",
    "symmetric": "reflect",
    "reflect": "mirror",
    "wrap": "grid-wrap",
}


def torch(mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False) -> dict[str, Any]:
    """Options of `pystn.grid_sample` for those of ``torch.nn.functional.grid_sample``.

    Parameters
    ----------
    mode : {"bilinear", "nearest", "bicubic"}, default "bilinear"
        "bilinear" is trilinear for volumes. PyTorch has "bicubic" for images only; here it goes on.
    padding_mode : {"zeros", "border", "reflection"}, default "zeros"
    align_corners : bool, default False

    Returns
    -------
    dict
        Keyword options.

    Raises
    ------
    ValueError
        If an option is unknown.

    Notes
    -----
    Values and derivatives are equal to rounding, but for coordinates that are NaN or infinite: those
    yield 0 here, some pixel there.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> from pystn import presets
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> grid = np.array([[[-1.0, -1.0], [1.0, 0.0]]])
    >>> pystn.grid_sample(image, grid, **presets.torch("bilinear", "border", align_corners=True))
    array([[[0., 2.]]])
    """
    choice("mode", mode, tuple(TORCH_MODES))
    choice("padding_mode", padding_mode, NORMALIZED_PADDINGS)
    if not isinstance(align_corners, (bool, np.bool_)):
        raise ValueError(f"align_corners must be True or False, got {align_corners!r}")
    return normalized(TORCH_MODES[mode], padding_mode, align_corners)


def onnx(mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0) -> dict[str, Any]:
    """Options of `pystn.grid_sample` for the attributes of ONNX' operator GridSample.

    Parameters
    ----------
    mode : {"linear", "nearest", "cubic"}, default "linear"
        Or "bilinear" and "bicubic", the names before operator set 20.
    padding_mode : {"zeros", "border", "reflection"}, default "zeros"
    align_corners : {0, 1}, default 0
        Or the bool.

    Returns
    -------
    dict
        Keyword options.

    Raises
    ------
    ValueError
        If an option is unknown.

    Notes
    -----
    As PyTorch, from which the operator comes, and as ONNX Runtime, to rounding. Differences:

    - "nearest" with "reflection" of coordinates beyond the image, halfway between two pixels: ONNX
      rounds before it reflects, here and in PyTorch it is the other way round.
    - "cubic" with "border" beyond the image: the reference evaluator of ONNX, but not ONNX Runtime,
      clips the coordinate and not each tap.
    - The reference evaluator holds positions in float32, whatever the grid.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> from pystn import presets
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> grid = np.array([[[-1.0, -1.0], [1.0, 0.0]]])
    >>> pystn.grid_sample(image, grid, **presets.onnx("linear", "zeros", align_corners=1))
    array([[[0., 2.]]])
    """
    choice("mode", mode, tuple(ONNX_MODES))
    choice("padding_mode", padding_mode, NORMALIZED_PADDINGS)
    choice(
        "align_corners", int(align_corners) if isinstance(align_corners, (bool, np.bool_)) else align_corners, (0, 1)
    )
    return normalized(ONNX_MODES[mode], padding_mode, bool(align_corners))


def normalized(mode: str, padding_mode: str, align_corners: bool) -> dict[str, Any]:
    return {
        "mode": mode,
        "padding_mode": padding_mode,
        "align_corners": bool(align_corners),
        "coords": "normalized",
    }


def opencv(interpolation: str | int = "linear", border: str | int = "constant", value: Any = 0.0) -> dict[str, Any]:
    """Options of `pystn.grid_sample` for ``cv2.remap`` with maps of floats.

    The image has its channels last, (1, H, W, C); the grid is (1, h, w, 2) of (map_x, map_y).

    Parameters
    ----------
    interpolation : {"nearest", "linear", "cubic", "lanczos4"}, default "linear"
        Or OpenCV's flag, ``cv2.INTER_LINEAR``.
    border : {"constant", "replicate", "reflect", "reflect101", "wrap"}, default "constant"
        Or OpenCV's flag, ``cv2.BORDER_REFLECT_101``.
    value : number or sequence of C numbers, default 0
        What is read outside under "constant". A number counts for every channel; OpenCV takes
        ``borderValue=5`` for (5, 0, 0, 0).

    Returns
    -------
    dict
        Keyword options, ``coords="pixel"`` and ``channel_axis=-1`` among them.

    Raises
    ------
    ValueError
        If an option is unknown, or the border BORDER_TRANSPARENT, which keeps what was in the output.

    Notes
    -----
    Equal to OpenCV 5 to rounding, integers included, for "nearest", "linear" and "cubic" of images of
    uint8, uint16 or float32 with 1, 3 or 4 channels. Differences:

    - Where OpenCV goes through tables ("lanczos4" always; "linear" of other types or 2 channels;
      before OpenCV 5 all but "nearest") it rounds coordinates to 1/32 pixel, and for uint8 the
      weights to 2^-15: equal at such coordinates, to one grey level for uint8.
    - "cubic" under "reflect", "reflect101" and "wrap": OpenCV 5.0 folds once only and is wrong
      farther out than one image; of float64 images it is wrong near the border and outside.
    - "nearest" under "reflect" and "wrap" of coordinates beyond the image, halfway between two
      pixels: OpenCV rounds to even before it folds; ``numpy.rint`` of the maps makes them equal.
    - With tables OpenCV holds positions in 16 bits: they saturate at 32767.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> from pystn import presets
    >>> image = np.array([[0, 100], [200, 50]], np.uint8)
    >>> map_x, map_y = np.array([[0.5, 1.0]], np.float32), np.array([[0.0, 2.0]], np.float32)
    >>> options = presets.opencv("linear", "replicate")
    >>> pystn.grid_sample(image[None, :, :, None], np.stack([map_x, map_y], -1)[None], **options)[0, :, :, 0]
    array([[50, 50]], dtype=uint8)
    """
    if not isinstance(border, bool) and border in TRANSPARENT:
        raise ValueError(
            f"border must be one of {', '.join(map(repr, OPENCV_BORDERS))}, got {border!r}: BORDER_TRANSPARENT "
            "keeps what was in the output before, and a new output holds nothing"
        )
    kernel = named("interpolation", interpolation, OPENCV_INTERPOLATIONS)
    return {
        "mode": kernel,
        "padding_mode": named("border", border, OPENCV_BORDERS),
        "fill_value": value,
        "coords": "pixel",
        "channel_axis": -1,
    }


def named(name: str, value: Any, table: dict[str, tuple[int, Any]]) -> Any:
    """The entry of a name or of its flag."""
    flags = dict(table.values())
    choice(name, value, (*table, *flags))
    return table[value][1] if isinstance(value, str) else flags[int(value)]


@dataclass(frozen=True)
class Preset:
    """Options for samplers, and what a library does to image and coordinates before it samples.

    Parameters
    ----------
    options : dict
        Keyword options of `pystn.grid_sample` for prepared arrays.
    cval : number
        What is read outside the image.
    padded : tuple of (str, str, int) or None
        How the image is padded by 12 samples, the boundary it is filtered under, the spline's order.
    folds : bool
        Whether coordinates are folded into the image with period n - 1.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> from pystn import presets
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows, columns = [0.0, 0.5, 9.0], [0.5, 0.5, 0.0]
    >>> preset = presets.scipy(order=1, mode="nearest")
    >>> pystn.grid_sample(*preset.prepare(image, [rows, columns]), **preset.options)[0, 0]
    array([0.5, 1.5, 2. ])
    """

    options: dict[str, Any]
    cval: Any = 0.0
    padded: tuple[str, str, int] | None = None
    folds: bool = False

    def prepare(self, image: Any, coordinates: Any) -> tuple[Array, Array]:
        """Image and grid for pystn from the arguments of ``scipy.ndimage.map_coordinates``.

        Parameters
        ----------
        image : array_like
            Of one to three axes, all of them spatial.
        coordinates : array_like, shape (ndim, ...)
            Indices of the image, rows first.

        Returns
        -------
        input : ndarray, shape (1, 1, *spatial)
            float64, or complex128; padded and filtered where SciPy does so and no option of pystn can.
        grid : ndarray, shape (1, ..., ndim)
            float64: (x[, y[, z]]) in pixels, x along the last axis of the image.

        Raises
        ------
        TypeError
            If an array lies on a GPU.
        ValueError
            If the shapes do not fit.
        """
        check_host("image", image)
        check_host("coordinates", coordinates)
        values = np.asarray(image)
        values = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64, copy=False)
        index = np.asarray(coordinates, np.float64)
        if not 1 <= values.ndim <= 3 or values.size == 0:
            raise ValueError(f"image must have 1 to 3 axes, none of them empty, got shape {values.shape}")
        if index.ndim < 2 or len(index) != values.ndim:
            raise ValueError(
                f"coordinates must have shape ({values.ndim}, ...), an entry for each axis of the image, "
                f"then at least one axis of points: got {index.shape}"
            )
        if self.folds:
            index = folded(index, values.shape)
        grid = np.ascontiguousarray(np.moveaxis(index[::-1], 0, -1))[None]
        if self.padded is None:
            return values[None, None], grid
        how, boundary, order = self.padded
        if how == "constant":
            wide = np.pad(values, PAD, "constant", constant_values=self.cval)
        else:
            wide = np.pad(values, PAD, "edge")
        return spline_filter(wide[None, None], order, boundary), grid + PAD


def folded(index: Array, size: tuple[int, ...]) -> Array:
    """Coordinates folded into [0, n - 1] with period n - 1, step by step as SciPy does."""
    last = np.array(size, np.float64).reshape(-1, *[1] * (index.ndim - 1)) - 1
    period = np.maximum(last, 1)
    with np.errstate(invalid="ignore"):  # infinity becomes NaN, and both are outside
        below = index + period * (np.trunc(-index / period) + 1)
        above = index - period * np.trunc(index / period)
        inside: Array = np.where(index < 0, below, np.where(index > last, above, index))
        return np.where(last > 0, inside, 0 * index)


def scipy(order: int = 3, mode: str = "constant", cval: complex = 0.0, prefilter: bool = True) -> Preset:
    """Preset for ``scipy.ndimage.map_coordinates``.

    ``pystn.grid_sample(*preset.prepare(image, coordinates), **preset.options)[0, 0]`` is
    ``map_coordinates(image, coordinates, order=order, mode=mode, cval=cval, prefilter=prefilter)``.

    Parameters
    ----------
    order : int, 0 to 5, default 3
    mode : str, default "constant"
        "reflect" or "grid-mirror", "constant", "grid-constant", "nearest", "mirror", "grid-wrap", "wrap".
    cval : number, default 0
        Complex only for complex images.
    prefilter : bool, default True

    Returns
    -------
    Preset

    Raises
    ------
    ValueError
        If an option is unknown.

    Notes
    -----
    Equal to 1e-11 times the largest pixel, in every order and mode. ``options`` alone, without
    `Preset.prepare`, say the same of a grid in pixels but for "wrap", whose coordinates fold with
    period n - 1, and for "nearest" and "grid-constant" with a prefilter, for which the image is padded
    and filtered. Derivatives of samplers are those to the prepared arrays; elsewhere these are the
    image and the coordinates, their axes rearranged. Differences:

    - SciPy's prefilter under "reflect" starts its recursion inexactly: it is off by about z^2n on an
      axis of n pixels, z the largest pole of the spline, 0.27 for order 3 and 0.43 for order 5: 5e-4 for
      order 5 and n = 5, 1e-11 for n = 15.
    - Order 0 under "mirror" half a pixel beyond the last centre, n - 1/2, and at every 2n - 2 pixels
      from there on: SciPy rounds before it reflects, to n - 2, here it is n - 1.
    - The result is float64, or complex128, as is SciPy's arithmetic. SciPy gives it the dtype of the
      image, for integers rounded half away from zero.
    - NaN and infinite coordinates yield `cval`.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> from pystn import presets
    >>> image = np.arange(5.0) ** 2
    >>> preset = presets.scipy(order=3, mode="mirror")
    >>> input, grid = preset.prepare(image, [[1.0, 1.5, -2.0]])
    >>> pystn.grid_sample(input, grid, **preset.options)[0, 0].round(3)
    array([1.   , 2.339, 4.   ])
    >>> presets.scipy(order=1, mode="constant", cval=-1.0).options["cutoff"]
    'center'
    """
    choice("order", order, range(6))
    choice("mode", mode, tuple(SCIPY_PADDINGS))
    if not isinstance(prefilter, (bool, np.bool_)):
        raise ValueError(f"prefilter must be True or False, got {prefilter!r}")
    padded = None
    if prefilter and order > 1 and mode in SCIPY_PADDED:
        padded = (*SCIPY_PADDED[mode], int(order))
    kernel: Interpolation
    if order < 2:
        kernel = Linear() if order else Nearest(ties="up")
    else:
        kernel = BSpline(int(order), prefilter=bool(prefilter) and padded is None)
    options = {"mode": kernel, "padding_mode": SCIPY_PADDINGS[mode], "fill_value": cval, "coords": "pixel"}
    if mode == "constant":
        options["cutoff"] = "center"
    return Preset(options, cval, padded, folds=mode == "wrap")


def skimage(order: int = 1, mode: str = "constant", cval: float = 0.0, homography: bool = False) -> Preset:
    """Preset for ``skimage.transform.warp``.

    With coordinates (rows, columns) for its inverse map, or a function, scikit-image calls SciPy:
    ``pystn.grid_sample(*preset.prepare(image, coordinates), **preset.options)[0, 0]`` is
    ``warp(image, coordinates, order=order, mode=mode, cval=cval, clip=False)``.

    Parameters
    ----------
    order : int, 0 to 5, default 1
        Splines, as SciPy's.
    mode : {"constant", "edge", "symmetric", "reflect", "wrap"}, default "constant"
        As in ``numpy.pad``.
    cval : number, default 0
    homography : bool, default False
        Whether the inverse map is a 3 x 3 matrix or a transform that has one. Order 3 is then Keys'
        cubic convolution with a = -0.5; the other orders are the same. The coordinates to
        `Preset.prepare` are the points that the matrix maps to, rows first.

    Returns
    -------
    Preset

    Raises
    ------
    ValueError
        If an option is unknown.

    Notes
    -----
    Equal to 1e-11 times the largest pixel, but for the prefilter under "symmetric" (SciPy's "reflect",
    see `scipy`) and ties of order 0 under "reflect" (its "mirror"). Differences:

    - ``warp`` clips to the range of the image unless ``clip=False``, which matters from order 2 on.
    - ``warp`` turns integers into floats in [0, 1] or [-1, 1] unless ``preserve_range=True``.
    - An image of several channels is warped channel by channel with a matrix, but its coordinates name
      a row, a column and a channel otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> from pystn import presets
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]])
    >>> preset = presets.skimage(order=1, mode="edge")
    >>> pystn.grid_sample(*preset.prepare(image, [[0.0, 0.5], [0.5, 3.0]]), **preset.options)[0, 0]
    array([0.5, 2. ])
    >>> presets.skimage(order=3, homography=True).options["mode"]
    Cubic(a=-0.5)
    """
    choice("order", order, range(6))
    choice("mode", mode, tuple(SKIMAGE_MODES))
    if not isinstance(homography, (bool, np.bool_)):
        raise ValueError(f"homography must be True or False, got {homography!r}")
    preset = scipy(order, SKIMAGE_MODES[mode], cval)
    if not homography or order != 3:
        return preset
    return Preset({**preset.options, "mode": Cubic(-0.5)}, cval)
