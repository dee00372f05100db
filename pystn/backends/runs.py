"""Sums of the entries that share a label, as array code: in a fixed order, and without gathering the entries."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from pystn.kept import Keeper
from pystn.typing import Array

__all__ = ["LabelledSums", "changes"]

CHUNK = 64  # entries, or sums of them, that a device adds up at a time


class LabelledSums(Keeper):
    """Along the last axis, whose entries have labels 0 to count - 1: the sum for every label, in float64.

    NumPy adds up neighbours that share a label where they lie; only these sums are brought into the order of their
    labels and added up again. CuPy's `reduceat` takes differences of sums of everything: there, entries are added up in
    chunks of one label, then the sums of the chunks, until all are one.
    """

    def __init__(self, labels: Array, count: int) -> None:
        self.labels, self.count = labels, count
        self.starts = changes(labels)
        self.order = np.argsort(labels[self.starts], kind="stable")
        ordered = labels[self.starts][self.order]
        self.firsts = changes(ordered)
        self.present = ordered[self.firsts]

    def __call__(self, xp: ModuleType, values: Array) -> Array:
        sums = xp.zeros((*values.shape[:-1], self.count))
        if values.size:
            wide = values.astype(np.float64, copy=False)
            found = self.by_runs(wide) if xp is np else self.by_chunks(xp, wide)
            sums[..., self._cast(xp, "present")] = found
        return sums

    def by_runs(self, values: Array) -> Array:
        runs = np.add.reduceat(values, self.starts, axis=-1)
        return np.add.reduceat(runs.take(self.order, axis=-1), self.firsts, axis=-1)

    def by_chunks(self, xp: ModuleType, values: Array) -> Array:
        for table in self._keep(xp, "chunks", lambda: tuple(chunks(self.labels))):
            values = xp.where(table < 0, 0.0, values.take(table, axis=-1)).sum(axis=-1)
        return values


def chunks(labels: Array) -> Iterator[Array]:
    """Tables of what is added up, of the entries, of these sums and so on: a row for each sum, -1 where it ends."""
    while True:
        order = np.argsort(labels, kind="stable")
        ordered = labels[order]
        firsts = changes(ordered)
        lengths = np.diff(firsts, append=len(labels))
        width = min(CHUNK, int(lengths.max()))
        rows = -(-lengths // width)  # of each label
        place = np.arange(len(labels)) - np.repeat(firsts, lengths)
        table = np.full((rows.sum(), width), -1)
        table[np.repeat(np.cumsum(rows) - rows, lengths) + place // width, place % width] = order
        yield table
        if len(table) == len(firsts):
            return
        labels = np.repeat(ordered[firsts], rows)


def changes(labels: Array) -> Array:
    """Where runs of one label start."""
    return np.flatnonzero(np.diff(labels, prepend=-1))
