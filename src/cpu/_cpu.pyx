# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""Entry points of the CPU kernels: buffers in, jobs filled, chunks run in parallel.

Shapes, dtypes and options have been checked by the time they arrive here; what is checked again is
only what memory safety needs. Chunks have boundaries that follow from the shapes, so nothing
depends on which thread runs which.
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

from pystn.backends.sums import delivered, rounded
from pystn.threads import get_num_threads

cnp.import_array()

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    static int pystn_max_threads(void) { return omp_get_max_threads(); }
    static int pystn_openmp_version(void) { return _OPENMP; }
    /* Frees the calling thread's pool, which a forked child could not use. */
    static void pystn_release_threads(void) {
    #if _OPENMP >= 201811 || (defined(__GNUC__) && __GNUC__ >= 9)
      omp_pause_resource_all(omp_pause_hard);
    #endif
    }
    #else
    static int pystn_max_threads(void) { return 1; }
    static int pystn_openmp_version(void) { return 0; }
    static void pystn_release_threads(void) {}
    #endif
    """
    int pystn_max_threads() noexcept nogil
    int pystn_openmp_version() noexcept nogil
    void pystn_release_threads() noexcept nogil

include "job.pxi"

# Bytes of an output from which on it goes past the caches.
cdef int64_t STREAM_FROM = bytes_worth_streaming()

cdef const Level* level = best_level()


def use_level(name):
    """Select the chunk bodies of one instruction set, for tests."""
    global level
    cdef bytes encoded = name.encode()
    cdef const Level* found = find_level(encoded)
    if found == NULL:
        raise ValueError(f"no CPU level {name!r} here: expected one of {', '.join(levels())}")
    level = found


def stream_from(count=None):
    """Bytes of an output from which on it goes past the caches; sets them, for tests, if a count is given."""
    global STREAM_FROM
    if count is not None:
        STREAM_FROM = count
    return STREAM_FROM


def levels():
    """Names of the instruction sets that were built and run here, best first."""
    cdef const char* const* names = level_names()
    found = []
    cdef int i = 0
    while names[i] != NULL:
        found.append(names[i].decode())
        i += 1
    return tuple(found)


def current_level():
    return level.name.decode()


def max_threads():
    """Threads that OpenMP would use now; asked every time, for it can be limited from outside."""
    return pystn_max_threads()


def openmp_version():
    """Date of the OpenMP specification compiled against, 0 without OpenMP."""
    return pystn_openmp_version()


def release_threads():
    pystn_release_threads()


include "memory.pxi"
include "arrays.pxi"
include "running.pxi"
include "calls.pxi"
include "conversions.pxi"
include "sampling.pxi"
include "repeats.pxi"
include "footprints.pxi"
include "lattices.pxi"
include "matrices.pxi"
include "piecewise.pxi"
include "splines.pxi"
