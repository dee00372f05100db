"""Operations as custom operators, as ``torch.ops.pystn.grid_sample``, for ``torch.compile`` and ``torch.export``.

An operator takes the tensors of a call, its options as a word (JSON), so that an exported program holds them, and the
size of the output, which may be symbolic. Families of grids share one operator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

import pystn
from pystn import ops
from pystn.antialiasing import AntiAliasing
from pystn.calls import Call, hashable
from pystn.grids.family import Family
from pystn.interpolation import Interpolation
from pystn.torch.functions import Forward, Pull, batched, gradient_specs, placed
from pystn.torch.tensors import run, spec, torch_dtype

__all__ = ["call_operator"]

FAMILY = "family"
RESULT = "Tensor[] tensors, str options, SymInt[]? size"


def plain(value: Any) -> Any:
    """An option as what JSON knows, in Python that dynamo can trace."""
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    # Dynamo has symbols for numbers that change, and these ways of making constants of them.
    if isinstance(value, float):
        return float.fromhex(value.hex())
    if isinstance(value, int) and not isinstance(value, bool):
        return index(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (Interpolation, AntiAliasing)):
        names: tuple[str, ...] = type(value).__match_args__  # of a dataclass, those of its fields
        return {type(value).__name__: {name: plain(getattr(value, name)) for name in names}}
    return value


def plain_family(family: Family) -> Any:
    arguments = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in family.arguments.items()
    }
    return {type(family).__name__: arguments}


def restored(entry: dict[str, Any]) -> Any:
    """Objects again, from an entry of JSON that is a class and its arguments."""
    if len(entry) != 1:
        return entry
    (name, arguments), *_ = entry.items()
    if name == "complex":
        return complex(*arguments)
    kind = getattr(pystn, name, None)
    return kind(**arguments) if isinstance(kind, type) else entry


constant_dumps = torch.compiler.assume_constant_result(json.dumps)


@torch.compiler.assume_constant_result
def written(f: Any) -> tuple[str, Any]:
    """The name of the operator of what `ops.operation` takes, and its source as what JSON knows."""
    operation = ops.operation(f)
    if isinstance(operation.source, Family):
        return FAMILY, plain_family(operation.source)
    return operation.name, operation.name


@lru_cache(maxsize=256)
def call_of(options: str, size: tuple[int, ...] | None) -> Call:
    """The call that was written down."""
    entry = json.loads(options, object_hook=restored)
    given = {name: hashable(value) for name, value in entry["options"].items()}
    if size is not None:
        given["size"] = size
    return Call(ops.operation(entry["source"]), tuple(sorted(given.items())), tuple(entry["given"]))


def symbolic(options: str, size: Any) -> Call:
    """The same where the size may be symbolic, which cannot be looked up."""
    call = call_of(options, None)
    return call if size is None else Call(call.operation, (*call.options, ("size", tuple(size))), call.given)


def static(options: str, size: Any) -> Call:
    return call_of(options, None if size is None else tuple(map(int, size)))


def refuse_tangents(tensors: Sequence[Tensor | None]) -> None:
    """Raise where a tensor has a tangent, which operators would drop in silence."""
    if forward_ad._current_level < 0:
        return
    none = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), none):  # as above autograd
        if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            raise NotImplementedError("what is compiled of pystn has no forward mode: call it uncompiled")


def forward(tensors: list[Tensor], options: str, size: list[int] | None) -> list[Tensor]:
    refuse_tangents(tensors)
    call = static(options, size)
    return list(run(tensors, call.forward, lambda: ()))


def pull(
    cotangents: list[Tensor | None], tensors: list[Tensor], options: str, size: list[int] | None, wanted: list[bool]
) -> list[Tensor]:
    refuse_tangents([*cotangents, *tensors])
    call, n = static(options, size), len(cotangents)
    return list(run([*cotangents, *tensors], lambda a: call.vjp(a[:n], a[n:], wanted), lambda: ()))


def empty(like: Tensor, specs: Sequence[ops.Spec]) -> list[Tensor]:
    return [like.new_empty(shape, dtype=torch_dtype(dtype)) for shape, dtype in specs]


def forward_fake(tensors: list[Tensor], options: str, size: Any) -> list[Tensor]:
    return empty(tensors[0], symbolic(options, size).results([spec(t) for t in tensors]))


def pull_fake(cotangents: Any, tensors: list[Tensor], options: str, size: Any, wanted: list[bool]) -> list[Tensor]:
    return empty(tensors[0], gradient_specs(tensors, wanted))


def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, ctx.options, ctx.size = inputs
    ctx.save_for_backward(*tensors)


def pull_back(pulled: Any, ctx: Any, cotangents: list[Tensor | None]) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)
    wanted = [bool(needed) for needed in ctx.needs_input_grad[0]]
    # A compiler has cotangents of integers, zeros.
    given = [c if c is None or c.is_floating_point() or c.is_complex() else None for c in cotangents]
    gradients = pulled(given, tensors, ctx.options, ctx.size, wanted)
    return placed(gradients, wanted), None, None


def first_order(ctx: Any, *seconds: Any) -> None:
    raise NotImplementedError("what is compiled of pystn has derivatives of the first order: call it uncompiled")


def batched_operator(
    operator: Any, pulls: bool, info: Any, in_dims: Any, *arguments: Any
) -> tuple[list[Tensor], list[int]]:
    """The rule of vmap: the operator on tensors that hold the whole batch."""
    *lists, options, size = arguments[: 4 if pulls else 3]
    wanted = arguments[4:]
    call = symbolic(options, size)
    direction = Pull if pulls else Forward
    tensors = [tensor for entries in lists for tensor in entries]
    dims = [dim for entries in in_dims[: len(lists)] for dim in entries]

    def apply(changed: Call, folded: list[Any]) -> Any:
        count = len(lists[0]) if pulls else 0
        parts = [folded[:count], folded[count:]] if pulls else [folded]
        return operator(*parts, options, dict(changed.options).get("size"), *wanted)

    targets = direction.targets(call, *(wanted or ((),)))
    results = batched(apply, call, info.batch_size, dims, tensors, direction.roles(call), targets)
    return results, [0] * len(results)


def define(name: str) -> Callable[..., Any]:
    """Register an operator and its derivative."""
    operator = torch.library.custom_op(f"pystn::{name}", forward, mutates_args=(), schema=f"({RESULT}) -> Tensor[]")
    pulled = torch.library.custom_op(
        f"pystn::{name}_vjp",
        pull,
        mutates_args=(),
        schema=f"(Tensor?[] cotangents, {RESULT}, bool[] wanted) -> Tensor[]",
    )
    operator.register_fake(forward_fake)
    pulled.register_fake(pull_fake)
    operator.register_vmap(partial(batched_operator, operator, False))
    pulled.register_vmap(partial(batched_operator, pulled, True))
    operator.register_autograd(partial(pull_back, pulled), setup_context=keep)
    pulled.register_autograd(first_order)
    return operator


OPERATORS = {name: define(name) for name in (*ops.OPERATIONS, FAMILY)}


def call_operator(f: Any, call: Call, tensors: list[Tensor]) -> list[Tensor]:
    """The outputs of a call of `f`, by the operator. Dynamo knows the operation less well than what it is made from."""
    options = {name: plain(value) for name, value in call.options if name != "size"}
    size = dict(call.options).get("size")
    name, source = written(f)
    word = constant_dumps({"source": source, "options": options, "given": call.given})
    outputs: list[Tensor] = OPERATORS[name](tensors, word, size)
    return outputs
