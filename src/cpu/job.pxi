"""What C++ offers: jobs, the chunk bodies that do them, and the levels that have these."""

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
    const int lattice_block
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
        const void* coordinates
        double* partial
        int64_t rows, chunk_rows, row_chunks
    int64_t linear_bytes, streamed_linear_bytes, near_bytes
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
        int streams
    cdef cppclass PointParts:
        int64_t points, size, count
    cdef cppclass FlowJob:
        int64_t count
        int ndim
        int64_t* cells
        PointParts parts
        int64_t steps
        Element type
        const double* start
        const double* field
        const double* d_field
        void* grid
        double* partial
        double* d_partial
    cdef cppclass PiecewiseJob:
        int64_t count
        PointParts parts
        int64_t values
        Element type
        int64_t runs
        const int64_t* start
        const int64_t* followed
        const int64_t* corner
        const void* weight
        const void* base
        const void* value
        void* grid
        double* partial
    const int64_t exponentials_together
    cdef cppclass ExponentialJob:
        int64_t count, rows
        const double* generator
        const double* along
        const double* then
        double* matrix
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
    ctypedef void (*FlowTask)(const FlowJob&, int64_t, void*) noexcept nogil
    ctypedef void (*PiecewiseTask)(const PiecewiseJob&, int64_t) noexcept nogil
    ctypedef void (*ExponentialTask)(const ExponentialJob&, int64_t, void*) noexcept nogil
    cdef struct Level:
        const char* name
        SampleChunk (*sample)(Direction, const SampleJob&) noexcept nogil
        void (*target_columns)(const SampleJob&, void*) noexcept nogil
        int64_t (*scratch)(Direction, const SampleJob&) noexcept nogil
        bint (*walks_rows)(const SampleJob&) noexcept nogil
        bint (*looks_up)(Direction, const SampleJob&) noexcept nogil
        void (*lattice_coordinates)(const LatticeJob&, void*) noexcept nogil
        LatticeChunk (*affine_grid)(const LatticeJob&) noexcept nogil
        LatticeChunk (*affine_grid_vjp)(const LatticeJob&) noexcept nogil
        LatticeChunk (*projective_grid)(const LatticeJob&) noexcept nogil
        LatticeChunk (*projective_grid_vjp)(const LatticeJob&) noexcept nogil
        LinearTask (*linear_grid)(const LinearJob&) noexcept nogil
        LinearTask (*linear_grid_vjp)(const LinearJob&) noexcept nogil
        FlowTask (*flow)(const FlowJob&) noexcept nogil
        FlowTask (*flow_vjp)(const FlowJob&) noexcept nogil
        int64_t (*flow_scratch)(const FlowJob&) noexcept nogil
        PiecewiseTask (*piecewise)(const PiecewiseJob&) noexcept nogil
        PiecewiseTask (*piecewise_vjp)(const PiecewiseJob&) noexcept nogil
        ExponentialTask (*exponential)(const ExponentialJob&) noexcept nogil
        int64_t (*exponential_scratch)(const ExponentialJob&) noexcept nogil
        int64_t (*spline_factors)(const SplineJob&) noexcept nogil
        SplineChunk (*spline_filter)(const SplineJob&) noexcept nogil
        void (*convert)(const ConversionJob&, int64_t, int64_t) noexcept nogil
    const Level* best_level() noexcept
    const Level* find_level(const char*) noexcept
    const char* const* level_names() noexcept
    int64_t bytes_worth_streaming() noexcept
