"""Arrays of 8 and 16 bits as numbers that are computed with, and back."""

cdef int64_t CONVERSION = 1 << 14  # numbers, of a task


cdef bint is_converted(cnp.ndarray small, cnp.ndarray wide, bint widens, int threads):
    """Copies an array of 8 or 16 bits in one of float32, which has no gaps, or that in it; False if they are not of
    these types, or their elements not in one order."""
    cdef ConversionJob job
    cdef int a
    cdef int64_t count = cnp.PyArray_SIZE(small), tasks = (count + CONVERSION - 1) // CONVERSION, i
    job.type = element_of(small)
    if size_of(job.type) > 2 or cnp.PyArray_TYPE(wide) != cnp.NPY_FLOAT or not is_readable(small):
        return False
    for a in range(cnp.PyArray_NDIM(small)):
        if stride_of(small, a) != stride_of(wide, a):
            return False
    job.widens = widens
    job.small = cnp.PyArray_DATA(small)
    job.wide = cnp.PyArray_DATA(wide)
    threads = threads_for(count, threads)
    with nogil:
        if threads == 1:
            level.convert(job, 0, count)
        else:
            for i in prange(tasks, schedule="static", num_threads=threads):
                level.convert(job, i * CONVERSION, min((i + 1) * CONVERSION, count))
    return True


cdef object widened(array, number, int threads):
    """An array in a type that holds all of its own, in the same order in memory; a copy unless it is of it."""
    if array is None or array.dtype == number:
        return array
    wide = empty_like(array, number)
    if not is_converted(array, wide, True, threads):
        wide[...] = array
    return wide


def narrow(sums, output, int threads):
    """Sums of float32 as numbers of fewer bits; False if the arrays are not of these types, or not in one order."""
    return is_converted(output, sums, False, threads)


cdef int put_narrowed(sums, output, int threads) except -1:
    """Sums, of which nothing is needed later, as the numbers of an output of fewer bits."""
    if not is_converted(output, sums, False, threads):
        delivered(rounded(np, sums, output.dtype), output.dtype, output)
    return 0
