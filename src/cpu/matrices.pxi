"""Entry points of matrices."""


def exponential(generators, matrices, int threads):
    """Fills matrices with the exponentials of generators: both (M, n, n), contiguous and in double, and not empty."""
    cdef Holder holder = Holder()
    cdef ExponentialJob job
    cdef cnp.ndarray made = holder.hold(matrices)
    job.count = cnp.PyArray_DIM(made, 0)
    job.rows = cnp.PyArray_DIM(made, 1)
    job.generator = holder.doubles(generators)
    job.matrix = <double*> cnp.PyArray_DATA(made)
    cdef ExponentialTask body = level.exponential(job)
    cdef int64_t tasks = (job.count + exponentials_together - 1) // exponentials_together, i
    cdef int used = min(threads_for(job.count * job.rows ** 3, threads), tasks)
    cdef int64_t scratch = level.exponential_scratch(job)
    cdef cnp.ndarray memory = np.empty(used * scratch, np.uint8)
    cdef char* own = cnp.PyArray_BYTES(memory)
    with nogil:
        if used == 1:
            for i in range(tasks):
                body(job, i, own)
        else:
            for i in prange(tasks, schedule="static", num_threads=used):
                body(job, i, own + threadid() * scratch)
