"""Entry points of maps that are affine in each of some cells, and of flows of such velocities."""

# Points of a field or map that a task has, at least.
cdef int64_t TASK_POINTS = 1024


cdef int64_t points_of_sums(int64_t points, int64_t values) noexcept:
    """Of a task that adds up so many values: sums of all tasks are less than what is added up, and few."""
    return max(TASK_POINTS, max(values, (points + GROUPS - 1) // GROUPS))


cdef class FlowCall(Holder):
    cdef FlowJob job

    cdef int describe(self, start, field, d_field, grid, cells, int64_t steps) except -1:
        """All arrays contiguous: start (points, ndim), field and its tangent of each of M, grid (M, points, ndim)."""
        cdef FlowJob* job = &self.job
        cdef int a
        cdef cnp.ndarray made = self.hold(grid)
        job.count, job.points, job.ndim = grid.shape
        job.type = element_of(made)
        job.grid = cnp.PyArray_DATA(made)
        for a in range(job.ndim):
            job.cells[a] = cells[a]
        job.steps = steps
        job.start = self.doubles(start)
        job.field = self.doubles(field)
        job.d_field = self.doubles(d_field)
        return 0

    cdef void deal(self, int64_t chunk_points) noexcept:
        self.job.chunk_points = chunk_points
        self.job.chunks = (self.job.points + chunk_points - 1) // chunk_points

    cdef int run(self, FlowBody body, int64_t scratch, int threads) except -1:
        cdef const FlowJob* job = &self.job
        cdef int64_t tasks = job.count * job.chunks, i
        cdef int used = threads_for(job.count * job.points * job.steps, threads)
        cdef cnp.ndarray memory = np.empty(used * scratch, np.uint8)
        cdef char* own = cnp.PyArray_BYTES(memory)
        with nogil:
            if used == 1:
                for i in range(tasks):
                    body(job[0], i, own)
            else:
                for i in prange(tasks, schedule="dynamic", num_threads=used):
                    body(job[0], i, own + threadid() * scratch)
        return 0


def flow(start, field, d_field, grid, cells, int64_t steps, int threads):
    """Fills the grid: where points arrive, or their tangents if d_field, that of the field, is not None."""
    cdef FlowCall call = FlowCall()
    call.describe(start, field, d_field, grid, cells, steps)
    call.deal(TASK_POINTS)
    call.run(level.flow(call.job), 0, threads)


def flow_vjp(start, field, d_field, grad_grid, cells, int64_t steps, int threads):
    """The gradient to the field (1, *its shape), in double; if d_field is not None its derivative along that, too."""
    cdef FlowCall call = FlowCall()
    call.describe(start, field, d_field, grad_grid, cells, steps)
    call.deal(points_of_sums(call.job.points, field[:1].size))
    shape = (1 if d_field is None else 2, call.job.count, call.job.chunks, *field.shape[1:])
    partial = np.zeros(shape)
    call.job.partial = <double*> call.doubles(partial)
    call.job.d_partial = <double*> call.doubles(partial[-1])
    call.run(level.flow_vjp(call.job), level.flow_scratch(call.job), threads)
    return partial.sum(axis=2)


cdef class PiecewiseCall(Holder):
    cdef PiecewiseJob job

    cdef int describe(self, labels, weights, grid) except -1:
        """All arrays contiguous: labels (points), weights (3, points), grid (M, points, 2)."""
        cdef PiecewiseJob* job = &self.job
        cdef cnp.ndarray made = self.hold(grid), followed = self.hold(labels)
        job.count, job.points, _ = grid.shape
        job.type = element_of(made)
        job.grid = cnp.PyArray_DATA(made)
        job.label = <const int64_t*> cnp.PyArray_DATA(followed)
        job.weight = cnp.PyArray_DATA(self.hold(weights))
        return 0

    cdef void deal(self, int64_t chunk_points) noexcept:
        self.job.chunk_points = chunk_points
        self.job.chunks = (self.job.points + chunk_points - 1) // chunk_points

    cdef void run(self, PiecewiseTask body, int threads) noexcept:
        cdef const PiecewiseJob* job = &self.job
        cdef int64_t tasks = job.count * job.chunks, i
        cdef int used = threads_for(job.count * job.points, threads)
        with nogil:
            if used == 1:
                for i in range(tasks):
                    body(job[0], i)
            else:
                for i in prange(tasks, schedule="dynamic", num_threads=used):
                    body(job[0], i)


def piecewise(corners, labels, weights, base, grid, int threads):
    """corners (M, 2, 3, triangles), base (points, 2) or None: in the dtype of the grid, which it fills."""
    cdef PiecewiseCall call = PiecewiseCall()
    call.describe(labels, weights, grid)
    call.job.triangles = corners.shape[3]
    call.job.corner = cnp.PyArray_DATA(call.hold(corners))
    call.job.base = NULL if base is None else cnp.PyArray_DATA(call.hold(base))
    call.deal(TASK_POINTS)
    call.run(level.piecewise(call.job), threads)


def piecewise_vjp(grad_grid, by_label, weights, int threads):
    """The gradient (M, 2, 3, triangles) to the corners, in double, as are the weights."""
    cdef PiecewiseCall call = PiecewiseCall()
    call.describe(by_label.labels, weights, grad_grid)
    call.job.triangles = by_label.count
    call.deal(points_of_sums(call.job.points, 6 * by_label.count))
    partial = np.zeros((call.job.count, call.job.chunks, 2, 3, by_label.count))
    call.job.partial = <double*> call.doubles(partial)
    call.run(level.piecewise_vjp(call.job), threads)
    return partial.sum(axis=1)
