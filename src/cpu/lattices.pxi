"""Entry points of grids: of matrices, and of parameters times a basis."""


cdef void run_lattice(LatticeChunk body, const LatticeJob* job, int64_t count, int threads) noexcept nogil:
    """Its chunks are all alike: dealt out once."""
    cdef int64_t i
    if threads <= 1 or count <= 1:
        for i in range(count):
            body(job[0], i)
    else:
        for i in prange(count, schedule="static", num_threads=threads):
            body(job[0], i)


cdef class LatticeCall(Holder):
    cdef LatticeJob job
    cdef LatticeChunk body
    cdef object made  # the coordinates that were looked up, or None

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
        # Rows of a chunk share what is made of their columns.
        job.chunk_rows = max(1, min(job.rows, max(16, 2 * CHUNK_PIXELS // max(1, job.size[0]))))
        job.row_chunks = (job.rows + job.chunk_rows - 1) // job.chunk_rows
        return 0

    cdef int matrices(self, theta, d_theta) except -1:
        self.job.theta = cnp.PyArray_DATA(self.hold(theta))
        self.job.d_theta = NULL if d_theta is None else cnp.PyArray_DATA(self.hold(d_theta))
        return 0

    cdef void horizon(self, double least_denominator, bint cull_behind) noexcept:
        self.job.least_denominator = least_denominator
        self.job.cull_behind = cull_behind

    cdef int look_up(self) except -1:
        """Coordinates of columns and rows made once, if many chunks share them: each is a quotient."""
        cdef LatticeJob* job = &self.job
        cdef int64_t points = 0
        cdef int a
        for a in range(job.ndim):
            points += job.size[a]
        if job.count * job.row_chunks == 1 or 8 * points > job.count * job.rows * job.size[0]:
            return 0
        # Whole blocks of columns are read.
        self.made = np.zeros(points + lattice_block, np.float64 if job.type == Element.f64 else np.float32)
        level.lattice_coordinates(job[0], cnp.PyArray_DATA(self.made))
        job.coordinates = cnp.PyArray_DATA(self.made)
        return 0

    cdef int run(self, LatticeChunk body, int threads) except -1:
        cdef const LatticeJob* job = &self.job
        cdef int used = threads_for(job.count * job.rows * job.size[0], threads)
        self.look_up()
        self.body = body
        with nogil:
            run_lattice(body, job, job.count * job.row_chunks, used)
        return 0


cdef class RepeatGrid:
    """A call of `affine_grid`, to be done again on other matrices of the same kind, as `Repeat` does samples."""
    cdef const Level* level
    cdef LatticeChunk body
    cdef LatticeJob job
    cdef Kind theta, grid
    cdef object size, align_corners, made

    @classmethod
    def of(cls, LatticeCall call, theta, size, align_corners, grid):
        """None if the arrays are of kinds that are not repeated."""
        cdef RepeatGrid self
        if not (is_packed(theta) and is_packed(grid)):
            return None
        self = cls()
        self.level = level
        self.body = call.body
        self.job = call.job
        note(&self.theta, theta)
        note(&self.grid, grid)
        self.size, self.align_corners, self.made = size, align_corners, call.made
        return self

    def __call__(self, theta, size, align_corners, out):
        if self.level != level or align_corners is not self.align_corners or not is_of(&self.theta, theta):
            return None
        if not is_size(size, self.size):
            return None
        if out is None:
            grid = fresh(&self.grid)
        elif is_of(&self.grid, out) and cnp.PyArray_ISWRITEABLE(out) and are_apart(out, theta):
            grid = out
        else:
            return None
        cdef LatticeJob job = self.job
        cdef int64_t count = job.count * job.row_chunks, points = job.count * job.rows * job.size[0]
        job.theta = cnp.PyArray_DATA(theta)
        job.grid = cnp.PyArray_DATA(grid)
        cdef int threads
        if points < PARALLEL_FROM:  # handing over the interpreter's lock takes as long
            run_lattice(self.body, &job, count, 1)
        else:
            threads = get_num_threads()
            with nogil:
                run_lattice(self.body, &job, count, threads)
        return grid


def affine_grid(theta, grid, bint align_corners, int threads):
    """theta (M, ndim, ndim + 1) contiguous -> grid (M, *size, ndim). Returns what was done, which `RepeatGrid` can do
    again."""
    cdef LatticeCall call = LatticeCall()
    call.describe(grid, align_corners)
    call.job.theta = cnp.PyArray_DATA(call.hold(theta))
    call.run(level.affine_grid(call.job), threads)
    return call


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

    cdef int describe(self, basis, grid, bint forward) except -1:
        """basis (B, functions, points), grid (M, points, rows), both contiguous."""
        cdef LinearJob* job = &self.job
        cdef cnp.ndarray values = self.hold(basis)
        job.count, job.points, job.rows = grid.shape
        job.functions = cnp.PyArray_DIM(values, 1)
        job.per_basis = job.count // cnp.PyArray_DIM(values, 0)
        job.type = element_of(values)
        job.basis = cnp.PyArray_DATA(values)
        job.grid = cnp.PyArray_DATA(self.hold(grid))
        cdef int64_t number = cnp.PyArray_ITEMSIZE(values)
        job.streams = forward and job.per_basis == 1 and job.functions * job.points * number > near_bytes
        # Chunks of about one size, in whole vectors.
        cdef int64_t most = (streamed_linear_bytes if job.streams else linear_bytes) // number
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
    call.describe(basis, grid, True)
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
    call.describe(basis, grad_grid, False)
    partial = np.empty((call.job.count, call.job.point_chunks, call.job.functions, call.job.rows))
    call.job.partial = <double*> call.doubles(partial)
    call.run(level.linear_grid_vjp(call.job), threads)
    return partial
