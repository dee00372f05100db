"""Entry points of the sampler, in all its directions."""


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
        sums = empty_like(output, call.arithmetic())
        grid_sample(widened(input, sums.dtype, threads), grid, sums, mask, options, threads)
        put_narrowed(sums, output, threads)
        return call
    if isinstance(grid, np.ndarray) and not level.walks_rows(call.job):
        call.flatten()
    call.keep_passes(threads)
    call.run_chunks(Direction.forward, call.job.output_batch, threads)
    return call


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
        sums = empty_like(d_output, call.arithmetic())
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
        sums = grad_input if grad_input is None or grad_input.dtype == number else empty_like(grad_input, number)
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
    call.keep_passes(threads)
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
        sums = image if image.dtype == number else empty_like(image, number)
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
