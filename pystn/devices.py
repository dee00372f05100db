"""What is done ahead of the first call on a device."""

from __future__ import annotations

from typing import Any

from pystn.options import Mode, PaddingMode, one_of
from pystn.sampling import grid_sample, grid_sample_jvp, grid_sample_vjp
from pystn.warping import warp_affine, warp_affine_jvp, warp_affine_vjp

__all__ = ["warmup"]


def warmup(
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    *,
    ndim: int = 2,
    dtype: Any = "float32",
    coordinates: Any = "float32",
    derivatives: bool = True,
) -> None:
    """Compile the CUDA kernels of `grid_sample` and `warp_affine` now, not at their first call.

    A kernel is compiled when it is first needed, which takes a second or so, and kept on disk by CuPy for later
    processes. This runs both functions, and their derivatives, on arrays of a few pixels on the current device.

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
        Whether to compile the kernels of VJP and JVP too.

    Raises
    ------
    ImportError
        If CuPy is not installed; it names the extra that installs it.
    RuntimeError
        From CuPy, if there is no device.

    See Also
    --------
    show_config

    Examples
    --------
    >>> import pystn
    >>> pystn.warmup("cubic", ndim=3)  # doctest: +SKIP
    """
    one_of("ndim", ndim, (1, 2, 3))
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "warmup compiles CUDA kernels, and CuPy is not installed: pip install pystn[cuda13], or pystn[cuda12]"
        ) from error
    options: dict[str, Any] = {"mode": mode, "padding_mode": padding_mode}
    # Gradients of samples that fill a tile have kernels of their own.
    for size in ((4,) * ndim, (1,) * ndim) if derivatives else ((4,) * ndim,):
        image, grid = cupy.zeros((1, 1, *size), dtype), cupy.zeros((1, *size, ndim), coordinates)
        theta = cupy.zeros((1, ndim, ndim + 1), coordinates)
        samples = grid_sample(image, grid, **options)
        warped = warp_affine(image, theta, size, **options)
        if not derivatives:
            return
        if image.dtype.kind not in "fcV":  # gradients and tangents of integer images are float32
            samples, warped, tangent = (array.astype("float32") for array in (samples, warped, image))
        else:
            tangent = image
        grid_sample_vjp(samples, image, grid, **options)
        warp_affine_vjp(warped, image, theta, size, **options)
        grid_sample_jvp(image, grid, tangent, grid, **options)
        warp_affine_jvp(image, theta, tangent, theta, size, **options)
