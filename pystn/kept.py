"""Arrays that are made on the host and kept on every device where they are used."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import numpy as np

from pystn.typing import Array

__all__ = ["Keeper", "kept"]


def device_of(xp: Any) -> int | None:
    """The device that arrays of xp are made on: CuPy's current one."""
    return None if xp is np else int(xp.cuda.Device().id)


def complete(xp: Any, found: Any, dtype: Any = None) -> Any:
    """A NumPy array, or each of a tuple, as one of xp, there before the call returns: any stream may read it next."""
    if isinstance(found, tuple):
        return tuple(complete(xp, array, dtype) for array in found)
    return np.asarray(found, dtype) if xp is np else xp.asarray(found, dtype, blocking=True)


def kept(make: Callable[..., Any]) -> Callable[..., Any]:
    """Of a function of numbers and words that makes a NumPy array, or a tuple of them, one that takes xp first.

    What it returns is made once for every device, and not to be written to.
    """

    @lru_cache(maxsize=64)
    def made(xp: Any, device: int | None, *arguments: Any) -> Any:
        return complete(xp, make(*arguments))

    @wraps(make)
    def of_device(xp: Any, *arguments: Any) -> Any:
        return made(xp, device_of(xp), *arguments)

    return of_device


class Keeper:
    """Has NumPy arrays, and keeps them as arrays of other dtypes and devices."""

    def _keep(self, xp: Any, key: Any, make: Callable[[], Any], dtype: Any = None) -> Any:
        """The NumPy array, or the tuple of them, that `make` returns, as of xp and dtype: once for every device."""
        casts = vars(self).setdefault("_casts", {})
        place = (key, xp.__name__, device_of(xp), dtype)
        if place not in casts:
            return casts.setdefault(place, complete(xp, make(), dtype))  # another thread may have made it meanwhile
        return casts[place]

    def _cast(self, xp: Any, name: str, dtype: np.dtype[Any] | None = None) -> Array:
        """The attribute of that name as an array of xp and dtype."""
        array: Array = self._keep(xp, name, lambda: getattr(self, name), dtype)
        return array

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: not what is kept, which may lie on a device."""
        return {name: value for name, value in dict(vars(self)).items() if name not in ("_casts", "_operation")}
