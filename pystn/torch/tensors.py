"""Tensors as the arrays that pystn works on, and back, in the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pystn.ops import Spec

__all__ = ["check_tensors", "run", "spec", "to_array", "to_tensor", "traced"]

TO_NUMPY = {
    dtype: np.dtype(str(dtype).removeprefix("torch."))
    for dtype in (
        torch.float16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
        torch.uint8,
        torch.int16,
        torch.uint16,
    )
}
# Of what is no image, as labels and masks.
OTHERS = {dtype: np.dtype(str(dtype).removeprefix("torch.")) for dtype in (torch.bool, torch.int32, torch.int64)}
TO_TORCH = {dtype.name: tensor_dtype for tensor_dtype, dtype in TO_NUMPY.items()}


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    if dtype == torch.bfloat16:
        found: np.dtype[Any] = np.dtype(extra("ml_dtypes", "torch").bfloat16)
        return found
    if dtype in OTHERS:
        return OTHERS[dtype]
    if dtype not in TO_NUMPY:
        expected = ", ".join(str(known) for known in (torch.bfloat16, *TO_NUMPY))
        raise TypeError(f"expected tensors of {expected}: got {dtype}")
    return TO_NUMPY[dtype]


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.bfloat16 if dtype.name == "bfloat16" else TO_TORCH[dtype.name]


def spec(tensor: Any) -> Spec:
    """Shape, symbolic lengths among it, and dtype as NumPy's."""
    return Spec(tuple(tensor.shape), numpy_dtype(tensor.dtype))


def extra(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is needed for such tensors: pip install "pystn[{name}]"') from error


def check_tensors(tensors: dict[str, Any], others: Sequence[str] = ()) -> None:
    """Raise unless all are tensors that can be worked on, on one device; those named `others` may be no image's."""
    (first, *_) = tensors
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            kind = type(tensor)
            raise TypeError(
                f"{name} must be a torch.Tensor, got {kind.__module__}.{kind.__qualname__}: pass "
                f"torch.as_tensor({name}), or arrays alone to the function of pystn itself"
            )
        if tensor.dtype in OTHERS and name not in others:
            expected = ", ".join(str(known) for known in (torch.bfloat16, *TO_NUMPY))
            raise TypeError(f"{name} must be one of {expected}: got {tensor.dtype}")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}, dtype {tensor.dtype}")
        if tensor.device.type not in ("cpu", "cuda", "meta"):
            raise TypeError(f"{name} must be on the CPU or a CUDA device, got one on {tensor.device}")
        if tensor.device != tensors[first].device:
            devices = f"{first} is on {tensors[first].device} and {name} on {tensor.device}"
            raise TypeError(f"{devices}: expected all tensors on one device")


def to_array(tensor: Tensor) -> Any:
    """A NumPy or CuPy array in the memory of a tensor."""
    dtype = numpy_dtype(tensor.dtype)
    try:
        tensor = tensor.detach()
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
    except RuntimeError as error:
        if not torch._C._functorch.is_legacy_batchedtensor(tensor):
            raise
        raise NotImplementedError(
            "pystn has no batching rule for is_grads_batched and vectorize=True: use torch.func.jacrev, jacfwd or vmap"
        ) from error
    narrow = tensor.dtype == torch.bfloat16  # which neither DLPack nor NumPy knows
    if narrow:
        tensor = tensor.view(torch.int16)
    array = extra("cupy", "cuda13").from_dlpack(tensor) if tensor.is_cuda else tensor.numpy()
    return array.view(dtype) if narrow else array


def to_tensor(array: Any) -> Tensor:
    """A tensor in the memory of a NumPy or CuPy array, or of a NumPy scalar."""
    array = np.asarray(array) if isinstance(array, np.generic) else array
    narrow = array.dtype.kind == "V"  # bfloat16
    if narrow:
        array = array.view(np.int16)
    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else from_dlpack(array)
    return tensor.view(torch.bfloat16) if narrow else tensor


@contextmanager
def device_of(tensor: Tensor) -> Iterator[None]:
    """CuPy on the tensor's CUDA device and torch's stream there, with memory of torch's allocator."""
    cupy = extra("cupy", "cuda13")
    index = tensor.device.index
    stream = torch.cuda.current_stream(tensor.device)

    # One allocator for all: what it is given back is not taken by another stream while this one works on it.
    def allocate(size: int) -> Any:
        pointer = torch.cuda.caching_allocator_alloc(size, index, stream) if size else 0
        owner = Block(pointer)
        memory = cupy.cuda.UnownedMemory(pointer, size, owner, index)
        return cupy.cuda.MemoryPointer(memory, 0)

    with (
        cupy.cuda.Device(index),
        cupy.cuda.Stream.from_external(Stream(stream)),
        cupy.cuda.using_allocator(allocate),
    ):
        yield


class Stream:
    """A stream of torch's in the protocol of CUDA streams, which its own speak since 2.10."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream.cuda_stream


class Block:
    """Memory of torch's, freed with the object."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __del__(self) -> None:
        if self.pointer:
            torch.cuda.caching_allocator_delete(self.pointer)


def traced() -> bool:
    """Whether calls are written down or imagined, by make_fx or with fake tensors: their values are none to work on."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    modes = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(mode) is not None for mode in (modes.PROXY, modes.FAKE))


def run(
    tensors: Sequence[Tensor | None], compute: Callable[[list[Any]], Sequence[Any]], specs: Callable[[], Sequence[Spec]]
) -> tuple[Tensor, ...]:
    """What `compute` makes of the tensors as arrays, as tensors; on the meta device, what `specs` say it would make."""
    present = next(tensor for tensor in tensors if tensor is not None)
    if present.is_meta:
        return tuple(torch.empty(shape, dtype=torch_dtype(dtype), device="meta") for shape, dtype in specs())
    if traced():
        raise NotImplementedError(
            "pystn's derivatives of torch.func and of forward mode cannot be written down, as make_fx does"
        )
    with device_of(present) if present.is_cuda else nullcontext():
        arrays = [None if tensor is None else to_array(tensor) for tensor in tensors]
        return tuple(to_tensor(result) for result in compute(arrays) if result is not None)
