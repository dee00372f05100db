"""Memory of new arrays: NumPy's, and for large ones that of arrays which were freed."""

cdef extern from "memory_cache.hpp" namespace "pystn":
    const size_t cached_from
    cppclass MemoryCache:
        size_t kept()
        size_t limit()
        void set_limit(size_t bytes)
    MemoryCache& memory_cache()
    void* cache_malloc(void*, size_t) noexcept
    void* cache_calloc(void*, size_t, size_t) noexcept
    void* cache_realloc(void*, void*, size_t) noexcept
    void cache_free(void*, void*, size_t) noexcept

cdef extern from *:
    PyObject* NUMPYS_HANDLER "PyDataMem_DefaultHandler"

cdef cnp.PyDataMem_Handler cache_handler
memset(&cache_handler, 0, sizeof(cache_handler))
memcpy(<char*> cache_handler.name, b"pystn", 5)
cache_handler.version = 1
cache_handler.allocator.malloc = cache_malloc
cache_handler.allocator.calloc = cache_calloc
cache_handler.allocator.realloc = cache_realloc
cache_handler.allocator.free = cache_free
cdef object CACHE = PyCapsule_New(&cache_handler, "mem_handler", NULL)


cdef object new_array(int ndim, cnp.npy_intp* shape, int type):
    """A packed array, not filled."""
    cdef int a
    cdef size_t count = 1
    for a in range(ndim):
        count *= <size_t> shape[a]
    if count * 16 < cached_from:
        return cnp.PyArray_EMPTY(ndim, shape, type, 0)
    return empty(tuple([shape[a] for a in range(ndim)]), cnp.PyArray_DescrFromType(type))


cdef object made(make, like, dtype, double nbytes):
    """An array that NumPy makes, in memory from the cache if it is large and the caller has no handler of his own."""
    if nbytes < cached_from or cnp.PyDataMem_GetHandler() is not <object> NUMPYS_HANDLER:
        return make(like, dtype)
    cnp.PyDataMem_SetHandler(CACHE)
    try:
        return make(like, dtype)
    finally:
        cnp.PyDataMem_SetHandler(<object> NUMPYS_HANDLER)


def plain_like(array, dtype):
    return np.empty_like(array, dtype, subok=False)


def empty(shape, dtype):
    """As `np.empty`."""
    cdef double nbytes = np.dtype(dtype).itemsize
    for length in shape:
        nbytes *= length
    return made(np.empty, shape, dtype, nbytes)


def empty_like(array, dtype):
    """As `np.empty_like`, of no subclass."""
    return made(plain_like, array, dtype, <double> array.size * np.dtype(dtype).itemsize)


def kept_bytes():
    """Bytes of freed arrays that are kept for new ones."""
    return memory_cache().kept()


def memory_limit(nbytes=None):
    """Bytes of freed arrays that are kept at most; sets them if they are given."""
    if nbytes is not None:
        memory_cache().set_limit(nbytes)
    return memory_cache().limit()
