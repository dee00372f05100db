"""The four directions of a call as `torch.autograd.Function`: forward, VJP, JVP, and the VJP of the VJP.

Each is the derivative of another, so that reverse mode, forward mode and what is made of both, to the second order, are
calls of pystn: the tangent of the VJP V(g, x) is V(dg, x) + V2(dx; g, x), V2 being the VJP of V to x, as Hessians are
symmetric, and that of the JVP pulls back to V and V2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from pystn.calls import OUTPUT, Call
from pystn.ops import Spec
from pystn.torch.tensors import run, spec
from pystn.validation import tangent_dtype

__all__ = ["Forward", "Pull", "batched", "evaluate", "gradient_specs", "placed"]


THIRD_ORDER = "pystn has derivatives to the second order: this one is of the third, or the tangent of a tangent"


def gradient_specs(tensors: Sequence[Any], wanted: Sequence[bool]) -> list[Spec]:
    specs = [spec(tensor) for tensor, is_wanted in zip(tensors, wanted, strict=True) if is_wanted]
    return [Spec(shape, tangent_dtype(dtype)) for shape, dtype in specs]


def placed(values: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    """The values, in order, where they are wanted; None elsewhere."""
    rest = iter(values)
    return [next(rest) if is_wanted else None for is_wanted in wanted]


def added(first: Sequence[Any] | None, second: Sequence[Any] | None) -> tuple[Any, ...]:
    if first is None or second is None:
        return tuple(first or second or ())
    return tuple(a + b for a, b in zip(first, second, strict=True))


def watched() -> bool:
    """Whether what a backward pass does may be differentiated, batched or written down in its turn."""
    return (
        torch.is_grad_enabled()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


class Direction(Function):
    """What they share. All take the call, which results are wanted, and tensors, of which some may be None."""

    @staticmethod
    def roles(call: Call) -> list[int]:
        raise NotImplementedError

    @staticmethod
    def targets(call: Call, wanted: tuple[bool, ...]) -> list[int]:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise NotImplementedError(THIRD_ORDER)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        raise NotImplementedError(THIRD_ORDER)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, ctx.wanted, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.smooth = [t.is_floating_point() or t.is_complex() for t in output]
        ctx.mark_non_differentiable(*[t for t, smooth in zip(output, ctx.smooth, strict=True) if not smooth])

    @classmethod
    def batched(cls, info: Any, in_dims: tuple[Any, ...], call: Call, wanted: Any, *tensors: Any) -> tuple[Any, Any]:
        results = batched(
            lambda changed, folded: cls.apply(changed, wanted, *folded),
            call,
            info.batch_size,
            in_dims[2:],
            tensors,
            cls.roles(call),
            cls.targets(call, wanted),
        )
        return tuple(results), (0,) * len(results)


def batched(
    apply: Callable[[Call, list[Any]], Sequence[Tensor]],
    call: Call,
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Any],
    roles: Sequence[int],
    targets: Sequence[int],
) -> list[Tensor]:
    """The rule of torch.vmap: one call where it can be one, else one after another. Results have the batch in front."""
    present = [k for k, tensor in enumerate(tensors) if tensor is not None]
    given_dims, given_roles = [dims[k] for k in present], [roles[k] for k in present]
    if call.folds(given_dims, given_roles, targets):
        changed, folded, unfold = call.fold(
            torch, size, [tensors[k] for k in present], given_dims, given_roles, targets
        )
        return unfold(apply(changed, placed(folded, [tensor is not None for tensor in tensors])))
    each = [
        apply(call, [t if d is None else t.select(d, i) for t, d in zip(tensors, dims, strict=True)])
        for i in range(size)
    ]
    return [torch.stack(entries) for entries in zip(*each, strict=True)]


class Forward(Direction):
    """Outputs of a call, from its arrays."""

    @staticmethod
    def roles(call: Call) -> list[int]:
        return list(range(len(call.names)))

    @staticmethod
    def targets(call: Call, wanted: tuple[bool, ...]) -> list[int]:
        return [OUTPUT] * call.outputs

    @staticmethod
    def forward(call: Call, wanted: tuple[bool, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        return run(tensors, call.forward, lambda: call.results([spec(t) for t in tensors]))

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        wanted = tuple(ctx.needs_input_grad[2:])
        if not any(wanted) or all(c is None for c in cotangents):
            return (None,) * len(ctx.needs_input_grad)
        pull = Pull.apply if watched() else pulled
        gradients = pull(ctx.call, wanted, *cotangents, *ctx.saved_tensors)
        return (None, None, *placed(gradients, wanted))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
        if not any(ctx.smooth):
            return (None,) * len(ctx.smooth)
        pushed = Push.apply(ctx.call, (), *ctx.saved_tensors, *tangents[2:])
        return tuple(tangent if smooth else None for tangent, smooth in zip(pushed, ctx.smooth, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return Forward.batched(info, in_dims, *arguments)


def pulled(call: Call, wanted: tuple[bool, ...], *tensors: Any) -> tuple[Tensor, ...]:
    """What `Pull` computes."""
    n = call.outputs
    return run(tensors, lambda a: call.vjp(a[:n], a[n:], wanted), lambda: gradient_specs(tensors[n:], wanted))


class Pull(Direction):
    """Gradients to those arrays that are wanted, from cotangents of the outputs and the arrays."""

    @staticmethod
    def roles(call: Call) -> list[int]:
        return [*[OUTPUT] * call.outputs, *range(len(call.names))]

    @staticmethod
    def targets(call: Call, wanted: tuple[bool, ...]) -> list[int]:
        return [k for k, is_wanted in enumerate(wanted) if is_wanted]

    forward = staticmethod(pulled)

    @staticmethod
    def backward(ctx: Any, *seconds: Any) -> tuple[Any, ...]:
        wanted = tuple(ctx.needs_input_grad[2:])
        if not any(wanted) or all(s is None for s in seconds):
            return (None,) * len(ctx.needs_input_grad)
        results = PullTwice.apply(ctx.call, wanted, *placed(seconds, ctx.wanted), *ctx.saved_tensors)
        return (None, None, *placed(results, wanted))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
        call, wanted, n = ctx.call, ctx.wanted, ctx.call.outputs
        of_cotangents, of_arrays = tangents[2 : 2 + n], tangents[2 + n :]
        linear = curved = None
        if any(t is not None for t in of_cotangents):
            linear = Pull.apply(call, wanted, *of_cotangents, *ctx.saved_tensors[n:])
        if any(t is not None for t in of_arrays):
            curved = PullTwice.apply(call, (False,) * n + wanted, *of_arrays, *ctx.saved_tensors)
        return added(linear, curved)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return Pull.batched(info, in_dims, *arguments)


class Push(Direction):
    """Tangents of the outputs, from the arrays and their tangents."""

    @staticmethod
    def roles(call: Call) -> list[int]:
        return [*range(len(call.names))] * 2

    @staticmethod
    def targets(call: Call, wanted: tuple[bool, ...]) -> list[int]:
        return [OUTPUT] * call.outputs

    @staticmethod
    def forward(call: Call, wanted: tuple[bool, ...], *tensors: Any) -> tuple[Tensor, ...]:
        n = len(call.names)
        return run(tensors, lambda a: call.jvp(a[:n], a[n:]), lambda: call.tangents([spec(t) for t in tensors[:n]]))

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        call, n = ctx.call, len(ctx.call.names)
        needed = tuple(ctx.needs_input_grad[2:])
        arrays, tangents = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        results: list[Any] = [None] * (2 * n)
        if any(c is not None for c in cotangents):
            if any(needed[:n]):
                wanted = (False,) * call.outputs + needed[:n]
                results[:n] = placed(PullTwice.apply(call, wanted, *tangents, *cotangents, *arrays), needed[:n])
            if any(needed[n:]):
                results[n:] = placed(Pull.apply(call, needed[n:], *cotangents, *arrays), needed[n:])
        return (None, None, *results)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return Push.batched(info, in_dims, *arguments)


class PullTwice(Direction):
    """The VJP of `Pull`: from cotangents of its gradients, its cotangents and arrays, to those that are wanted."""

    @staticmethod
    def roles(call: Call) -> list[int]:
        arrays = range(len(call.names))
        return [*arrays, *[OUTPUT] * call.outputs, *arrays]

    @staticmethod
    def targets(call: Call, wanted: tuple[bool, ...]) -> list[int]:
        roles = PullTwice.roles(call)[len(call.names) :]
        return [role for role, is_wanted in zip(roles, wanted, strict=True) if is_wanted]

    @staticmethod
    def forward(call: Call, wanted: tuple[bool, ...], *tensors: Any) -> tuple[Tensor, ...]:
        n, m = len(call.names), len(call.names) + call.outputs
        return run(
            tensors,
            lambda a: call.vjp2(a[:n], a[n:m], a[m:], wanted),
            lambda: gradient_specs(tensors[n:], wanted),
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return PullTwice.batched(info, in_dims, *arguments)


class Untransformed(Forward):
    """`Forward` outside of torch.func, without what that asks for: it takes longer than a small warp."""

    setup_context = staticmethod(Function.setup_context)  # as if there were none
    backward = staticmethod(Forward.backward)

    @staticmethod
    def forward(ctx: Any, call: Call, wanted: tuple[bool, ...], *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        outputs = run(tensors, call.forward, lambda: call.results([spec(t) for t in tensors]))
        Forward.setup_context(ctx, (call, wanted, *tensors), outputs)
        return outputs


for direction in (Forward, Pull, Push, PullTwice):
    for name in ("forward", "backward", "jvp", "vmap"):
        if name in vars(direction):
            # Where what is compiled differentiates, these are called.
            setattr(direction, name, staticmethod(torch.compiler.disable(getattr(direction, name))))


def evaluate(call: Call, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of a call, with derivatives."""
    direction = Forward if torch._C._are_functorch_transforms_active() else Untransformed
    outputs: tuple[Tensor, ...] = direction.apply(call, (), *tensors)
    return outputs
