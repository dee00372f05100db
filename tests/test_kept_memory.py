"""Memory of large results: kept once they are freed, within a limit, and never that of an array that is alive."""

import ctypes
import threading

import numpy as np
import pytest

import pystn
from pystn.backends import _cpu

try:
    from numpy._core.multiarray import get_handler_name
except ImportError:  # NumPy 1.26
    from numpy.core.multiarray import get_handler_name

MB = 2**20
LARGE = (1, 2100, 2100)  # of points: 35 MB of float32


def keeps():
    """Whether the system takes back what is offered to it."""
    _cpu.empty((40 * MB,), np.uint8)
    return _cpu.kept_bytes() > 0


pytestmark = pytest.mark.skipif(not keeps(), reason="the system takes no memory back")


@pytest.fixture(autouse=True)
def nothing_kept():
    limit = pystn.get_kept_memory_limit()
    pystn.set_kept_memory_limit(0)
    pystn.set_kept_memory_limit(limit)
    yield
    pystn.set_kept_memory_limit(limit)


def grid(shift=0.0, size=LARGE[1:]):
    return pystn.affine_grid(np.float32([[[1, 0, shift], [0, 1, -shift]]]), size)


def address(array):
    return array.__array_interface__["data"][0]


def block_length(points):
    """Of the block of a grid: whole pages of 2 MB, and 64 bytes before the array."""
    return -(-(8 * np.prod(points) + 64) // (2 * MB)) * 2 * MB


def expected(shift):
    out = np.empty((*LARGE, 2), np.float32)
    return pystn.affine_grid(np.float32([[[1, 0, shift], [0, 1, -shift]]]), LARGE[1:], out=out)


def test_the_next_result_has_the_memory_of_one_that_was_freed():
    first = grid(0.25)
    where = address(first)
    assert where % 64 == 0
    assert first.flags.owndata
    assert get_handler_name(first) == "pystn"
    assert _cpu.kept_bytes() == 0
    del first
    assert _cpu.kept_bytes() == block_length(LARGE)
    second = grid(0.5)
    assert address(second) == where
    assert _cpu.kept_bytes() == 0
    np.testing.assert_array_equal(second, expected(0.5))


def test_calls_that_are_repeated_have_it_too():
    image = np.random.default_rng(0).random((1, 1, 40, 50), np.float32)
    theta = np.float32([[[0.9, 0.1, 0], [-0.1, 0.9, 0]]])
    size = (3000, 3001)
    want = pystn.warp_affine(image, theta, size, out=np.empty((1, 1, *size), np.float32))
    for _ in range(4):
        out = pystn.warp_affine(image, theta, size)
        assert get_handler_name(out) == "pystn"
        np.testing.assert_array_equal(out, want)
        out.fill(np.nan)  # in what is kept
        del out


def test_small_results_have_numpys():
    small = grid(size=(64, 64))
    assert get_handler_name(small) == get_handler_name(np.empty(3))
    del small
    assert _cpu.kept_bytes() == 0


def test_memory_of_a_view_is_in_use():
    whole = grid(0.25)
    view = whole[0, :, :, 1]
    before = view.copy()
    del whole
    assert _cpu.kept_bytes() == 0
    other = grid(0.75)
    assert not np.shares_memory(other, view)
    np.testing.assert_array_equal(view, before)


def test_the_limit_holds_and_what_was_freed_first_goes_first():
    arrays = [grid() for _ in range(4)]
    places = [address(array) for array in arrays]
    length = block_length(LARGE)
    pystn.set_kept_memory_limit(2 * length + MB)
    while arrays:
        del arrays[0]
    assert _cpu.kept_bytes() == 2 * length
    assert {address(a) for a in (grid(), grid())} <= set(places[2:])
    pystn.set_kept_memory_limit(length)
    assert _cpu.kept_bytes() == length
    pystn.set_kept_memory_limit(0)
    assert _cpu.kept_bytes() == 0
    grid()
    assert _cpu.kept_bytes() == 0


def test_many_blocks_are_kept_within_their_number():
    pystn.set_kept_memory_limit(2**33)
    arrays = [_cpu.empty((35 * MB,), np.uint8) for _ in range(20)]  # nobody touches their pages
    del arrays
    assert _cpu.kept_bytes() == 16 * 36 * MB


def test_an_array_of_another_size_has_other_memory():
    first = grid()
    where = address(first)
    del first
    much = grid(size=(3000, 3000))  # twice as large
    assert address(much) != where
    assert _cpu.kept_bytes() == block_length(LARGE)
    del much  # and of it half is too much for the next
    kept = _cpu.kept_bytes()
    less = grid(size=(2050, 2080))  # a little smaller
    assert address(less) == where
    other = grid()
    assert _cpu.kept_bytes() == kept - block_length(LARGE)
    assert not np.shares_memory(less, other)


def test_the_smallest_that_is_large_enough():
    arrays = [_cpu.empty((length * MB,), np.uint8) for length in (47, 43, 39)]
    places = [address(array) for array in arrays]
    del arrays
    assert address(_cpu.empty((41 * MB,), np.uint8)) == places[1]


def test_a_result_beyond_the_limit_is_not_kept():
    pystn.set_kept_memory_limit(block_length(LARGE) - 1)
    grid()
    assert _cpu.kept_bytes() == 0


class Allocator(ctypes.Structure):
    """NumPy's PyDataMem_Handler."""

    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("functions", ctypes.c_void_p * 5))


def test_a_handler_of_the_callers_own_is_used():
    try:
        from numpy._core._multiarray_umath import _ARRAY_API
    except ImportError:  # NumPy 1.26
        from numpy.core._multiarray_umath import _ARRAY_API

    pointer, new = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    functions = ctypes.cast(pointer(_ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(functions[304])
    usual = ctypes.cast(functions[306], ctypes.POINTER(ctypes.py_object))[0]
    own = Allocator.from_buffer_copy(ctypes.cast(pointer(usual, b"mem_handler"), ctypes.POINTER(Allocator))[0])
    own.name = b"own"
    before = set_handler(new(ctypes.addressof(own), b"mem_handler", None))
    try:
        found = grid()
    finally:
        set_handler(before)
    assert get_handler_name(found) == "own"
    del found
    assert _cpu.kept_bytes() == 0
    assert get_handler_name(grid()) == "pystn"


def test_resizing_keeps_what_is_there():
    array = grid(0.25)
    want = array.ravel()[:1000].copy()
    array.resize(20_000_000, refcheck=False)
    np.testing.assert_array_equal(array[:1000], want)
    assert not array[-1000:].any()
    array.resize(1000, refcheck=False)
    np.testing.assert_array_equal(array, want)


def test_sums_of_numbers_of_16_bits():
    """They are a temporary array of float32, larger than the result."""
    image, d_image = np.random.default_rng(0).standard_normal((2, 1, 1, 64, 64)).astype(np.float16)
    theta = np.float32([[[0.9, 0.1, 0], [-0.1, 0.9, 0]]])
    rows = [pystn.affine_grid(scale * theta, (3000, 3000)) for scale in (1, 0.5)]
    pystn.set_kept_memory_limit(0)
    expected = [pystn.grid_sample_jvp(image, grid, d_image, np.zeros_like(grid)) for grid in rows]
    pystn.set_kept_memory_limit(2**28)
    for grid, want in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(pystn.grid_sample_jvp(image, grid, d_image, np.zeros_like(grid)), want)
        assert _cpu.kept_bytes() == block_length((3000, 1500))


def test_threads_do_not_share_what_is_kept():
    wrong = []

    def work(shift):
        want = expected(shift)
        for _ in range(5):
            if not np.array_equal(grid(shift), want):
                wrong.append(shift)

    threads = [threading.Thread(target=work, args=(k / 8,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "given, error, message",
    [
        (-1, ValueError, "from 0 to"),
        (2**63, ValueError, "from 0 to"),
        (1.5, TypeError, "must be an integer, got 1.5"),
        (None, TypeError, "must be an integer, got None"),
    ],
)
def test_what_is_no_number_of_bytes(given, error, message):
    before = pystn.get_kept_memory_limit()
    with pytest.raises(error, match=message):
        pystn.set_kept_memory_limit(given)
    assert pystn.get_kept_memory_limit() == before
