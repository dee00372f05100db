"""pystn on torch tensors, with autograd: every operation, in every direction, to the second order.

A function here takes tensors where the function of pystn of the same name takes arrays, and the same options. Tensors
and arrays share their memory, on the CPU and, through CuPy, on CUDA devices. Derivatives are pystn's own, in reverse
and in forward mode, for ``backward``, ``torch.autograd``, ``torch.func`` and ``torch.compile``.

>>> import torch
>>> import pystn.torch as stn
>>> image = torch.rand(1, 3, 8, 8)
>>> theta = torch.eye(2, 3)[None].requires_grad_()
>>> stn.warp_affine(image, theta, (8, 8)).sum().backward()
>>> theta.grad.shape
torch.Size([1, 2, 3])

`grid_sample` and `affine_grid` take the place of those of ``torch.nn.functional``, with their arguments and defaults.

The systems, as `SpatialTransformer`, are modules, and so may be their networks, several in a ``torch.nn.ModuleList``
too, and transforms that are functions.

Options that have derivatives may be tensors: `fill_value`, and `kernel`, the parameters of the mode's interpolation
kernel; for `apply` of a family's object also what it is made from, as `points`.

Tensors of half precision that are no images, as the matrices that a network makes under ``torch.autocast``, are raised
to float32: coordinates need it. Images keep their dtype.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError('pystn.torch needs PyTorch: pip install "pystn[torch]"') from error

from pystn.calls import functions_of
from pystn.ops import OPERATIONS
from pystn.systems.adapted import SYSTEMS
from pystn.torch import modules
from pystn.torch.modules import initialize_identity_, initialize_params_
from pystn.torch.operations import apply

__all__ = ["apply", "initialize_identity_", "initialize_params_", *SYSTEMS, *OPERATIONS]

globals().update(functions_of(apply, "tensors"), **{name: getattr(modules, name) for name in SYSTEMS})
