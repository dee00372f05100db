"""Entry points of kernels that are stretched over footprints."""


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
