"""What is done ahead of the first call on a device."""

from __future__ import annotations

from typing import Any

from pystn.grids.affine import affine_grid, affine_grid_vjp
from pystn.options import Mode, PaddingMode, one_of
from pystn.sampling import grid_sample, grid_sample_jvp, grid_sample_vjp, grid_sample_vjp2
from pystn.validation import mask_dtype, tangent_dtype
from pystn.warping import warp_affine, warp_affine_jvp, warp_affine_vjp, warp_affine_vjp2

__all__ = ["warmup"]


def warmup(
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    *,
    ndim: int = 2,
    dtype: Any = "float32",
    coordinates: Any = "float32",
    derivatives: bool = True,
    **options: Any,
) -> None:
    """Compile the CUDA kernels of `grid_sample`, `warp_affine` and `affine_grid` now, not at their first call.

    A kernel is compiled when it is first needed, which takes a second or so, and kept on disk by CuPy for later
    processes. This calls the functions and their derivatives, on arrays of a few pixels on the current device:
    some twenty kernels, three at most without derivatives.

    Parameters
    ----------
    mode, padding_mode
        As they will be given to `grid_sample`.
    ndim : {1, 2, 3}, default 2
        Number of spatial axes.
    dtype : dtype, default float32
        Of the images.
    coordinates : dtype, default float32
        Of the grids and matrices: float32 or float64.
    derivatives : bool, default True
        Whether to compile the kernels of VJP and JVP too, and those of second order.
    **options
        Other options of `grid_sample`, as they will be given to it: ``deterministic=True, return_mask=True``. Of
        `fill_value` only matters whether it is 0; any number will do.

    Raises
    ------
    ImportError
        If CuPy is not installed; it names the extra that installs it.
    RuntimeError
        If CuPy finds no device, or no driver.
    TypeError, ValueError
        As `grid_sample`.

    See Also
    --------
    show_config

    Notes
    -----
    Afterwards these compile no more kernels, whatever the sizes of arrays are, and their numbers of channels: the
    three functions and their `_jvp`, `_vjp` and `_vjp2`, those of `grid_sample` and `warp_affine` with the gradients
    to one or both of their arrays. Nor do they with another `coords`, `channel_axis` or `align_corners` (but for
    "reflection", which stands for another boundary then), with another `fill_value` if neither is 0, or with another
    parameter of a kernel that is as wide, as ``Cubic.a``.

    More is compiled for other values of all else, `antialias` at other sizes included; for gradients to the fill
    value and to a kernel's parameters; for grids, cotangents and `out` whose axes do not follow each other in memory,
    as those of a crop; for more than one matrix for each image; for arrays of 2**30 numbers or so and more; and by
    all other functions.

    Examples
    --------
    >>> import pystn
    >>> pystn.warmup("cubic", ndim=3)  # doctest: +SKIP
    >>> pystn.warmup("linear", "border", dtype="float16", deterministic=True)  # doctest: +SKIP
    """
    one_of("ndim", ndim, (1, 2, 3))
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "warmup compiles CUDA kernels, and CuPy is not installed: pip install pystn[cuda13], or pystn[cuda12]"
        ) from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # of a driver that is too old, where there is none
        raise RuntimeError(
            f"warmup compiles CUDA kernels, and CuPy finds no device for them, or no driver: {error}"
        ) from error
    options = {"mode": mode, "padding_mode": padding_mode, **options}
    # Gradients of samples that fill a tile have kernels of their own, as second derivatives of four matrices and more.
    for batch, size in ((4, (4,) * ndim), (1, (1,) * ndim)):
        channels_last = options.get("channel_axis") == -1
        image = cupy.zeros((batch, *size, 1) if channels_last else (batch, 1, *size), dtype)
        grid = cupy.zeros((batch, *size, ndim), coordinates)
        theta = cupy.zeros((batch, ndim, ndim + 1), coordinates)
        grid_sample(image, grid, **options)
        warp_affine(image, theta, size, **options)
        affine_grid(theta, size)
        if not derivatives:
            return
        tangent = cotangent = cupy.zeros(image.shape, tangent_dtype(image.dtype))
        if options.get("return_mask"):
            cotangent = tangent, cupy.zeros((batch, *size), mask_dtype(image.dtype))
        for wrt in (("input", "grid"), "input", "grid"):
            grid_sample_vjp(cotangent, image, grid, wrt=wrt, **options)
        for wrt in (("input", "theta"), "input", "theta", "theta"):  # a call done again has a kernel for its sums
            warp_affine_vjp(cotangent, image, theta, size, wrt=wrt, **options)
        affine_grid_vjp(grid, theta, size)
        grid_sample_jvp(image, grid, tangent, grid, **options)
        warp_affine_jvp(image, theta, tangent, theta, size, **options)
        grid_sample_vjp2(tangent, grid, cotangent, image, grid, **options)
        warp_affine_vjp2(tangent, theta, cotangent, image, theta, size, **options)
