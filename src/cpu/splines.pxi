"""Entry points of the B-spline prefilter."""

# Beyond this many pixels the buffer of a block of lines is in no near cache, and fewer lines do.
cdef int64_t LONG_LINE = 1 << 15


cdef class SplineCall(Holder):
    """One axis of the spline filter, with what it needs beside the output: the factors of the
    axis and one buffer per task."""
    cdef SplineJob job

    def __dealloc__(self):
        free(self.job.factors)
        free(self.job.buffer)

    cdef int describe(self, read, written, int axis) except -1:
        """A complex number is two lines side by side."""
        cdef SplineJob* job = &self.job
        cdef cnp.ndarray source = self.hold(read), target = self.hold(written)
        cdef int ndim = cnp.PyArray_NDIM(target), parts = parts_of(target), a, at
        cdef int64_t stride
        if ndim > max_ndim + 2 or axis >= ndim or cnp.PyArray_NDIM(source) != ndim:
            raise ValueError(f"no kernel for axis {axis} of arrays of shapes {read.shape} and {written.shape}")
        job.type = element_of(target)
        job.length = cnp.PyArray_DIM(target, axis)
        job.source = cnp.PyArray_DATA(source)
        job.target = cnp.PyArray_DATA(target)
        job.source_step = stride_of(source, axis, parts)
        job.target_step = stride_of(target, axis, parts)
        job.rank = 0
        job.lines = parts
        if parts > 1:
            job.shape[0] = parts
            job.source_stride[0] = job.target_stride[0] = 1
            job.rank = 1
        for a in range(ndim):
            if a == axis or cnp.PyArray_DIM(target, a) == 1:
                continue
            stride = stride_of(target, a, parts)
            at = job.rank
            while at > 0 and abs(job.target_stride[at - 1]) > abs(stride):
                job.shape[at] = job.shape[at - 1]
                job.source_stride[at] = job.source_stride[at - 1]
                job.target_stride[at] = job.target_stride[at - 1]
                at -= 1
            job.shape[at] = cnp.PyArray_DIM(target, a)
            job.source_stride[at] = stride_of(source, a, parts)
            job.target_stride[at] = stride
            job.rank += 1
            job.lines *= cnp.PyArray_DIM(target, a)
        return 0

    cdef int allocate(self, int threads) except -1:
        cdef SplineJob* job = &self.job
        job.lanes = 16 if job.lines > 8 and job.length <= LONG_LINE else 4 if job.lines > 1 else 1
        job.tasks = max(1, min(threads, (job.lines + job.lanes - 1) // job.lanes))
        job.factors = <double*> calloc(level.spline_factors(job[0]), sizeof(double))
        job.buffer = <double*> calloc(job.tasks * job.length * job.lanes, sizeof(double))
        if job.factors == NULL or job.buffer == NULL:
            raise MemoryError
        return 0


cdef void run_spline(SplineChunk body, const SplineJob* job) noexcept nogil:
    cdef int64_t i
    if job.tasks == 1:
        body(job[0], 0)
    else:
        for i in prange(job.tasks, schedule="static", num_threads=job.tasks):
            body(job[0], i)


def spline_filter(source, target, int axis, int order, int boundary, bint transposed, int threads):
    """Fills `target`, which may be `source`; neither is empty, and the order is 2 to 7."""
    cdef SplineCall call = SplineCall()
    call.describe(source, target, axis)
    call.job.order = order
    call.job.boundary = boundary
    call.job.transposed = transposed
    call.allocate(threads_for(call.job.lines * call.job.length, threads))
    cdef SplineChunk body = level.spline_filter(call.job)
    with nogil:
        level.spline_factors(call.job)
        run_spline(body, &call.job)
