"""CUDA on the CPU, for tests: kernels compiled by g++, and a stand-in for what pystn uses of CuPy."""

from .arrays import SynchronisationError, laid_out, no_synchronisation
from .module import COMPILER, HostModule, kernels, order
from .stand_in import has_device, install, installed, stand_in

__all__ = [
    "COMPILER",
    "HostModule",
    "SynchronisationError",
    "has_device",
    "install",
    "installed",
    "kernels",
    "laid_out",
    "no_synchronisation",
    "order",
    "stand_in",
]
