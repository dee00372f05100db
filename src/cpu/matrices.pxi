"""Entry points of matrices."""


def exponential(generators, along, then, matrices, int threads):
    """Fills matrices (M, n, n): exponentials of generators, or their derivatives along a direction unless it is None.

    Or how these move with the generators, which move by `then`, unless that is None. All of them are contiguous, in
    double and not empty.
    """
    cdef Holder holder = Holder()
    cdef ExponentialJob job
    cdef cnp.ndarray made = holder.hold(matrices)
    job.count = cnp.PyArray_DIM(made, 0)
    job.rows = cnp.PyArray_DIM(made, 1)
    job.generator = holder.doubles(generators)
    job.along = holder.doubles(along)
    job.then = holder.doubles(then)
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
