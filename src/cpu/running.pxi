"""The parallel loops."""

# Below this many pixel-channels a parallel region costs more than it saves.
cdef int64_t PARALLEL_FROM = 16384
# Below this many a job takes less than a millisecond or so.
cdef int64_t BRIEF_BELOW = 1 << 20
cdef int64_t WIDEN_FROM = 1 << 11  # samples, of types that are not the arithmetic's
# Pixels of one chunk, about.
cdef int64_t CHUNK_PIXELS = 8192
# Sums that the gradient to a matrix is added up in, at most.
cdef int64_t GROUPS = 64


cdef int threads_for(int64_t work, int threads) noexcept:
    return 1 if work < PARALLEL_FROM else threads


cdef void run_sample(SampleChunk body, const SampleJob* job, int64_t count, int threads, bint brief) noexcept nogil:
    """A brief job is dealt out once, so that each processor finds last call's data in its cache; a
    longer one is taken up turn by turn, so that nobody waits for one that is disturbed: image by image where
    everybody has as many, so that not every cache has to hold all of them."""
    cdef int64_t i, turns
    if threads <= 1 or count <= 1:
        for i in range(count):
            body(job[0], i)
    elif brief:
        for i in prange(count, schedule="static", num_threads=threads):
            body(job[0], i)
    else:
        turns = max(1, count // (32 * threads))
        if count % job.batch == 0 and job.batch >= (4 if job.batch % threads == 0 else 16) * threads:
            turns = max(turns, count // job.batch)
        for i in prange(count, schedule="dynamic", chunksize=turns, num_threads=threads):
            body(job[0], i)


cdef void run_group(SampleChunk body, const SampleJob* job, int64_t group, int64_t per_matrix, int64_t per_group,
                    int64_t groups) noexcept nogil:
    cdef int64_t first = group // groups * per_matrix, i
    cdef int64_t start = group % groups * per_group
    for i in range(first + start, first + min(start + per_group, per_matrix)):
        body(job[0], i)


cdef void run_grouped(SampleChunk body, const SampleJob* job, int64_t matrices, int64_t per_matrix, int64_t per_group,
                      int64_t groups, int threads, bint brief) noexcept nogil:
    """By the same rule."""
    cdef int64_t i
    if threads <= 1:
        for i in range(matrices * groups):
            run_group(body, job, i, per_matrix, per_group, groups)
    elif brief:
        for i in prange(matrices * groups, schedule="static", num_threads=threads):
            run_group(body, job, i, per_matrix, per_group, groups)
    else:
        for i in prange(matrices * groups, schedule="dynamic", num_threads=threads):
            run_group(body, job, i, per_matrix, per_group, groups)
