"""Entry points of maps that are affine in each of some cells, and of flows of such velocities."""

# Points of a field or map that a task has, at least.
cdef int64_t TASK_POINTS = 1024


cdef int64_t points_of_sums(int64_t points, int64_t values) noexcept:
    """Of a task that adds up so many values: tasks are few, and so are their sums, no more than there are points."""
    return max(TASK_POINTS, max(values, (points + GROUPS - 1) // GROUPS))


cdef void cut(PointParts* parts, int64_t size) noexcept:
    parts.size = size
    parts.count = (parts.points + size - 1) // size


cdef class FlowCall(Holder):
    cdef FlowJob job

    cdef int describe(self, start, field, d_field, grid, cells, int64_t steps) except -1:
        """All arrays contiguous: start (points, ndim), field and its tangent of each of M, grid (M, points, ndim)."""
        cdef FlowJob* job = &self.job
        cdef int a
        cdef cnp.ndarray made = self.hold(grid)
        job.count, job.parts.points, job.ndim = grid.shape
        job.type = element_of(made)
        job.grid = cnp.PyArray_DATA(made)
        for a in range(job.ndim):
            job.cells[a] = cells[a]
        job.steps = steps
        job.start = self.doubles(start)
        job.field = self.doubles(field)
        job.d_field = self.doubles(d_field)
        return 0

    cdef int run(self, FlowTask body, int64_t scratch, int threads) except -1:
        cdef const FlowJob* job = &self.job
        cdef int64_t tasks = job.count * job.parts.count, i
        cdef int used = min(threads_for(job.count * job.parts.points * min(job.steps, 1 << 10), threads), max(1, tasks))
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
    cut(&call.job.parts, TASK_POINTS)
    call.run(level.flow(call.job), 0, threads)


def flow_vjp(start, field, d_field, grad_grid, cells, int64_t steps, int threads):
    """The gradient to the field (1, *its shape), in double; if d_field is not None its derivative along that, too."""
    cdef FlowCall call = FlowCall()
    call.describe(start, field, d_field, grad_grid, cells, steps)
    cut(&call.job.parts, points_of_sums(call.job.parts.points, field[:1].size))
    shape = (1 if d_field is None else 2, call.job.count, call.job.parts.count, *field.shape[1:])
    partial = np.zeros(shape)
    call.job.partial = <double*> call.doubles(partial)
    call.job.d_partial = <double*> call.doubles(partial[-1])
    call.run(level.flow_vjp(call.job), level.flow_scratch(call.job), threads)
    return partial.sum(axis=2)


cdef class PiecewiseCall(Holder):
    cdef PiecewiseJob job

    cdef int describe(self, pieces, weights, grid, int64_t values) except -1:
        """weights (3, points), grid (M, points, 2), both contiguous; of so many values, as `pieces` has it."""
        cdef PiecewiseJob* job = &self.job
        cdef cnp.ndarray made = self.hold(grid), starts = self.hold(pieces.starts)
        cdef cnp.ndarray followed = self.hold(pieces.followed), corners = self.hold(pieces.corners)
        job.count, job.parts.points, _ = grid.shape
        job.values = values
        job.type = element_of(made)
        job.grid = cnp.PyArray_DATA(made)
        job.runs = cnp.PyArray_DIM(followed, 0)
        job.start = <const int64_t*> cnp.PyArray_DATA(starts)
        job.followed = <const int64_t*> cnp.PyArray_DATA(followed)
        job.corner = <const int64_t*> cnp.PyArray_DATA(corners)
        job.weight = cnp.PyArray_DATA(self.hold(weights))
        return 0

    cdef void run(self, PiecewiseTask body, int threads) noexcept:
        cdef const PiecewiseJob* job = &self.job
        cdef int64_t tasks = job.count * job.parts.count, i
        cdef int used = threads_for(job.count * job.parts.points, threads)
        with nogil:
            if used == 1:
                for i in range(tasks):
                    body(job[0], i)
            else:
                for i in prange(tasks, schedule="static", num_threads=used):
                    body(job[0], i)


def piecewise(values, pieces, base, grid, int threads):
    """values (M, count, 2), base (points, 2) or None, all contiguous and in the dtype of the grid, which it fills."""
    cdef PiecewiseCall call = PiecewiseCall()
    call.describe(pieces, pieces.weights_as(np, grid.dtype), grid, values.shape[1])
    call.job.value = cnp.PyArray_DATA(call.hold(values))
    call.job.base = NULL if base is None else cnp.PyArray_DATA(call.hold(base))
    cut(&call.job.parts, TASK_POINTS)
    call.run(level.piecewise(call.job), threads)


def piecewise_vjp(grad_grid, pieces, int threads):
    """The gradient (M, count, 2) to the values, in double."""
    cdef PiecewiseCall call = PiecewiseCall()
    call.describe(pieces, pieces.weights_as(np, np.float64), grad_grid, pieces.count)
    cut(&call.job.parts, points_of_sums(call.job.parts.points, 2 * call.job.values))
    partial = np.zeros((call.job.count, call.job.parts.count, call.job.values, 2))
    call.job.partial = <double*> call.doubles(partial)
    call.run(level.piecewise_vjp(call.job), threads)
    return partial.sum(axis=1) if call.job.parts.count > 1 else partial[:, 0]
