"""Sums of the entries that share a label, as array code: in a fixed order, and without gathering the entries."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from pystn.typing import Array

__all__ = ["LabelledSums"]


class LabelledSums:
    """Along the last axis, whose entries have labels 0 to count - 1: the sum for every label, in float64.

    Neighbours that share a label, such as the pixels of a row in one triangle, are added up where they lie;
    only these sums are brought into the order of their labels and added up again.
    """

    def __init__(self, labels: Array, count: int) -> None:
        self.count = count
        starts = changes(labels)
        order = np.argsort(labels[starts], kind="stable")
        ordered = labels[starts][order]
        firsts = changes(ordered)
        self.indices = {np.__name__: (starts, order, firsts, ordered[firsts])}

    def __call__(self, xp: ModuleType, values: Array) -> Array:
        sums = xp.zeros((*values.shape[:-1], self.count))
        if values.size:
            if xp.__name__ not in self.indices:
                self.indices[xp.__name__] = tuple(xp.asarray(index) for index in self.indices[np.__name__])
            starts, order, firsts, present = self.indices[xp.__name__]
            runs = xp.add.reduceat(values.astype(np.float64, copy=False), starts, axis=-1)
            sums[..., present] = xp.add.reduceat(runs.take(order, axis=-1), firsts, axis=-1)
        return sums


def changes(labels: Array) -> Array:
    """Where runs of one label start."""
    return np.flatnonzero(np.diff(labels, prepend=-1))
