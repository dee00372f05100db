"""The table of cases for torch: each as a function of tensors alone; other tensors, comparisons, known warnings."""

import numpy as np
import pytest
import torch
from operations import CASES

import pystn.torch as stn

# Forward mode and the compiler load parts of torch that warn of others.
FILTERS = [
    r"ignore:`torch\.jit\.\w+` is (deprecated|not supported in Python):DeprecationWarning",
    r"ignore:The \.grad attribute of a Tensor that is not a leaf Tensor is being accessed:UserWarning",
]


def tensor(array, requires_grad=True, dtype=None):
    made = torch.tensor(array, dtype=dtype)
    return made.requires_grad_(requires_grad)


class Problem:
    """A case: ``problem(*problem.tensors())`` calls it, with options that are arrays among its arguments."""

    def __init__(self, case):
        self.case, self.operation = case, case.operation
        self.count = len(self.operation.primals)

    def arrays(self, seed=0):
        given = [np.array(array) for array in self.case.primals(seed)]
        for value in self.case.arrays.values():
            given += [np.array(a) for a in value if a is not None] if isinstance(value, tuple) else [np.array(value)]
        return given

    def tensors(self, seed=0, requires_grad=True, dtype=None):
        return [tensor(array, requires_grad, dtype) for array in self.arrays(seed)]

    def options(self, arrays):
        """The options with arrays put back where they belong."""
        rest = iter(arrays[self.count :])
        options = dict(self.case.options)
        for name, value in self.case.arrays.items():
            several = isinstance(value, tuple)
            options[name] = tuple(None if a is None else next(rest) for a in value) if several else next(rest)
        return options

    def __call__(self, *arrays):
        return stn.apply(self.case.f, *arrays[: self.count], **self.options(arrays))

    def curved(self):
        """The problem as a function of what has derivatives of the second order, and those tensors."""
        given = self.tensors()
        count = len(given) if self.operation.curved_parameters else self.count
        fixed = [t.detach() for t in given[count:]]
        return lambda *arrays: self(*arrays, *fixed), given[:count]


def listed(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def selected(condition=lambda case: True):
    """The cases for which it holds, each once by name, as parameters of a test."""
    return {"argvalues": [case for case in CASES if condition(case)], "ids": str}


every_case = pytest.mark.parametrize("case", **selected())
FIRST_ORDER_OPTIONS = [case for case in CASES if case.arrays and not case.operation.curved_parameters]


def close(found, expected, tolerance=1e-11):
    """Of the same dtype, shape and values."""
    found, expected = listed(found), listed(expected)
    assert [f.dtype for f in found] == [e.dtype for e in expected]
    assert [f.shape for f in found] == [e.shape for e in expected]
    for f, e in zip(found, expected, strict=True):
        scale = max(e.detach().abs().max().item() if e.numel() else 0, 1e-3)
        torch.testing.assert_close(f, e, rtol=0, atol=tolerance * scale)


def same(found, expected):
    """Bit for bit."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    bits = [t.detach().resolve_conj().resolve_neg().contiguous().flatten() for t in (found, expected)]
    bits = [t.view(torch.int16) if t.dtype == torch.bfloat16 else t for t in bits]
    assert bits[0].numpy().tobytes() == bits[1].numpy().tobytes()


def uniform(*shape, dtype=torch.float64, seed=0, **kind):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=dtype, **kind)


def images_and_grid(dtype=torch.float64, batch=2, requires_grad=True):
    image = uniform(batch, 3, 7, 6, dtype=dtype)
    grid = 2.4 * uniform(batch, 4, 5, 2, dtype=dtype, seed=1) - 1.2
    return image.requires_grad_(requires_grad), grid.requires_grad_(requires_grad)


def squares(*outputs):
    """A loss whose cotangents and curvature are no constants, not for rotations either."""
    total = 0
    for output in outputs:
        square = output.abs() ** 2 if output.is_complex() else output**2
        weights = torch.linspace(0.5, 1.5, output.numel(), dtype=square.dtype).reshape(output.shape)
        total = total + (weights * square).sum()
    return total


def with_gradients(f, *tensors):
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    output = f(*tensors)
    return [output, *torch.autograd.grad(squares(output), tensors)]
