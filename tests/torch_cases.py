"""The table of cases for torch: each as a function of tensors alone, and what frameworks warn of by themselves."""

import numpy as np
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
