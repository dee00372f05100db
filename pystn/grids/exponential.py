"""The exponential of small matrices and its derivatives, in float64."""

from __future__ import annotations

from typing import Any

from pystn.typing import Array

__all__ = ["expm", "expm_jvp", "expm_vjp"]

DEGREE = 15  # 0.5^16 / 16! < 1e-18


def expm(xp: Any, x: Array) -> Any:
    """The exponentials of matrices (..., n, n): Taylor's series of x / 2^s, squared s times."""
    scaled, squarings = scaling(xp, x)
    one = xp.eye(x.shape[-1])
    y = xp.broadcast_to(one, x.shape)
    for k in range(DEGREE, 0, -1):
        y = one + scaled @ y / k
    for k in range(int(squarings.max()) if squarings.size else 0):
        y = xp.where(squarings > k, y @ y, y)
    return y


def expm_jvp(xp: Any, x: Array, dx: Array) -> Any:
    """Their change with x, by the same steps."""
    scaled, squarings = scaling(xp, x)
    one = xp.eye(x.shape[-1])
    y, dy = xp.broadcast_to(one, x.shape), xp.zeros_like(x)
    d_scaled = xp.ldexp(dx, -squarings)
    for k in range(DEGREE, 0, -1):
        y, dy = one + scaled @ y / k, (d_scaled @ y + scaled @ dy) / k
    for k in range(int(squarings.max()) if squarings.size else 0):
        y, dy = xp.where(squarings > k, y @ y, y), xp.where(squarings > k, dy @ y + y @ dy, dy)
    return dy


def expm_vjp(xp: Any, grad: Array, x: Array) -> Any:
    """The gradient to x: the derivative of a power series is its own adjoint at the transpose."""
    return expm_jvp(xp, xp.swapaxes(x, -1, -2), grad)


def scaling(xp: Any, x: Array) -> tuple[Array, Array]:
    """x / 2^s, of norm 1/2 or less, and s (..., 1, 1); s is 0 where x is not finite."""
    norm = abs(x).sum(axis=-1, keepdims=True).max(axis=-2, keepdims=True)
    _, exponent = xp.frexp(xp.where(xp.isfinite(norm), norm, 0.0))
    squarings = xp.maximum(exponent + 1, 0)
    return xp.ldexp(x, -squarings), squarings
