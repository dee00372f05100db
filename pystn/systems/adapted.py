"""The systems on a framework's arrays, whose derivatives are the framework's."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getdoc, signature
from typing import Any, NoReturn

from pystn import systems
from pystn.systems.base import Pullback, System

__all__ = ["SYSTEMS", "systems_of"]

SYSTEMS: dict[str, type[System]] = {name: getattr(systems, name) for name in systems.__all__}


def systems_of(
    apply: Callable[..., Any], xp: Any, module: str, what: str, bases: tuple[type, ...] = (), **attributes: Any
) -> dict[str, type]:
    """All systems as classes of an adapter, by their names.

    `apply` calls an operation on the arrays of `xp`, the framework's namespace of array functions; classes live in
    `module`, and are `what`.
    """

    def explicit(self: System, *arguments: Any) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"{name} here has the derivatives of its framework: pull and vjp are those of pystn.{name}")

    def pull(self: System, f: Any, *arrays: Any, **options: Any) -> tuple[Any, Pullback]:
        return apply(f, *arrays, **options), explicit

    def adapted(system: type[System]) -> type:
        summary = (getdoc(system) or "").partition("\n")[0]
        members = {
            "__module__": module,
            "__doc__": f"{summary}\n\n`pystn.{system.__name__}` {what}: arguments are described there.",
            "__signature__": signature(system),
            "_pull": pull,
            "_xp": lambda self, array: xp,
            "pull": explicit,
            "vjp": explicit,
        }
        return type(system.__name__, (system, *bases), members | attributes)

    return {name: adapted(system) for name, system in SYSTEMS.items()}
