"""Operations on tensors: arguments checked, the direction of autograd or the compiler's operator called."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from pystn import ops
from pystn.calls import Call, bind
from pystn.torch.functions import evaluate
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
    return evaluate(call, tensors)


def with_corners(place: int, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An `align_corners` of None, torch's default, as False."""
    if len(args) > place and args[place] is None:
        args = (*args[:place], False, *args[place + 1 :])
    if options.get("align_corners", False) is None:
        options = {**options, "align_corners": False}
    return args, options


def lies_last(call: Call, image: torch.Tensor) -> bool:
    """Whether the channels of the call's image are its second axis but last in memory, as in torch.channels_last."""
    if image.is_contiguous() or call.names[0] not in IMAGES or "channel_axis" not in call.operation.options:
        return False
    axis = dict(call.options).get("channel_axis", 1)
    return bool(axis == 1 and image.ndim > 2 and image.shape[1] > 1 and image.movedim(1, -1).is_contiguous())


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
    check_tensors(dict(zip(call.names, tensors, strict=True)), (*operation.data, "mask"))
    raised = [
        tensor.float() if tensor.dtype in HALVES and name not in IMAGES else tensor
        for name, tensor in zip(call.names, tensors, strict=True)
    ]
    last = lies_last(call, raised[0])
    if last:  # what pystn reads in the order of memory, if it is told
        raised[0] = raised[0].movedim(1, -1)
        call = call.replace(channel_axis=-1)
    if torch.compiler.is_compiling() or traced():
        outputs = uncompiled(call, raised) if differentiated() else tuple(call_operator(f, call, raised))
    else:
        outputs = evaluate(call, raised)
    if last:
        channels = -2 if operation.name == "grid_gradient" else -1
        outputs = (outputs[0].movedim(channels, 1), *outputs[1:])
    return outputs if len(outputs) > 1 else outputs[0]
