"""Operations on tensors: arguments checked, the direction of autograd or the compiler's operator called."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from pystn import ops
from pystn.calls import Call, bind
from pystn.torch.functions import Forward
from pystn.torch.library import call_operator
from pystn.torch.tensors import check_tensors, traced

__all__ = ["apply"]

operation_of = torch.compiler.assume_constant_result(ops.operation)
IMAGES = ("input", "values")
HALVES = (torch.float16, torch.bfloat16)


@torch.compiler.assume_constant_result
def differentiated() -> bool:
    """Whether what is compiled is inside forward mode, or a transform of torch.func that differentiates."""
    levels = torch._C._functorch.get_interpreter_stack() or []
    pushed = forward_ad._current_level >= 0
    return pushed or any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)


@torch.compiler.disable(
    reason="operators have no derivatives inside torch.func and in forward mode: call it uncompiled"
)
def uncompiled(call: Call, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    outputs: tuple[torch.Tensor, ...] = Forward.apply(call, (), *tensors)
    return outputs


def with_corners(place: int, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An `align_corners` of None, torch's default, as False."""
    if len(args) > place and args[place] is None:
        args = (*args[:place], False, *args[place + 1 :])
    if options.get("align_corners", False) is None:
        options = {**options, "align_corners": False}
    return args, options


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def apply(f: Any, *args: Any, **options: Any) -> Any:
    """Call a function of pystn, or a family's object, on tensors.

    Parameters
    ----------
    f : callable or str
        A differentiable function of pystn, as ``pystn.grid_sample``, its name, or an object of a family of grids, as
        ``pystn.ThinPlateSpline(...)``.
    *args, **options
        As `f` takes them, tensors for arrays.

    Returns
    -------
    Tensor, or tuple of Tensor
        As `f` returns.

    Raises
    ------
    TypeError
        If something else than dense tensors on one device is given for arrays, or a dtype is none of pystn's.
    NotImplementedError
        In derivatives of the third order.

    Examples
    --------
    >>> import pystn
    >>> import torch
    >>> spline = pystn.ThinPlateSpline(pystn.control_points((4, 4)), (28, 28))
    >>> theta = torch.from_numpy(spline.identity()).requires_grad_()
    >>> pystn.torch.apply(spline, theta).shape
    torch.Size([1, 28, 28, 2])
    """
    operation = operation_of(f)
    if "align_corners" in operation.arguments:
        args, options = with_corners(operation.arguments.index("align_corners"), args, options)
    if "deterministic" in operation.options and torch.are_deterministic_algorithms_enabled():
        options.setdefault("deterministic", True)
    call, tensors = bind(operation, args, options, is_tensor)
    check_tensors(dict(zip(call.names, tensors, strict=True)))
    raised = [
        tensor.float() if tensor.dtype in HALVES and name not in IMAGES else tensor
        for name, tensor in zip(call.names, tensors, strict=True)
    ]
    if (torch.compiler.is_compiling() or traced()) and not differentiated():
        outputs = call_operator(f, call, raised)
    else:
        outputs = uncompiled(call, raised)
    return outputs if len(outputs) > 1 else outputs[0]
