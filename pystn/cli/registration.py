"""Affine registration of two pictures by descent on explicit derivatives, coarse to fine.

The loss is a robust distance between the fixed picture and the moving one, sampled through an
affine grid. No autodiff: the vector-Jacobian products of the sampler and of the grid generator are
chained by hand. The step is that of Levenberg and Marquardt: the same product, with a cotangent of
ones, gives the slope of every sample, hence the normal matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import pystn

__all__ = ["Warped", "pyramid", "register"]

Array = np.ndarray[Any, Any]

IDENTITY = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
TONE = np.array([1.0, 0.0])  # gain and bias
LEAST_OVERLAP = 0.2  # of the fixed picture, below which a transform is no answer
COARSEST = 24  # pixels of the shorter side at which the search starts
START_ANGLES = (-24, -16, -8, 0, 8, 16, 24)  # degrees
ITERATIONS = 40  # at most, a level
SETTLED = 1e-6  # a step below this, in half widths of the picture, ends a level


def pyramid(picture: Array) -> list[Array]:
    """The picture and its halvings by averages of 2 x 2, coarsest first."""
    levels = [picture]
    while min(levels[-1].shape) >= 2 * COARSEST:
        p = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2]
        levels.append((p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]) / 4)
    return levels[::-1]


class Warped:
    """The moving picture under a transform and a gain and bias of its greys, against the fixed one."""

    def __init__(self, fixed: Array, moving: Array, theta: Array, tone: Array = TONE) -> None:
        self.theta, self.tone = theta, tone
        self.moving = moving[None, None]
        self.grid = pystn.affine_grid(theta, fixed.shape).astype(fixed.dtype)
        self.value = pystn.grid_sample(self.moving, self.grid, padding_mode="border")
        edge = 1 - 1 / np.array(moving.shape[::-1])
        self.inside = (np.abs(self.grid) <= edge).all(axis=-1)[:, None]
        difference = tone[0] * self.value + tone[1] - fixed
        self.difference = np.where(self.inside, difference, 0).astype(fixed.dtype)

    def scale(self) -> float:
        """A robust standard deviation of the differences."""
        seen = np.abs(self.difference[self.inside])
        return max(1.4826 * float(np.median(seen)), 0.01) if seen.size else 1.0

    def loss(self, scale: float) -> float:
        """Mean of Geman and McClure's rho, r^2 / (1 + r^2): blind to what does not fit at all."""
        if self.inside.mean() < LEAST_OVERLAP:
            return 1.0
        squared = (self.difference[self.inside] / scale) ** 2
        return float((squared / (1 + squared)).mean())

    def grad_grid(self, cotangent: Array) -> Array:
        """Pull a cotangent of the samples back to the grid, in float64."""
        primals = (cotangent.astype(self.value.dtype), self.moving, self.grid)
        gradient = pystn.grid_sample_vjp(*primals, padding_mode="border", wrt="grid")[1]
        return np.asarray(gradient, np.float64)

    def normal_equations(self, scale: float) -> tuple[Array, Array]:
        """Gradient of the loss and the Gauss-Newton matrix, to theta and tone, up to one factor."""
        weight = self.inside / (1 + (self.difference / scale) ** 2) ** 2
        pull = weight * self.difference
        size = self.grid.shape[1:3]
        (grad_theta,) = pystn.affine_grid_vjp(self.grad_grid(self.tone[0] * pull), self.theta, size)
        gradient = np.concatenate([grad_theta.ravel(), [(pull * self.value).sum(), pull.sum()]])

        ones = np.ones_like(self.value)
        slope = self.tone[0] * self.grad_grid(ones).reshape(-1, 2)
        lattice = pystn.affine_grid(IDENTITY, size).reshape(-1, 2)
        target = np.column_stack([lattice, np.ones(len(lattice))])
        jacobian = np.column_stack([slope[:, :1] * target, slope[:, 1:] * target, self.value.ravel(), ones.ravel()])
        return gradient, (jacobian * weight.reshape(-1, 1)).T @ jacobian


def descend(fixed: Array, moving: Array, start: Warped | Array, step: Callable[[float], None]) -> Warped:
    """Levenberg-Marquardt on one level of the pyramid, from a theta or from where another ended."""
    now = Warped(fixed, moving, *((start.theta, start.tone) if isinstance(start, Warped) else (start,)))
    damping = 1e-2
    for _ in range(ITERATIONS):
        scale = now.scale()
        loss = now.loss(scale)
        gradient, matrix = now.normal_equations(scale)
        damped = matrix + np.diag(damping * np.diag(matrix) + 1e-9 * (1 + np.trace(matrix)))
        change = np.linalg.solve(damped, gradient)
        theta, tone = now.theta - change[:6].reshape(1, 2, 3), now.tone - change[6:]
        proposal = Warped(fixed, moving, theta, tone)
        step(loss)
        if proposal.loss(scale) < loss:
            now = proposal
            damping = max(damping / 5, 1e-6)
            if np.abs(change).max() < SETTLED:
                break
        else:
            damping *= 8
            if damping > 1e4:
                break
    return now


def rotation(degrees: float, shape: tuple[int, ...]) -> Array:
    """A turn about the centre in normalized coordinates, which stretch with the picture."""
    angle = np.radians(degrees)
    aspect = shape[1] / shape[0]
    turn = [[np.cos(angle), -np.sin(angle) / aspect, 0.0], [np.sin(angle) * aspect, np.cos(angle), 0.0]]
    return np.array([turn])


def register(fixed: Array, moving: Array, step: Callable[[float], None] = lambda loss: None) -> Array:
    """The affine matrix (2, 3) that takes points of `fixed` to points of `moving`.

    Both (H, W), float32; coordinates are normalized, -1 and 1 the outer edges. `step` is called
    with the loss once an iteration.
    """
    mean, deviation = fixed.mean(), fixed.std() + 1e-6
    fixed, moving = ((picture - mean) / deviation for picture in (fixed, moving))
    # Pictures of different sizes have pyramids of different heights: pair them from the fine end.
    levels = list(zip(pyramid(fixed)[::-1], pyramid(moving)[::-1], strict=False))[::-1]
    starts = [descend(*levels[0], rotation(angle, fixed.shape), step) for angle in START_ANGLES]
    scale = min(start.scale() for start in starts)
    best = min(starts, key=lambda start: start.loss(scale))
    for level in levels[1:]:
        best = descend(*level, best, step)
    theta: Array = best.theta[0]
    return theta
