"""What this installation is made of, to be pasted into an issue."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

__all__ = ["show_config"]


def openmp_runtime() -> str:
    """Name of the OpenMP library, where threadpoolctl is installed to tell."""
    if find_spec("threadpoolctl") is None:
        return "runtime unknown (threadpoolctl is not installed)"
    from threadpoolctl import threadpool_info

    found = [pool["prefix"] for pool in threadpool_info() if pool["user_api"] == "openmp"]
    return ", ".join(sorted(set(found))) or "runtime unknown"


def cuda() -> Iterator[str]:
    """What is there of CuPy and CUDA, a line for each device."""
    if find_spec("cupy") is None:
        yield "CuPy is not installed: pip install pystn[cuda13], or [cuda12]"
        return
    try:
        import cupy

        runtime = cupy.cuda.runtime
        driver, toolkit, compiler = (
            runtime.driverGetVersion(),
            runtime.runtimeGetVersion(),
            cupy.cuda.nvrtc.getVersion(),
        )
        versions = f"driver {driver}, runtime {toolkit}, NVRTC {'.'.join(map(str, compiler))}"
        count = runtime.getDeviceCount()
        yield f"CuPy {cupy.__version__}, {versions}, {count} device{'s' if count != 1 else ''}"
        for index in range(count):
            device = runtime.getDeviceProperties(index)
            memory = device["totalGlobalMem"] / 2**30
            yield f"{device['name'].decode()}, {device['major']}.{device['minor']}, {memory:.0f} GiB"
    except Exception as error:  # CuPy raises many kinds, an unwritable home among them
        yield f"CuPy is installed but does not work here: {type(error).__name__}: {error}"


def lines() -> Iterator[tuple[str, str]]:
    from pystn.backends import cpu
    from pystn.threads import get_num_threads

    yield "pystn", version("pystn")
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    yield "NumPy", version("numpy")
    levels = ", ".join(cpu.levels())
    yield "instruction set", f"{cpu.current_level()} (available here: {levels})"
    openmp = cpu.openmp_version()
    yield "OpenMP", f"{openmp}, {openmp_runtime()}" if openmp else "not built in: one thread"
    yield "threads", str(get_num_threads())
    yield "kept memory", f"{cpu.memory_limit() / 2**20:.0f} MiB at most"
    for line in cuda():
        yield "CUDA", line
    for package in ("torch", "jax", "autograd"):
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"


def show_config() -> None:
    """Print versions, instruction set, threads and what is installed beside pystn.

    Examples
    --------
    >>> import pystn
    >>> pystn.show_config()  # doctest: +ELLIPSIS
    pystn ...
    """
    for name, value in lines():
        print(f"{name:<16} {value}")
