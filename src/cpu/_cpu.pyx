# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""Entry points of the CPU kernels: buffers in, jobs filled, chunks run in parallel.

Shapes, dtypes and options have been checked by the time they arrive here; what is checked again is
only what memory safety needs. Chunks have boundaries that follow from the shapes, so nothing
depends on which thread runs which.
"""

from cpython.buffer cimport PyBUF_STRIDED, PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

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

cdef extern from "job.hpp" namespace "pystn" nogil:
    const int max_ndim
    const int max_rank
    cdef enum class Float(int):
        f32
        f64
    cdef enum class Direction(int):
        forward
        jvp
        vjp_input
        vjp_grid
        vjp
        reach
    cdef struct ImageArray:
        void* data
        int64_t batch
        int64_t channel
        int64_t* axis
    cdef struct SampleArray:
        void* data
        int64_t batch
        int64_t channel
        int64_t* axis
    cdef struct GridArray:
        void* data
        int64_t batch
        int64_t component
        int64_t* axis
    cdef struct Reach:
        int64_t low
        int64_t high
    cdef cppclass SampleJob:
        int64_t batch, input_batch, grid_batch, channels
        int ndim
        int64_t* size
        int64_t* full
        int64_t* origin
        int rank
        int64_t* shape
        Float image_type, grid_type
        int mode, coordinates, subgradient
        int* boundary
        ImageArray input, d_input, grad_input
        GridArray grid, d_grid, grad_grid
        SampleArray output
        int64_t outer, rows, columns, chunk_rows, chunk_columns, row_chunks, column_chunks
        int64_t channel_blocks, bands
        Reach* reach
    cdef cppclass LatticeJob:
        int64_t count
        int ndim
        int64_t* size
        int64_t* full
        int64_t* origin
        int align_corners
        Float type
        const void* theta
        void* grid
        int64_t grid_matrix
        int64_t* grid_axis
        int64_t grid_component
        double* partial
        int64_t rows, chunk_rows, row_chunks
    ctypedef void (*SampleChunk)(const SampleJob&, int64_t) noexcept nogil
    ctypedef void (*LatticeChunk)(const LatticeJob&, int64_t) noexcept nogil
    cdef struct Level:
        const char* name
        SampleChunk (*sample)(Direction, const SampleJob&) noexcept nogil
        LatticeChunk (*affine_grid)(const LatticeJob&) noexcept nogil
        LatticeChunk (*affine_grid_vjp)(const LatticeJob&) noexcept nogil
    const Level* best_level() noexcept
    const Level* find_level(const char*) noexcept
    const char* const* level_names() noexcept


# Below this many pixel-channels a parallel region costs more than it saves.
cdef int64_t PARALLEL_FROM = 16384
# Below this many a job takes less than a millisecond or so.
cdef int64_t BRIEF_BELOW = 1 << 20
# Elements of an image below which both of its gradients are made in one pass.
cdef int64_t WHOLE_IMAGES_BELOW = 32768
# Pixels of one chunk, about.
cdef int64_t CHUNK_PIXELS = 8192

cdef const Level* level = best_level()


def use_level(name):
    """Select the chunk bodies of one instruction set, for tests."""
    global level
    cdef bytes encoded = name.encode()
    cdef const Level* found = find_level(encoded)
    if found == NULL:
        raise ValueError(f"no CPU level {name!r} here: expected one of {', '.join(levels())}")
    level = found


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


cdef void run_sample(SampleChunk body, const SampleJob* job, int64_t count, int threads, bint brief) noexcept nogil:
    """A brief job is dealt out once, so that each processor finds last call's data in its cache; a
    longer one is taken up turn by turn, so that nobody waits for one that is disturbed."""
    cdef int64_t i, turns
    if threads <= 1 or count <= 1:
        for i in range(count):
            body(job[0], i)
    elif brief:
        for i in prange(count, schedule="static", num_threads=threads):
            body(job[0], i)
    else:
        turns = max(1, count // (32 * threads))
        for i in prange(count, schedule="dynamic", chunksize=turns, num_threads=threads):
            body(job[0], i)


cdef void run_lattice(LatticeChunk body, const LatticeJob* job, int64_t count, int threads) noexcept nogil:
    """Its chunks are all alike: dealt out once."""
    cdef int64_t i
    if threads <= 1 or count <= 1:
        for i in range(count):
            body(job[0], i)
    else:
        for i in prange(count, schedule="static", num_threads=threads):
            body(job[0], i)


cdef int64_t stride_of(const Py_buffer* view, int axis) noexcept:
    """Stride in elements; 0 on axes of length 1, whatever they say."""
    return 0 if view.shape[axis] == 1 else view.strides[axis] // view.itemsize


cdef class Call:
    """One job of the sampler and the buffers it reads and writes."""
    cdef SampleJob job
    cdef Py_buffer views[8]
    cdef int held
    cdef bint channels_last

    def __cinit__(self):
        self.held = 0

    def __dealloc__(self):
        free(self.job.reach)
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    cdef Py_buffer* hold(self, array, bint writable) except NULL:
        cdef Py_buffer* view = &self.views[self.held]
        PyObject_GetBuffer(array, view, PyBUF_STRIDED if writable else PyBUF_STRIDED_RO)
        self.held += 1
        return view

    cdef int image(self, ImageArray* to, array, bint writable) except -1:
        cdef Py_buffer* view = self.hold(array, writable)
        cdef int ndim = self.job.ndim, a
        to.data = view.buf
        to.batch = stride_of(view, 0)
        to.channel = stride_of(view, ndim + 1 if self.channels_last else 1)
        for a in range(ndim):
            to.axis[a] = stride_of(view, (ndim if self.channels_last else ndim + 1) - a)
        return 0

    cdef int samples(self, array, bint writable) except -1:
        cdef Py_buffer* view = self.hold(array, writable)
        cdef SampleArray* to = &self.job.output
        cdef int rank = view.ndim - 2, a
        to.data = view.buf
        to.batch = stride_of(view, 0)
        to.channel = stride_of(view, rank + 1 if self.channels_last else 1)
        for a in range(rank):
            to.axis[a] = stride_of(view, a + (1 if self.channels_last else 2))
        if rank == 0:
            to.axis[0] = 0
        return 0

    cdef int grid(self, GridArray* to, array, bint writable) except -1:
        cdef Py_buffer* view = self.hold(array, writable)
        cdef int rank = view.ndim - 2, a
        to.data = view.buf
        to.batch = stride_of(view, 0)
        to.component = stride_of(view, rank + 1)
        for a in range(rank):
            to.axis[a] = stride_of(view, a + 1)
        if rank == 0:
            to.axis[0] = 0
        return 0

    cdef int describe(self, input, grid, options) except -1:
        """Sizes and options, from the arrays that every direction has."""
        cdef SampleJob* job = &self.job
        cdef int a, spatial
        cdef tuple input_shape = input.shape, grid_shape = grid.shape
        job.ndim = <int> len(input_shape) - 2
        job.rank = <int> len(grid_shape) - 2
        if job.ndim < 1 or job.ndim > max_ndim or job.rank < 0 or job.rank > max_rank:
            raise ValueError(f"no kernel for input of shape {input_shape} and grid of shape {grid_shape}")
        self.channels_last = options.channel_axis == -1
        spatial = 1 if self.channels_last else 2
        job.input_batch = input_shape[0]
        job.grid_batch = grid_shape[0]
        job.batch = job.grid_batch if job.input_batch == 1 else job.input_batch
        job.channels = input_shape[job.ndim + 1 if self.channels_last else 1]
        boundaries = options.boundary_codes
        for a in range(job.ndim):
            job.size[a] = input_shape[spatial + job.ndim - 1 - a]
            job.full[a] = job.size[a]
            job.origin[a] = 0
            job.boundary[a] = boundaries[a]
        for a in range(job.rank):
            job.shape[a] = grid_shape[a + 1]
        if job.rank == 0:  # one sample: a row of one
            job.rank = 1
            job.shape[0] = 1
        job.image_type = Float.f64 if input.itemsize == 8 else Float.f32
        job.grid_type = Float.f64 if grid.itemsize == 8 else Float.f32
        job.mode = options.mode_code
        job.coordinates = options.coordinates_code
        job.subgradient = options.subgradient_code
        job.input.data = job.d_input.data = job.grad_input.data = NULL
        job.grid.data = job.d_grid.data = job.grad_grid.data = NULL
        self.grid(&job.grid, grid, False)
        self.cut()
        return 0

    cdef void flatten(self) noexcept:
        """Merge axes of the output whose memory allows it, for kernels to which rows mean nothing."""
        cdef SampleJob* job = &self.job
        cdef int last = job.rank - 1
        cdef int64_t length
        while last > 0:
            length = job.shape[last]
            if job.grid.axis[last - 1] != job.grid.axis[last] * length:
                break
            if job.output.axis[last - 1] != job.output.axis[last] * length:
                break
            job.shape[last - 1] *= length
            job.grid.axis[last - 1] = job.grid.axis[last]
            job.output.axis[last - 1] = job.output.axis[last]
            last -= 1
        job.rank = last + 1
        self.cut()

    cdef void cut(self) noexcept:
        """Chunks of the output, from the shapes alone."""
        cdef SampleJob* job = &self.job
        cdef int a
        job.columns = job.shape[job.rank - 1]
        job.rows = job.shape[job.rank - 2] if job.rank >= 2 else 1
        job.outer = 1
        for a in range(job.rank - 2):
            job.outer *= job.shape[a]
        job.chunk_columns = max(1, min(job.columns, 512 if job.rows > 1 else CHUNK_PIXELS))
        job.chunk_rows = max(1, min(job.rows, max(4, CHUNK_PIXELS // job.chunk_columns // 4 * 4)))
        job.row_chunks = (job.rows + job.chunk_rows - 1) // job.chunk_rows
        job.column_chunks = (job.columns + job.chunk_columns - 1) // job.chunk_columns

    cdef int64_t pixels(self) noexcept:
        return self.job.outer * self.job.rows * self.job.columns

    cdef int64_t chunks(self, int64_t batch) noexcept:
        return batch * self.job.outer * self.job.row_chunks * self.job.column_chunks

    cdef int64_t share_input(self, int threads) except -1:
        """Cut the gradient to the input into parts for tasks to own; returns how many.

        By images, then by blocks of channels, then by bands of rows: the pixels of the output are
        walked once for each block and band.
        """
        cdef SampleJob* job = &self.job
        job.channel_blocks = 1
        job.bands = 1
        if threads > 1 and job.input_batch < 2 * threads:
            job.channel_blocks = max(1, min(job.channels // 16, 2 * threads))
            if job.input_batch * job.channel_blocks < threads:
                self.share_rows(threads)
        return job.input_batch * job.channel_blocks * job.bands

    cdef int share_rows(self, int threads) except -1:
        """Cut into bands: some per thread if strips of the output reach few rows, else one."""
        cdef SampleJob* job = &self.job
        cdef int64_t chunks = self.chunks(job.grid_batch), i, length = job.size[job.ndim - 1]
        cdef int64_t count = chunks * ((job.chunk_rows + 3) // 4) * ((job.chunk_columns + 63) // 64)
        cdef double reached = 0
        job.reach = <Reach*> calloc(max(1, count), sizeof(Reach))
        if job.reach == NULL:
            raise MemoryError
        self.run(Direction.reach, chunks, threads)
        for i in range(count):
            reached += job.reach[i].high - job.reach[i].low
        job.bands = max(1, min(threads if reached > 0.25 * length * count else 4 * threads, length // 16))
        return 0

    cdef bint whole_images(self) noexcept:
        """Whether each task owns all of an image's gradient, and each grid has one image."""
        cdef SampleJob* job = &self.job
        cdef int64_t pixels = job.channels * job.size[0] * job.size[1]
        # Beyond the nearest caches the two gradients are faster apart.
        return (job.channel_blocks == 1 and job.bands == 1 and job.grid_batch == job.batch
                and pixels < WHOLE_IMAGES_BELOW)

    cdef bint run(self, Direction direction, int64_t count, int threads) noexcept:
        """Whether the level has a body for it, and ran it."""
        cdef SampleChunk body = level.sample(direction, self.job)
        if body == NULL:
            return False
        cdef bint brief = self.job.batch * self.pixels() * self.job.channels < BRIEF_BELOW
        with nogil:
            run_sample(body, &self.job, count, threads, brief)
        return True


cdef int threads_for(int64_t work, int threads) noexcept:
    return 1 if work < PARALLEL_FROM else threads


def grid_sample(input, grid, output, options, int threads):
    cdef Call call = Call()
    call.describe(input, grid, options)
    call.image(&call.job.input, input, False)
    call.samples(output, True)
    cdef int64_t work = call.job.batch * call.pixels() * call.job.channels
    if call.job.channels == 1:
        call.flatten()
    if work:
        call.run(Direction.forward, call.chunks(call.job.batch), threads_for(work, threads))


def grid_sample_jvp(input, grid, d_input, d_grid, d_output, options, int threads):
    cdef Call call = Call()
    call.describe(input, grid, options)
    call.image(&call.job.input, input, False)
    if d_input is not None:
        call.image(&call.job.d_input, d_input, False)
    if d_grid is not None:
        call.grid(&call.job.d_grid, d_grid, False)
    call.samples(d_output, True)
    cdef int64_t work = call.job.batch * call.pixels() * call.job.channels
    if work:
        call.run(Direction.jvp, call.chunks(call.job.batch), threads_for(work, threads))


def grid_sample_vjp(grad_output, input, grid, grad_input, grad_grid, options, int threads):
    """Fills grad_input and grad_grid, either of which may be None."""
    cdef Call call = Call()
    call.describe(input, grid, options)
    call.image(&call.job.input, input, False)
    call.samples(grad_output, False)
    cdef int64_t work = call.job.batch * call.pixels() * call.job.channels
    cdef int used = threads_for(work, threads)
    cdef int64_t parts = 0
    if grad_input is not None:
        call.image(&call.job.grad_input, grad_input, True)
        parts = call.share_input(used)
    if grad_grid is not None:
        call.grid(&call.job.grad_grid, grad_grid, True)
        if parts and call.whole_images() and call.run(Direction.vjp, parts, used):
            return
    if grad_input is not None:
        call.run(Direction.vjp_input, parts, used)
    if grad_grid is not None:
        call.run(Direction.vjp_grid, call.chunks(call.job.grid_batch), used)


cdef class LatticeCall:
    cdef LatticeJob job
    cdef Py_buffer theta, grid, partial

    def __dealloc__(self):
        PyBuffer_Release(&self.theta)
        PyBuffer_Release(&self.grid)
        PyBuffer_Release(&self.partial)

    cdef int describe(self, grid, bint writable, bint align_corners) except -1:
        """`grid` (M, *size, ndim)"""
        cdef LatticeJob* job = &self.job
        cdef int a
        PyObject_GetBuffer(grid, &self.grid, PyBUF_STRIDED if writable else PyBUF_STRIDED_RO)
        job.ndim = self.grid.ndim - 2
        job.count = self.grid.shape[0]
        job.type = Float.f64 if self.grid.itemsize == 8 else Float.f32
        job.align_corners = align_corners
        job.grid = self.grid.buf
        job.grid_matrix = stride_of(&self.grid, 0)
        job.grid_component = stride_of(&self.grid, job.ndim + 1)
        job.rows = 1
        for a in range(job.ndim):
            job.size[a] = self.grid.shape[job.ndim - a]
            job.full[a] = job.size[a]
            job.origin[a] = 0
            job.grid_axis[a] = stride_of(&self.grid, job.ndim - a)
            if a:
                job.rows *= job.size[a]
        job.chunk_rows = max(1, min(job.rows, 2 * CHUNK_PIXELS // max(1, job.size[0])))
        job.row_chunks = (job.rows + job.chunk_rows - 1) // job.chunk_rows
        return 0

    cdef int64_t work(self) noexcept:
        return self.job.count * self.job.rows * self.job.size[0]


def affine_grid(theta, grid, bint align_corners, int threads):
    """theta (M, ndim, ndim + 1) contiguous -> grid (M, *size, ndim)"""
    cdef LatticeCall call = LatticeCall()
    call.describe(grid, True, align_corners)
    PyObject_GetBuffer(theta, &call.theta, PyBUF_STRIDED_RO)
    call.job.theta = call.theta.buf
    cdef LatticeChunk body = level.affine_grid(call.job)
    cdef int used = threads_for(call.work(), threads)
    with nogil:
        run_lattice(body, &call.job, call.job.count * call.job.row_chunks, used)


def affine_grid_row_chunks(grid):
    """How many partial sums affine_grid_vjp makes per matrix."""
    cdef LatticeCall call = LatticeCall()
    call.describe(grid, False, False)
    return call.job.row_chunks


def affine_grid_vjp(grad_grid, partial, bint align_corners, int threads):
    """partial (M, row_chunks, ndim, ndim + 1), double: to be summed over its second axis."""
    cdef LatticeCall call = LatticeCall()
    call.describe(grad_grid, False, align_corners)
    PyObject_GetBuffer(partial, &call.partial, PyBUF_STRIDED)
    call.job.partial = <double*> call.partial.buf
    cdef LatticeChunk body = level.affine_grid_vjp(call.job)
    cdef int used = threads_for(call.work(), threads)
    with nogil:
        run_lattice(body, &call.job, call.job.count * call.job.row_chunks, used)
