"""One call of the sampler: its job, filled from arrays and options, cut into chunks and run."""


cdef class Pass:
    """What a brief call has run, with the job as it was then."""
    cdef SampleJob job
    cdef SampleChunk body
    cdef int64_t count


cdef class Call(Holder):
    """One job of the sampler and the arrays it reads and writes."""
    cdef SampleJob job
    cdef list passes  # None: not kept
    cdef int threads  # that passes were shared out among
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
        if job.batch * self.pixels() >= PARALLEL_FROM and job.rows >= 16:  # each column often, and a quotient
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

    cdef void keep_passes(self, int threads) noexcept:
        """For `Repeat`, if the call is brief."""
        self.passes = [] if self.work() < BRIEF_BELOW else None
        self.threads = threads

    cdef int keep(self, Direction direction, SampleChunk body, int64_t count) except -1:
        """What was run. Memory of the call's own is not kept: values are the same without it, sums are not, and what
        threads share takes longer."""
        cdef Pass kept
        if self.passes is None:
            return 0
        if self.job.scratch != NULL and (direction != Direction.forward or self.work() >= PARALLEL_FROM):
            self.passes = None
            return 0
        if self.job.reach != NULL:
            self.passes = None  # shared out by where coordinates were
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
        cdef bint brief = self.work() < BRIEF_BELOW
        with nogil:
            run_grouped(body, &self.job, matrices, per_matrix, per_group, groups, used, brief)
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
        cdef bint brief = self.work() < BRIEF_BELOW
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


cdef object fill_table(value, const SampleJob* job):
    """Fill values per channel and part, as doubles."""
    values = np.empty(job.channels // job.components, np.complex128 if job.components == 2 else np.float64)
    values[...] = value
    return values.view(np.float64)
