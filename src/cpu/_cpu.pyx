# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""Entry points of the CPU kernels: buffers in, jobs filled, chunks run in parallel.

Shapes, dtypes and options have been checked by the time they arrive here; what is checked again is
only what memory safety needs. Chunks have boundaries that follow from the shapes, so nothing
depends on which thread runs which.
"""

cimport cython
cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

from pystn.backends.sums import delivered, rounded

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

cdef extern from "job.hpp" namespace "pystn" nogil:
    const int max_ndim
    const int max_rank
    const int64_t whole_images, whole_channels, whole_pixels
    cdef enum class Element(int):
        f32
        f64
        f16
        bf16
        u8
        i16
        u16
    cdef enum class Direction(int):
        forward
        jvp
        vjp_input
        vjp_grid
        vjp
        reach
        vjp_options
        vjp2_grid
        push
        gradient
        gradient_jvp
        gradient_vjp_grid
    cdef struct ImageArray:
        void* data
        Element type
        int64_t batch
        int64_t channel
        int64_t* axis
    cdef struct SampleArray:
        void* data
        Element type
        int64_t batch
        int64_t channel
        int64_t* axis
        int64_t component
    cdef struct GridArray:
        void* data
        int64_t batch
        int64_t component
        int64_t* axis
    cdef struct MatrixSource:
        int kind
        const double* theta
        const double* d_theta
        int64_t batch
        int64_t* size
        const void* columns
        double least_denominator
        int cull_behind
        double* partial
        int64_t chunks_per_matrix, chunks_per_group
    cdef struct Reach:
        int64_t low
        int64_t high
    cdef struct KernelJob:
        int mode, taps, variant
        double parameter, support
        const double* table
        int64_t parameters
    cdef struct FootprintArray:
        void* data
        int64_t batch, row, column
        int64_t* axis
    cdef cppclass FootprintJob:
        int covariances
        int64_t batch
        FootprintArray footprint, d_footprint, grad_footprint
    cdef cppclass SampleJob:
        int64_t batch, input_batch, grid_batch, output_batch, channels
        int components
        int ndim
        int64_t* size
        int64_t* full
        int64_t* origin
        int rank
        int64_t* shape
        Element grid_type
        int single
        KernelJob* kernel
        int coordinates, subgradient, cutoff
        int* boundary
        const double* fill
        ImageArray input, d_input, grad_input
        GridArray grid, d_grid, grad_grid
        MatrixSource source
        SampleArray output, values, gradient, mask, chosen
        int projected, maximum
        const double* d_fill
        const double** d_kernel
        double* partial
        int64_t groups, partial_row
        const FootprintJob* footprint
        int64_t outer, rows, columns, planes, chunk_rows, chunk_columns, row_chunks, column_chunks
        int64_t stream_from
        int streams
        int64_t channel_blocks, bands
        Reach* reach
        void* scratch
        int64_t scratch_bytes
        int scratch_slots
        unsigned char* scratch_taken
    cdef cppclass LatticeJob:
        int64_t count
        int ndim
        int64_t* size
        int64_t* full
        int64_t* origin
        int align_corners
        Element type
        const void* theta
        const void* d_theta
        double least_denominator
        bint cull_behind
        void* grid
        int64_t grid_matrix
        int64_t* grid_axis
        int64_t grid_component
        double* partial
        int64_t rows, chunk_rows, row_chunks
    int64_t linear_bytes
    cdef cppclass LinearJob:
        int64_t count, per_basis
        int rows
        int64_t functions, points
        Element type
        const void* theta
        int64_t theta_matrix, theta_row, theta_function
        const void* basis
        void* grid
        double* partial
        int64_t chunk_points, point_chunks, chunk_matrices
    cdef cppclass ConversionJob:
        Element type
        int widens
        void* small
        void* wide
    cdef cppclass SplineJob:
        Element type
        int order, boundary, transposed
        int64_t length
        const void* source
        void* target
        int64_t source_step, target_step
        int rank
        int64_t* shape
        int64_t* source_stride
        int64_t* target_stride
        int64_t lines
        int lanes
        int64_t tasks
        double* factors
        double* buffer
    ctypedef void (*SplineChunk)(const SplineJob&, int64_t) noexcept nogil
    ctypedef void (*SampleChunk)(const SampleJob&, int64_t) noexcept nogil
    ctypedef void (*LatticeChunk)(const LatticeJob&, int64_t) noexcept nogil
    ctypedef void (*LinearTask)(const LinearJob&, int64_t) noexcept nogil
    cdef struct Level:
        const char* name
        SampleChunk (*sample)(Direction, const SampleJob&) noexcept nogil
        void (*target_columns)(const SampleJob&, void*) noexcept nogil
        int64_t (*scratch)(Direction, const SampleJob&) noexcept nogil
        bint (*walks_rows)(const SampleJob&) noexcept nogil
        bint (*looks_up)(Direction, const SampleJob&) noexcept nogil
        LatticeChunk (*affine_grid)(const LatticeJob&) noexcept nogil
        LatticeChunk (*affine_grid_vjp)(const LatticeJob&) noexcept nogil
        LatticeChunk (*projective_grid)(const LatticeJob&) noexcept nogil
        LatticeChunk (*projective_grid_vjp)(const LatticeJob&) noexcept nogil
        LinearTask (*linear_grid)(const LinearJob&) noexcept nogil
        LinearTask (*linear_grid_vjp)(const LinearJob&) noexcept nogil
        int64_t (*spline_factors)(const SplineJob&) noexcept nogil
        SplineChunk (*spline_filter)(const SplineJob&) noexcept nogil
        void (*convert)(const ConversionJob&, int64_t, int64_t) noexcept nogil
    const Level* best_level() noexcept
    const Level* find_level(const char*) noexcept
    const char* const* level_names() noexcept
    int64_t bytes_worth_streaming() noexcept


# Below this many pixel-channels a parallel region costs more than it saves.
cdef int64_t PARALLEL_FROM = 16384
# Below this many a job takes less than a millisecond or so.
cdef int64_t BRIEF_BELOW = 1 << 20
cdef int64_t WIDEN_FROM = 1 << 11  # samples, of types that are not the arithmetic's
# Pixels of one chunk, about.
cdef int64_t CHUNK_PIXELS = 8192
# Sums that the gradient to a matrix is added up in, at most.
cdef int64_t GROUPS = 64

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
                      int64_t groups, int threads) noexcept nogil:
    cdef int64_t i
    if threads <= 1:
        for i in range(matrices * groups):
            run_group(body, job, i, per_matrix, per_group, groups)
    else:
        for i in prange(matrices * groups, schedule="dynamic", num_threads=threads):
            run_group(body, job, i, per_matrix, per_group, groups)


cdef void run_lattice(LatticeChunk body, const LatticeJob* job, int64_t count, int threads) noexcept nogil:
    """Its chunks are all alike: dealt out once."""
    cdef int64_t i
    if threads <= 1 or count <= 1:
        for i in range(count):
            body(job[0], i)
    else:
        for i in prange(count, schedule="static", num_threads=threads):
            body(job[0], i)


cdef int64_t stride_of(cnp.ndarray array, int axis, int parts=1) noexcept:
    """Stride in elements, or parts of them; 0 on axes of length 1, whatever they say."""
    if cnp.PyArray_DIM(array, axis) == 1:
        return 0
    return cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array) * parts


cdef bint is_readable(cnp.ndarray array) noexcept:
    """Whether all elements are at multiples of their size."""
    cdef int a, itemsize = <int> cnp.PyArray_ITEMSIZE(array)
    if not cnp.PyArray_ISALIGNED(array):
        return False
    for a in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_STRIDE(array, a) % itemsize:
            return False
    return True


cdef Element element_of(cnp.ndarray array) noexcept:
    """What an array is made of; a complex number is two of its parts."""
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT or number == cnp.NPY_CFLOAT:
        return Element.f32
    if number == cnp.NPY_DOUBLE or number == cnp.NPY_CDOUBLE:
        return Element.f64
    if number == cnp.NPY_FLOAT16:
        return Element.f16
    if number == cnp.NPY_UBYTE:
        return Element.u8
    if number == cnp.NPY_SHORT:
        return Element.i16
    if number == cnp.NPY_USHORT:
        return Element.u16
    return Element.bf16  # the one type that is not NumPy's


cdef int size_of(Element type) noexcept:
    return 8 if type == Element.f64 else 4 if type == Element.f32 else 1 if type == Element.u8 else 2


cdef int parts_of(cnp.ndarray array) noexcept:
    return 2 if cnp.PyArray_ISCOMPLEX(array) else 1


cdef class Holder:
    """Keeps the arrays of a job alive until it is done."""
    cdef list held

    def __cinit__(self):
        self.held = []

    cdef cnp.ndarray hold(self, array):
        """The array, or a copy if it is not aligned: none that is written is like that."""
        cdef cnp.ndarray kept = array
        if not is_readable(kept):
            kept = kept.copy()
        self.held.append(kept)
        return kept

    cdef const double* doubles(self, array) except? NULL:
        """A contiguous array of doubles, or NULL for None."""
        if array is None:
            return NULL
        return <const double*> cnp.PyArray_DATA(self.hold(array))


cdef class Pass:
    """What a brief call has run, with the job as it was then."""
    cdef SampleJob job
    cdef SampleChunk body
    cdef int64_t count


cdef class Call(Holder):
    """One job of the sampler and the arrays it reads and writes."""
    cdef SampleJob job
    cdef list passes  # None: not kept
    cdef bint channels_last
    cdef int inserted  # axis of the job's shape that samples do not have; -1: none

    def __cinit__(self):
        self.inserted = -1
        memset(&self.job, 0, sizeof(SampleJob))

    def __dealloc__(self):
        free(self.job.reach)

    cdef int image(self, ImageArray* to, array) except -1:
        if array is None:
            return 0
        cdef cnp.ndarray pixels = self.hold(array)
        cdef int ndim = self.job.ndim, a, parts = parts_of(pixels)
        to.data = cnp.PyArray_DATA(pixels)
        to.type = element_of(pixels)
        to.batch = stride_of(pixels, 0, parts)
        to.channel = stride_of(pixels, ndim + 1 if self.channels_last else 1, parts)
        for a in range(ndim):
            to.axis[a] = stride_of(pixels, (ndim if self.channels_last else ndim + 1) - a, parts)
        return 0

    cdef int samples(self, SampleArray* to, array, bint channels=True, bint components=False) except -1:
        """Samples (N, C, *shape) or (N, *shape, C), without channels (N, *shape), with components
        one axis more at the end."""
        if array is None:
            return 0
        cdef cnp.ndarray values = self.hold(array)
        cdef int ndim = cnp.PyArray_NDIM(values), parts = parts_of(values)
        cdef int rank = ndim - 1 - channels - components, a, first = 1
        to.data = cnp.PyArray_DATA(values)
        to.type = element_of(values)
        to.batch = stride_of(values, 0, parts)
        if channels:
            to.channel = stride_of(values, rank + 1 if self.channels_last else 1, parts)
            first = 1 if self.channels_last else 2
        for a in range(rank):
            to.axis[a + (0 <= self.inserted <= a)] = stride_of(values, a + first, parts)
        if components:
            to.component = stride_of(values, ndim - 1, parts)
        return 0

    cdef int grid(self, GridArray* to, array) except -1:
        if array is None:
            return 0
        cdef cnp.ndarray coordinates = self.hold(array)
        cdef int rank = cnp.PyArray_NDIM(coordinates) - 2, a
        to.data = cnp.PyArray_DATA(coordinates)
        to.batch = stride_of(coordinates, 0)
        to.component = stride_of(coordinates, rank + 1)
        for a in range(rank):
            to.axis[a] = stride_of(coordinates, a + 1)
        return 0

    cdef int describe(self, tuple image_shape, int64_t batch, grid, options, element) except -1:
        """Sizes and options: of the image that is sampled or pushed to, by its shape and dtype."""
        cdef SampleJob* job = &self.job
        cdef KernelJob* kernel
        cdef int a, spatial
        cdef tuple grid_shape = grid.shape, plan
        cdef bint stored = isinstance(grid, np.ndarray)
        job.ndim = <int> len(image_shape) - 2
        job.rank = <int> len(grid_shape) - 2
        if job.ndim < 1 or job.ndim > max_ndim or job.rank < 0 or job.rank > max_rank:
            raise ValueError(f"no kernel for an image of shape {image_shape} and grid of shape {grid_shape}")
        self.channels_last = options.channel_axis == -1
        spatial = 1 if self.channels_last else 2
        job.input_batch = image_shape[0]
        job.grid_batch = grid_shape[0]
        job.batch = job.output_batch = batch
        job.components = 2 if element in "FD" else 1
        job.channels = image_shape[job.ndim + 1 if self.channels_last else 1] * job.components
        job.grid_type = Element.f64 if grid.itemsize == 8 else Element.f32
        job.single = element not in "dD"
        for a in range(job.ndim):
            job.size[a] = image_shape[spatial + job.ndim - 1 - a]
            job.full[a] = job.size[a]
            job.origin[a] = 0
            plan = options.axis_codes(job.ndim)[a]
            kernel = &job.kernel[a]
            job.boundary[a], kernel.mode, kernel.taps, kernel.variant = plan[:4]
            kernel.parameter, kernel.support, table, kernel.parameters = plan[4:]
            kernel.table = self.doubles(table)
        if not stored and job.ndim == 1:  # a row for each matrix
            self.inserted = job.rank - 1
            job.rank += 1
            job.shape[job.rank - 2] = 1
        for a in range(len(grid_shape) - 2):
            job.shape[a + (0 <= self.inserted <= a)] = grid_shape[a + 1]
        if job.rank == 0:  # one sample: a row of one
            job.rank = 1
            job.shape[0] = 1
        job.coordinates = options.coordinates_code
        job.subgradient = options.subgradient_code
        job.cutoff = options.cutoff_code
        if options.has_fill:
            job.fill = self.doubles(fill_table(options.fill_value, job))
        if stored:
            self.grid(&job.grid, grid)
        self.cut()
        if not stored:
            self.matrices(grid)
        return 0

    cdef void sum_as_placed(self) noexcept:
        """What asks for the positions themselves, which sums of float32 have not if coordinates are of float64, sums in
        their arithmetic."""
        self.job.single = self.job.single and self.job.grid_type == Element.f32

    cdef int matrices(self, coordinates) except -1:
        """Coordinates made from matrices, which are all read as doubles."""
        cdef SampleJob* job = &self.job
        cdef MatrixSource* source = &job.source
        cdef int a
        cdef int64_t count = 1
        cdef cnp.ndarray columns
        source.kind = 2 if coordinates.projective else 1
        source.theta = self.doubles(np.ascontiguousarray(coordinates.theta, np.float64))
        source.least_denominator = coordinates.min_denominator
        source.cull_behind = coordinates.cull_behind
        for a in range(job.ndim):
            source.size[a] = job.shape[job.rank - 1 - a]
        for a in range(job.rank - max(2, job.ndim)):
            count *= job.shape[a]
        source.batch = 0 if job.grid_batch == 1 else count
        source.chunks_per_matrix = max(1, job.outer // job.planes * job.row_chunks * job.column_chunks // max(1, count))
        source.chunks_per_group = (source.chunks_per_matrix + GROUPS - 1) // GROUPS
        if self.pixels() >= PARALLEL_FROM and job.rows >= 16:  # each column often, whose coordinate is a quotient
            wide = not job.single or job.grid_type == Element.f64
            columns = self.hold(np.empty(source.size[0], np.float64 if wide else np.float32))
            level.target_columns(job[0], cnp.PyArray_DATA(columns))
            source.columns = cnp.PyArray_DATA(columns)
        return 0

    cdef int steps(self, grid, d_grid) except -1:
        """The tangent of the coordinates: of the grid, or of the matrices they are made from."""
        if isinstance(grid, np.ndarray):
            return self.grid(&self.job.d_grid, d_grid)
        if d_grid is not None:
            self.job.source.d_theta = self.doubles(np.ascontiguousarray(d_grid, np.float64))
        return 0

    cdef int64_t groups_per_matrix(self) noexcept:
        cdef MatrixSource* source = &self.job.source
        return (source.chunks_per_matrix + source.chunks_per_group - 1) // source.chunks_per_group

    cdef object matrix_sums(self, coordinates):
        """Room for the sums of the gradient to the matrices, by groups of chunks."""
        cdef tuple shape = coordinates.theta.shape
        cdef int last = <int> len(shape) - 2
        partial = np.zeros((*shape[:last], self.groups_per_matrix(), *shape[last:]))
        self.job.source.partial = <double*> self.doubles(partial)
        return partial

    cdef void keep_passes(self) noexcept:
        """For `Repeat`, if the call is brief."""
        self.passes = [] if self.work() < PARALLEL_FROM else None

    cdef int keep(self, Direction direction, SampleChunk body, int64_t count) except -1:
        """What was run. Memory of the call's own is not kept: values are the same without it."""
        cdef Pass kept
        if self.passes is None:
            return 0
        if self.job.scratch != NULL and direction != Direction.forward:
            self.passes = None  # sums are not
            return 0
        kept = Pass()
        kept.job = self.job
        kept.job.scratch = NULL
        kept.body = body if self.job.scratch == NULL else level.sample(direction, kept.job)
        kept.count = count
        self.passes.append(kept)
        return 0

    cdef int run_groups(self, Direction direction, int threads) except -1:
        """A direction whose chunks add to the sums of their group."""
        cdef MatrixSource* source = &self.job.source
        cdef int64_t groups = self.groups_per_matrix()
        cdef int64_t matrices = self.chunks(self.job.grid_batch) // source.chunks_per_matrix
        cdef int64_t per_matrix = source.chunks_per_matrix, per_group = source.chunks_per_group
        cdef int used = threads_for(self.work(), threads)
        self.take_scratch(direction, used)
        cdef SampleChunk body = level.sample(direction, self.job)
        if body == NULL:
            self.refuse(direction)
        with nogil:
            run_grouped(body, &self.job, matrices, per_matrix, per_group, groups, used)
        return self.keep(direction, body, matrices * per_matrix)

    cdef int describe_projection(self, tuple image_shape, int64_t batch, coordinates, options, element) except -1:
        """The same where samples do not have the depth of their lattice."""
        self.describe(image_shape, batch, coordinates, options, element)
        self.inserted = self.job.rank - 3
        self.job.projected = True
        return 0

    cdef void walk_depth(self) noexcept:
        """Chunks of the projection, each of which walks all the depth of its pixels."""
        cdef SampleJob* job = &self.job
        job.planes = job.source.size[2]
        job.chunk_rows = max(1, min(job.rows, max(4, job.chunk_rows // job.planes // 4 * 4)))
        job.row_chunks = (job.rows + job.chunk_rows - 1) // job.chunk_rows

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
            if job.mask.data != NULL and job.mask.axis[last - 1] != job.mask.axis[last] * length:
                break
            if job.grad_grid.data != NULL and job.grad_grid.axis[last - 1] != job.grad_grid.axis[last] * length:
                break
            job.shape[last - 1] *= length
            job.grid.axis[last - 1] = job.grid.axis[last]
            job.output.axis[last - 1] = job.output.axis[last]
            job.mask.axis[last - 1] = job.mask.axis[last]
            job.grad_grid.axis[last - 1] = job.grad_grid.axis[last]
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
        job.planes = 1
        if (job.batch >= whole_images and job.channels >= whole_channels and self.pixels() <= whole_pixels
                and (job.grid.data != NULL or job.rank == max(2, job.ndim))):  # one matrix an image
            job.chunk_columns, job.chunk_rows, job.planes = max(1, job.columns), max(1, job.rows), max(1, job.outer)
        job.row_chunks = (job.rows + job.chunk_rows - 1) // job.chunk_rows
        job.column_chunks = (job.columns + job.chunk_columns - 1) // job.chunk_columns

    cdef int64_t pixels(self) noexcept:
        return self.job.outer * self.job.rows * self.job.columns

    cdef object arithmetic(self):
        """Type of the numbers that are computed with, as pairs if arrays are complex."""
        if self.job.components == 2:
            return np.complex64 if self.job.single else np.complex128
        return np.float32 if self.job.single else np.float64

    cdef bint worth_widening(self, image) noexcept:
        """Whether an image had better be copied in the type of the arithmetic: if it is not far larger than what is
        sampled."""
        cdef int64_t samples = self.work()
        return samples >= WIDEN_FROM and cnp.PyArray_SIZE(image) * self.job.components <= 4 * samples

    cdef int64_t chunks(self, int64_t batch) noexcept:
        return batch * (self.job.outer // self.job.planes) * self.job.row_chunks * self.job.column_chunks

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

    cdef int64_t placements(self) noexcept:
        """Batch of the coordinates, in which samples' places differ."""
        return self.job.grid_batch

    cdef int share_rows(self, int threads) except -1:
        """Cut into bands: some per thread if strips of the output reach few rows, else one."""
        cdef SampleJob* job = &self.job
        cdef int64_t chunks = self.chunks(self.placements()), i, length = job.size[job.ndim - 1]
        cdef int64_t count = chunks * job.planes * ((job.chunk_rows + 3) // 4) * ((job.chunk_columns + 63) // 64)
        cdef double reached = 0
        job.reach = <Reach*> calloc(max(1, count), sizeof(Reach))
        if job.reach == NULL:
            raise MemoryError
        self.must_run(Direction.reach, chunks, threads)
        for i in range(count):
            reached += job.reach[i].high - job.reach[i].low
        job.bands = max(1, min(threads if reached > 0.25 * length * count else 4 * threads, length // 16))
        return 0

    cdef bint whole_images(self) noexcept:
        """Whether each task owns all of an image's gradient, and each grid has one image."""
        cdef SampleJob* job = &self.job
        return job.channel_blocks == 1 and job.bands == 1 and job.grid_batch == job.batch

    cdef int64_t bytes_written(self, Direction direction) noexcept:
        """By a direction that writes the output, or the grid's gradient; of others 0."""
        cdef SampleJob* job = &self.job
        if direction == Direction.forward or direction == Direction.jvp:
            return self.work() * size_of(job.output.type)
        if direction == Direction.vjp_grid or direction == Direction.vjp:
            return job.grid_batch * self.pixels() * job.ndim * size_of(job.grid_type)
        return 0

    cdef int take_scratch(self, Direction direction, int threads) except -1:
        """Scratch memory for the tasks of so many threads, if the level makes use of it."""
        cdef SampleJob* job = &self.job
        cdef int64_t size = level.scratch(direction, self.job)
        job.scratch = NULL
        if size == 0:
            return 0
        size = (size + 63) // 64 * 64
        memory = self.hold(np.empty(threads * size + 63, np.uint8))
        taken = self.hold(np.zeros(threads, np.uint8))
        job.scratch = <void*> ((<size_t> cnp.PyArray_DATA(memory) + 63) // 64 * 64)
        job.scratch_taken = <unsigned char*> cnp.PyArray_DATA(taken)
        job.scratch_bytes = size
        job.scratch_slots = threads
        return 0

    cdef bint run(self, Direction direction, int64_t count, int threads) except -1:
        """Whether the level has a body for it, and ran it."""
        self.job.stream_from = STREAM_FROM
        self.job.streams = self.bytes_written(direction) >= STREAM_FROM
        self.take_scratch(direction, threads)
        cdef SampleChunk body = level.sample(direction, self.job)
        if body == NULL:
            return False
        cdef bint brief = self.job.batch * self.pixels() * self.job.channels < BRIEF_BELOW
        with nogil:
            run_sample(body, &self.job, count, threads, brief)
        self.keep(direction, body, count)
        return True

    cdef int must_run(self, Direction direction, int64_t count, int threads) except -1:
        if not self.run(direction, count, threads):
            self.refuse(direction)
        return 0

    cdef int refuse(self, Direction direction) except -1:
        raise RuntimeError(f"no kernel of level {level.name.decode()} for direction {<int> direction}")

    cdef int64_t work(self) noexcept:
        return self.job.batch * self.pixels() * self.job.channels

    cdef int run_chunks(self, Direction direction, int64_t batch, int threads) except -1:
        """A direction that writes the output's pixels, or the grid's."""
        return self.must_run(direction, self.chunks(batch), threads_for(self.work(), threads))

    cdef int run_parts(self, Direction direction, int threads) except -1:
        """A direction that adds to an image."""
        cdef int used = threads_for(self.work(), threads)
        cdef int64_t parts = self.share_input(used)
        return self.must_run(direction, parts, used)


cdef int threads_for(int64_t work, int threads) noexcept:
    return 1 if work < PARALLEL_FROM else threads


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
    wide = np.empty_like(array, number, subok=False)
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


cdef object fill_table(value, const SampleJob* job):
    """Fill values per channel and part, as doubles."""
    values = np.empty(job.channels // job.components, np.complex128 if job.components == 2 else np.float64)
    values[...] = value
    return values.view(np.float64)


def grid_sample(input, grid, output, mask, options, int threads):
    """`output` may have the batch 1, and then receives the sum over it. Returns what was done, which
    `Repeat` can do again."""
    cdef Call call = Call()
    cdef int64_t batch = max(input.shape[0], grid.shape[0]) if input.shape[0] and grid.shape[0] else 0
    call.describe(input.shape, batch, grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.samples(&call.job.output, output)
    call.samples(&call.job.mask, mask, channels=False)
    call.job.output_batch = output.shape[0]
    if level.looks_up(Direction.forward, call.job) and call.worth_widening(input):
        sums = np.empty_like(output, call.arithmetic())
        grid_sample(widened(input, sums.dtype, threads), grid, sums, mask, options, threads)
        put_narrowed(sums, output, threads)
        return call
    if isinstance(grid, np.ndarray) and not level.walks_rows(call.job):
        call.flatten()
    call.keep_passes()
    call.run_chunks(Direction.forward, call.job.output_batch, threads)
    return call


cdef int MAX_AXES = 8  # of the arrays of calls that are repeated
cdef int MAX_ENTRIES = 256  # of their matrices


cdef bint is_packed(cnp.ndarray array) noexcept:
    if not cnp.PyArray_CheckExact(array) or cnp.PyArray_NDIM(array) > MAX_AXES:
        return False
    return cnp.PyArray_ISCARRAY_RO(array)


cdef struct Kind:
    int ndim, type
    cnp.npy_intp shape[8]


cdef void note(Kind* kind, cnp.ndarray array) noexcept:
    cdef int a
    kind.ndim = cnp.PyArray_NDIM(array)
    kind.type = cnp.PyArray_TYPE(array)
    for a in range(kind.ndim):
        kind.shape[a] = cnp.PyArray_DIM(array, a)


cdef bint is_of(const Kind* kind, object array) noexcept:
    """Whether an array is packed and of a type and shape noted before."""
    cdef int a
    if not cnp.PyArray_CheckExact(array):
        return False
    if cnp.PyArray_NDIM(array) != kind.ndim or cnp.PyArray_TYPE(array) != kind.type:
        return False
    for a in range(kind.ndim):
        if cnp.PyArray_DIM(array, a) != kind.shape[a]:
            return False
    return cnp.PyArray_ISCARRAY_RO(array)


cdef object fresh(const Kind* kind):
    return cnp.PyArray_EMPTY(kind.ndim, kind.shape, kind.type, 0)


cdef class Repeat:
    """A brief call, to be done again on other arrays of the same kinds: what depends on their types and
    shapes has been checked and resolved. Arrays of another kind get None for an answer."""
    cdef const Level* level
    cdef list passes
    cdef Kind input, source, samples
    cdef object size, tables

    @classmethod
    def of(cls, Call call, input, source, size, samples, *written):
        """`source` is the grid, or the matrices for samples of a `size`. None if the call is of a kind
        that is not repeated."""
        cdef Repeat self
        if not call.passes or cnp.PyArray_SIZE(source) > MAX_ENTRIES and size is not None:
            return None
        if not (is_packed(input) and is_packed(source) and is_packed(samples)) or element_of(samples) == Element.bf16:
            return None
        self = cls()
        self.level = level
        self.passes = call.passes
        note(&self.input, input)
        note(&self.source, source)
        note(&self.samples, samples)
        self.size = size
        arrays = {id(array) for array in (input, source, samples, *written)}
        self.tables = [held for held in call.held if id(held) not in arrays]
        return self

    def __call__(self, input, source, size):
        if not self.takes(input, source, size):
            return None
        output = fresh(&self.samples)
        with cython.critical_section(self):  # nobody else changes the jobs before they are done
            self.run(input, source, output, None, None)
        return output

    cdef bint takes(self, input, source, size) except -1:
        if self.level != level or not is_of(&self.input, input) or not is_of(&self.source, source):
            return False
        return size is None and self.size is None or type(size) is tuple and self.size == size

    cdef void run(self, cnp.ndarray input, cnp.ndarray source, cnp.ndarray samples, cnp.ndarray grad_input,
                  cnp.ndarray grad_source) noexcept:
        """Passes see the arrays that they saw the first time."""
        cdef double matrices[256]
        cdef double sums[256]
        cdef int64_t i, entries = cnp.PyArray_SIZE(source)
        cdef bint made = self.size is not None
        cdef Pass one
        cdef SampleJob* job
        if made:
            for i in range(entries):
                sums[i] = 0
                if self.source.type == cnp.NPY_DOUBLE:
                    matrices[i] = (<double*> cnp.PyArray_DATA(source))[i]
                else:
                    matrices[i] = (<float*> cnp.PyArray_DATA(source))[i]
        for one in self.passes:
            job = &one.job
            job.output.data = cnp.PyArray_DATA(samples)
            if job.input.data != NULL:
                job.input.data = cnp.PyArray_DATA(input)
            if job.grad_input.data != NULL:
                job.grad_input.data = cnp.PyArray_DATA(grad_input)
            if made:
                job.source.theta = matrices
                if job.source.partial != NULL:
                    job.source.partial = sums
            else:
                job.grid.data = cnp.PyArray_DATA(source)
                if job.grad_grid.data != NULL:
                    job.grad_grid.data = cnp.PyArray_DATA(grad_source)
            for i in range(one.count):
                one.body(job[0], i)
        if made and grad_source is not None:
            for i in range(entries):
                if self.source.type == cnp.NPY_DOUBLE:
                    (<double*> cnp.PyArray_DATA(grad_source))[i] = sums[i]
                else:
                    (<float*> cnp.PyArray_DATA(grad_source))[i] = <float> sums[i]


cdef class RepeatVjp(Repeat):
    """The same of gradients to the input and to the source, None where not wanted."""
    cdef bint to_input, to_source

    @classmethod
    def of(cls, Call call, input, source, size, grad_output, grad_input, grad_source):
        cdef RepeatVjp self
        if cnp.PyArray_TYPE(input) != cnp.NPY_FLOAT and cnp.PyArray_TYPE(input) != cnp.NPY_DOUBLE:
            return None
        if size is not None and grad_source is not None and call.groups_per_matrix() != 1:
            return None  # there are sums of sums
        self = super().of(call, input, source, size, grad_output, grad_input, grad_source)
        if self is not None:
            self.to_input = grad_input is not None
            self.to_source = grad_source is not None
        return self

    def __call__(self, grad_output, input, source, size):
        if not self.takes(input, source, size) or not is_of(&self.samples, grad_output):
            return None
        grad_input = fresh(&self.input) if self.to_input else None
        grad_source = fresh(&self.source) if self.to_source else None
        with cython.critical_section(self):
            self.run(input, source, grad_output, grad_input, grad_source)
        return grad_input, grad_source


def project(input, coordinates, output, chosen, options, int threads):
    """Sums of samples along the depth of their lattice; or the largest, and `chosen`, int32, says which."""
    cdef Call call = Call()
    call.describe_projection(input.shape, output.shape[0], coordinates, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.samples(&call.job.output, output)
    call.samples(&call.job.chosen, chosen)
    call.job.maximum = chosen is not None
    call.walk_depth()
    call.run_chunks(Direction.forward, call.job.batch, threads)


def project_jvp(input, coordinates, d_input, d_theta, d_output, chosen, options, int threads):
    """`chosen` as filled by `project`, or None for sums."""
    cdef Call call = Call()
    call.describe_projection(input.shape, d_output.shape[0], coordinates, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.image(&call.job.d_input, d_input)
    call.steps(coordinates, d_theta)
    call.samples(&call.job.output, d_output)
    call.samples(&call.job.chosen, chosen)
    call.walk_depth()
    call.run_chunks(Direction.jvp, call.job.batch, threads)


def project_vjp(grad_output, input, coordinates, grad_input, bint to_matrices, chosen, options, int threads):
    """Fills grad_input unless it is None; returns the sums for the matrices if they are wanted."""
    cdef Call call = Call()
    call.describe_projection(input.shape, grad_output.shape[0], coordinates, options, input.dtype.char)
    call.samples(&call.job.output, grad_output)
    call.samples(&call.job.chosen, chosen)
    partial = call.matrix_sums(coordinates) if to_matrices else None
    cdef int used = threads_for(call.work(), threads)
    cdef int64_t parts
    if grad_input is not None:
        call.image(&call.job.grad_input, grad_input)
        parts = call.share_input(used)
        if to_matrices and call.whole_images():
            call.image(&call.job.input, input)
            if call.run(Direction.vjp, parts, used):
                return partial.sum(axis=-3)
            call.job.input.data = NULL  # not read
        call.must_run(Direction.vjp_input, parts, used)
        call.job.grad_input.data = NULL
    if not to_matrices:
        return None
    call.image(&call.job.input, input)
    call.run_groups(Direction.vjp_grid, threads)
    return partial.sum(axis=-3)


def grid_sample_jvp(input, grid, d_input, d_grid, d_fill, d_kernel, d_output, d_mask, options, int threads):
    cdef Call call = Call()
    cdef int a
    call.describe(input.shape, d_output.shape[0], grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.image(&call.job.d_input, d_input)
    call.steps(grid, d_grid)
    if d_fill is not None:
        call.job.d_fill = call.doubles(fill_table(d_fill, &call.job))
    for a in range(call.job.ndim):
        call.job.d_kernel[a] = call.doubles(d_kernel[a])
        if d_kernel[a] is not None:
            call.sum_as_placed()
    call.samples(&call.job.output, d_output)
    call.samples(&call.job.mask, d_mask, channels=False)
    if level.looks_up(Direction.jvp, call.job) and call.worth_widening(input):
        sums = np.empty_like(d_output, call.arithmetic())
        grid_sample_jvp(widened(input, sums.dtype, threads), grid, widened(d_input, sums.dtype, threads), d_grid,
                        d_fill, d_kernel, sums, d_mask, options, threads)
        put_narrowed(sums, d_output, threads)
        return
    call.run_chunks(Direction.jvp, call.job.batch, threads)


def grid_sample_vjp(grad_output, grad_mask, input, grid, grad_input, grad_grid, bint to_matrices, options,
                    int threads):
    """Fills grad_input and grad_grid, either of which may be None. Returns what was done, which `RepeatVjp`
    can do again, and the sums for the matrices that the coordinates are made from, if these are wanted."""
    cdef Call call = Call()
    call.describe(input.shape, grad_output.shape[0], grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.samples(&call.job.output, grad_output)
    call.samples(&call.job.mask, grad_mask, channels=False)
    call.image(&call.job.grad_input, grad_input)
    call.grid(&call.job.grad_grid, grad_grid)
    if level.looks_up(Direction.vjp, call.job) and call.worth_widening(input):
        number = np.dtype(call.arithmetic())
        sums = grad_input if grad_input is None or grad_input.dtype == number else np.empty_like(grad_input, number)
        _, partial = grid_sample_vjp(widened(grad_output, number, threads), grad_mask, widened(input, number, threads),
                                     grid, sums, grad_grid, to_matrices, options, threads)
        if sums is not grad_input:
            put_narrowed(sums, grad_input, threads)
        return call, partial
    partial = call.matrix_sums(grid) if to_matrices else None
    cdef bint to_grid = to_matrices or grad_grid is not None
    cdef int used = threads_for(call.work(), threads)
    cdef int64_t parts
    cdef void* pixels = call.job.input.data
    cdef void* mask = call.job.mask.data
    cdef const double* fill = call.job.fill
    call.keep_passes()
    if grad_input is not None:
        parts = call.share_input(used)
        if to_grid and call.whole_images() and call.run(Direction.vjp, parts, used):
            return call, partial.sum(axis=-3) if to_matrices else None
        call.job.input.data = call.job.mask.data = NULL  # not read
        call.job.fill = NULL
        call.must_run(Direction.vjp_input, parts, used)
    call.job.input.data = pixels
    call.job.mask.data = mask
    call.job.fill = fill
    call.job.grad_input.data = NULL
    if to_matrices:
        call.run_groups(Direction.vjp_grid, threads)
        return call, partial.sum(axis=-3)
    if to_grid:
        if isinstance(grid, np.ndarray) and not level.walks_rows(call.job):
            call.flatten()
        call.run_chunks(Direction.vjp_grid, call.job.grid_batch, threads)
    return call, None


def grid_sample_vjp_options(grad_output, grad_mask, input, grid, partial, options, int threads):
    """Partial sums (groups, channels + parameters), double, of the gradients to the options."""
    cdef Call call = Call()
    call.describe(input.shape, grad_output.shape[0], grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.samples(&call.job.output, grad_output)
    call.samples(&call.job.mask, grad_mask, channels=False)
    call.job.partial = <double*> call.doubles(partial)
    call.job.groups, call.job.partial_row = partial.shape
    call.sum_as_placed()
    call.must_run(Direction.vjp_options, call.job.groups, threads_for(call.work(), threads))


def grid_sample_vjp2_grid(gg_input, gg_grid, grad_output, grad_mask, input, grid, grad_grid, options, int threads):
    cdef Call call = Call()
    call.describe(input.shape, grad_output.shape[0], grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.image(&call.job.d_input, gg_input)
    call.grid(&call.job.d_grid, gg_grid)
    call.samples(&call.job.output, grad_output)
    call.samples(&call.job.mask, grad_mask, channels=False)
    call.grid(&call.job.grad_grid, grad_grid)
    if level.looks_up(Direction.vjp2_grid, call.job) and call.worth_widening(input):
        number = call.arithmetic()
        grid_sample_vjp2_grid(widened(gg_input, number, threads), gg_grid, widened(grad_output, number, threads),
                              grad_mask, widened(input, number, threads), grid, grad_grid, options, threads)
        return
    call.run_chunks(Direction.vjp2_grid, call.job.grid_batch, threads)


def grid_push(values, along, gradient, grid, d_grid, image, int64_t batch, options, int threads):
    """image += values w + along d_grid_a w_a + gradient_a w_a; any of the three may be None.

    `batch` is that of the samples; an image of batch 1 receives the sum over it.
    """
    cdef Call call = Call()
    given = values if values is not None else along if along is not None else gradient
    call.describe(image.shape, batch, grid, options, given.dtype.char)
    call.image(&call.job.grad_input, image)
    call.samples(&call.job.output, values)
    call.samples(&call.job.values, along)
    call.samples(&call.job.gradient, gradient, channels=True, components=True)
    call.grid(&call.job.d_grid, d_grid)
    if level.looks_up(Direction.push, call.job) and call.worth_widening(image):
        number = np.dtype(call.arithmetic())
        sums = image if image.dtype == number else np.empty_like(image, number)
        grid_push(widened(values, number, threads), widened(along, number, threads), widened(gradient, number, threads),
                  grid, d_grid, sums, batch, options, threads)
        if sums is not image:
            put_narrowed(sums, image, threads)
        return
    if along is None and gradient is None:
        call.run_parts(Direction.vjp_input, threads)
    else:
        call.run_parts(Direction.push, threads)


def grid_gradient(input, grid, gradient, options, int threads):
    cdef Call call = Call()
    call.describe(input.shape, gradient.shape[0], grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.samples(&call.job.gradient, gradient, channels=True, components=True)
    call.run_chunks(Direction.gradient, call.job.batch, threads)


def grid_gradient_jvp(input, grid, d_input, d_grid, d_gradient, options, int threads):
    cdef Call call = Call()
    call.describe(input.shape, d_gradient.shape[0], grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.image(&call.job.d_input, d_input)
    call.grid(&call.job.d_grid, d_grid)
    call.samples(&call.job.gradient, d_gradient, channels=True, components=True)
    call.run_chunks(Direction.gradient_jvp, call.job.batch, threads)


def grid_gradient_vjp_grid(grad_gradient, input, grid, grad_grid, options, int threads):
    cdef Call call = Call()
    call.describe(input.shape, grad_gradient.shape[0], grid, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.samples(&call.job.gradient, grad_gradient, channels=True, components=True)
    call.grid(&call.job.grad_grid, grad_grid)
    call.run_chunks(Direction.gradient_vjp_grid, call.job.grid_batch, threads)


cdef class FootprintCall(Call):
    """A job whose kernels are stretched over footprints."""
    cdef FootprintJob feet

    cdef int describe_footprints(self, tuple image_shape, int64_t batch, grid, footprint, options,
                                 element) except -1:
        self.describe(image_shape, batch, grid, options, element)
        memset(&self.feet, 0, sizeof(FootprintJob))
        self.job.footprint = &self.feet
        self.sum_as_placed()
        self.feet.covariances = footprint.ndim == grid.ndim + 1
        self.feet.batch = footprint.shape[0]
        if footprint.shape[1:-1 if self.feet.covariances else None] != grid.shape[1:]:
            raise ValueError(f"no kernel for grid and footprint of shapes {grid.shape} and {footprint.shape}")
        self.footprints(&self.feet.footprint, footprint)
        return 0

    cdef int footprints(self, FootprintArray* to, array) except -1:
        if array is None:
            return 0
        if array.dtype.itemsize != size_of(self.job.grid_type):
            raise ValueError(f"footprints must have the dtype of the grid, got {array.dtype}")
        cdef cnp.ndarray given = self.hold(array)
        cdef int ndim = cnp.PyArray_NDIM(given), last = ndim - 1 - self.feet.covariances, a
        to.data = cnp.PyArray_DATA(given)
        to.batch = stride_of(given, 0)
        to.row = stride_of(given, last)
        to.column = stride_of(given, ndim - 1) if self.feet.covariances else 0
        for a in range(last - 1):
            to.axis[a] = stride_of(given, a + 1)
        return 0

    cdef int64_t placements(self) noexcept:
        return self.job.batch if self.feet.batch == self.job.batch else self.job.grid_batch

    cdef int64_t separate(self) noexcept:
        """Batch of the gradients to grid and footprint: 1 if either is a sum over it."""
        cdef int64_t batch = self.job.batch
        return batch if self.job.grid_batch == batch and self.feet.batch == batch else 1


def footprint_sample(input, grid, footprint, output, mask, options, int threads):
    cdef FootprintCall call = FootprintCall()
    call.describe_footprints(input.shape, output.shape[0], grid, footprint, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.samples(&call.job.output, output)
    call.samples(&call.job.mask, mask, channels=False)
    call.run_chunks(Direction.forward, call.job.batch, threads)


def footprint_sample_jvp(input, grid, footprint, d_input, d_grid, d_footprint, d_output, d_mask, options, int threads):
    cdef FootprintCall call = FootprintCall()
    call.describe_footprints(input.shape, d_output.shape[0], grid, footprint, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.image(&call.job.d_input, d_input)
    call.grid(&call.job.d_grid, d_grid)
    call.footprints(&call.feet.d_footprint, d_footprint)
    call.samples(&call.job.output, d_output)
    call.samples(&call.job.mask, d_mask, channels=False)
    call.run_chunks(Direction.jvp, call.job.batch, threads)


def footprint_sample_vjp(grad_output, grad_mask, input, grid, footprint, grad_input, grad_grid, grad_footprint, options,
                         int threads):
    """Fills the gradients, any of which may be None."""
    cdef FootprintCall call = FootprintCall()
    call.describe_footprints(input.shape, grad_output.shape[0], grid, footprint, options, input.dtype.char)
    call.samples(&call.job.output, grad_output)
    if grad_input is not None:
        call.image(&call.job.grad_input, grad_input)
        call.run_parts(Direction.vjp_input, threads)
    if grad_grid is not None or grad_footprint is not None:
        call.image(&call.job.input, input)
        call.samples(&call.job.mask, grad_mask, channels=False)
        call.grid(&call.job.grad_grid, grad_grid)
        call.footprints(&call.feet.grad_footprint, grad_footprint)
        call.run_chunks(Direction.vjp_grid, call.separate(), threads)


def footprint_sample_vjp2(gg_input, gg_grid, gg_footprint, grad_output, grad_mask, input, grid, footprint, grad_grid,
                          grad_footprint, options, int threads):
    """Fills the gradients of second order to grid and footprint, either of which may be None."""
    cdef FootprintCall call = FootprintCall()
    call.describe_footprints(input.shape, grad_output.shape[0], grid, footprint, options, input.dtype.char)
    call.image(&call.job.input, input)
    call.image(&call.job.d_input, gg_input)
    call.grid(&call.job.d_grid, gg_grid)
    call.footprints(&call.feet.d_footprint, gg_footprint)
    call.samples(&call.job.output, grad_output)
    call.samples(&call.job.mask, grad_mask, channels=False)
    call.grid(&call.job.grad_grid, grad_grid)
    call.footprints(&call.feet.grad_footprint, grad_footprint)
    call.run_chunks(Direction.vjp2_grid, call.separate(), threads)


def footprint_push(values, grid, d_grid, footprint, d_footprint, image, options, int threads):
    """image += values times the derivative of the weights along d_grid and d_footprint, either of which may be None."""
    cdef FootprintCall call = FootprintCall()
    call.describe_footprints(image.shape, values.shape[0], grid, footprint, options, values.dtype.char)
    call.image(&call.job.grad_input, image)
    call.samples(&call.job.output, values)
    call.grid(&call.job.d_grid, d_grid)
    call.footprints(&call.feet.d_footprint, d_footprint)
    call.run_parts(Direction.push, threads)


cdef class LatticeCall(Holder):
    cdef LatticeJob job

    cdef int describe(self, array, bint align_corners) except -1:
        """A grid (M, *size, ndim)."""
        cdef LatticeJob* job = &self.job
        cdef cnp.ndarray grid = self.hold(array)
        cdef int a
        job.ndim = cnp.PyArray_NDIM(grid) - 2
        job.count = cnp.PyArray_DIM(grid, 0)
        job.type = element_of(grid)
        job.align_corners = align_corners
        job.grid = cnp.PyArray_DATA(grid)
        job.grid_matrix = stride_of(grid, 0)
        job.grid_component = stride_of(grid, job.ndim + 1)
        job.rows = 1
        for a in range(job.ndim):
            job.size[a] = cnp.PyArray_DIM(grid, job.ndim - a)
            job.full[a] = job.size[a]
            job.origin[a] = 0
            job.grid_axis[a] = stride_of(grid, job.ndim - a)
            if a:
                job.rows *= job.size[a]
        job.chunk_rows = max(1, min(job.rows, 2 * CHUNK_PIXELS // max(1, job.size[0])))
        job.row_chunks = (job.rows + job.chunk_rows - 1) // job.chunk_rows
        return 0

    cdef int matrices(self, theta, d_theta) except -1:
        self.job.theta = cnp.PyArray_DATA(self.hold(theta))
        self.job.d_theta = NULL if d_theta is None else cnp.PyArray_DATA(self.hold(d_theta))
        return 0

    cdef void horizon(self, double least_denominator, bint cull_behind) noexcept:
        self.job.least_denominator = least_denominator
        self.job.cull_behind = cull_behind

    cdef void run(self, LatticeChunk body, int threads) noexcept:
        cdef const LatticeJob* job = &self.job
        cdef int used = threads_for(job.count * job.rows * job.size[0], threads)
        with nogil:
            run_lattice(body, job, job.count * job.row_chunks, used)


def affine_grid(theta, grid, bint align_corners, int threads):
    """theta (M, ndim, ndim + 1) contiguous -> grid (M, *size, ndim)"""
    cdef LatticeCall call = LatticeCall()
    call.describe(grid, align_corners)
    call.job.theta = cnp.PyArray_DATA(call.hold(theta))
    call.run(level.affine_grid(call.job), threads)


def lattice_row_chunks(grid):
    """How many partial sums the gradients to a matrix of a grid (M, *size, ndim) are."""
    cdef LatticeCall call = LatticeCall()
    call.describe(grid, False)
    return call.job.row_chunks


def affine_grid_vjp(grad_grid, partial, bint align_corners, int threads):
    """partial (M, row_chunks, ndim, ndim + 1), double: to be summed over its second axis."""
    cdef LatticeCall call = LatticeCall()
    call.describe(grad_grid, align_corners)
    call.job.partial = <double*> call.doubles(partial)
    call.run(level.affine_grid_vjp(call.job), threads)


def projective_grid(theta, d_theta, grid, bint align_corners, double least_denominator, bint cull_behind, int threads):
    """theta (M, 3, 3) contiguous -> grid (M, *size, 2); its tangent if d_theta is not None."""
    cdef LatticeCall call = LatticeCall()
    call.describe(grid, align_corners)
    call.matrices(theta, d_theta)
    call.horizon(least_denominator, cull_behind)
    call.run(level.projective_grid(call.job), threads)


def projective_grid_vjp(grad_grid, theta, gg_theta, partial, bint align_corners, double least_denominator,
                        bint cull_behind, int threads):
    """partial (M, row_chunks, 3, 3), double: to be summed over its second axis. The gradient to theta, or of what
    has the cotangent gg_theta if that is not None."""
    cdef LatticeCall call = LatticeCall()
    call.describe(grad_grid, align_corners)
    call.matrices(theta, gg_theta)
    call.horizon(least_denominator, cull_behind)
    call.job.partial = <double*> call.doubles(partial)
    call.run(level.projective_grid_vjp(call.job), threads)


cdef class LinearCall(Holder):
    cdef LinearJob job

    cdef int describe(self, basis, grid) except -1:
        """basis (B, functions, points), grid (M, points, rows), both contiguous."""
        cdef LinearJob* job = &self.job
        cdef cnp.ndarray values = self.hold(basis)
        job.count, job.points, job.rows = grid.shape
        job.functions = cnp.PyArray_DIM(values, 1)
        job.per_basis = job.count // cnp.PyArray_DIM(values, 0)
        job.type = element_of(values)
        job.basis = cnp.PyArray_DATA(values)
        job.grid = cnp.PyArray_DATA(self.hold(grid))
        # Chunks of about one size, in whole vectors.
        cdef int64_t most = linear_bytes // cnp.PyArray_ITEMSIZE(values)
        cdef int64_t chunks = max(1, (job.points + most - 1) // most)
        job.chunk_points = max(16, ((job.points + chunks - 1) // chunks + 15) // 16 * 16)
        job.point_chunks = (job.points + job.chunk_points - 1) // job.chunk_points
        job.chunk_matrices = 32  # so many read a piece of the basis while it is in a near cache
        return 0

    cdef void run(self, LinearTask body, int threads) noexcept:
        cdef const LinearJob* job = &self.job
        cdef int64_t bases = job.count // job.per_basis
        cdef int64_t blocks = (job.per_basis + job.chunk_matrices - 1) // job.chunk_matrices
        cdef int64_t tasks = bases * blocks * job.point_chunks, i
        cdef int used = threads_for(job.count * job.points * job.functions // 4, threads)
        with nogil:
            if used == 1:
                for i in range(tasks):
                    body(job[0], i)
            else:
                for i in prange(tasks, schedule="dynamic", num_threads=used):
                    body(job[0], i)


def linear_grid(theta, basis, grid, int threads):
    """theta (M, rows, functions), of any strides."""
    cdef LinearCall call = LinearCall()
    call.describe(basis, grid)
    cdef cnp.ndarray matrices = call.hold(theta)
    call.job.theta = cnp.PyArray_DATA(matrices)
    call.job.theta_matrix = stride_of(matrices, 0)
    call.job.theta_row = stride_of(matrices, 1)
    call.job.theta_function = stride_of(matrices, 2)
    call.run(level.linear_grid(call.job), threads)


def linear_grid_vjp(grad_grid, basis, int threads):
    """Partial sums (M, chunks, functions, rows), double, of the gradient to theta: to be summed over their second
    axis."""
    cdef LinearCall call = LinearCall()
    call.describe(basis, grad_grid)
    partial = np.empty((call.job.count, call.job.point_chunks, call.job.functions, call.job.rows))
    call.job.partial = <double*> call.doubles(partial)
    call.run(level.linear_grid_vjp(call.job), threads)
    return partial


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
