"""Brief calls, done again: of small arrays, where looking at shapes and options takes as long as sampling."""

cdef int MAX_AXES = 8  # of the arrays of calls that are repeated


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


cdef bint are_apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Of packed arrays."""
    cdef const char* from_a = cnp.PyArray_BYTES(a)
    cdef const char* from_b = cnp.PyArray_BYTES(b)
    return from_a + cnp.PyArray_NBYTES(a) <= from_b or from_b + cnp.PyArray_NBYTES(b) <= from_a


cdef bint is_size(object given, tuple size) except -1:
    """Whether it is a tuple of these integers. It may be of anything: to compare others can raise, and the checks
    that come next say it better."""
    if type(given) is not tuple or len(<tuple> given) != len(size):
        return False
    for length, known in zip(<tuple> given, size):
        if type(length) is not int and not isinstance(length, np.integer) or length != known:
            return False
    return True


cdef object fresh(const Kind* kind):
    return new_array(kind.ndim, <cnp.npy_intp*> kind.shape, kind.type)


cdef void read_matrices(cnp.ndarray source, double* to) noexcept:
    cdef int64_t i, entries = cnp.PyArray_SIZE(source)
    if cnp.PyArray_TYPE(source) == cnp.NPY_DOUBLE:
        for i in range(entries):
            to[i] = (<double*> cnp.PyArray_DATA(source))[i]
    else:
        for i in range(entries):
            to[i] = (<float*> cnp.PyArray_DATA(source))[i]


cdef void write_sums(const double* sums, cnp.ndarray gradient) noexcept:
    cdef int64_t i, entries = cnp.PyArray_SIZE(gradient)
    if cnp.PyArray_TYPE(gradient) == cnp.NPY_DOUBLE:
        for i in range(entries):
            (<double*> cnp.PyArray_DATA(gradient))[i] = sums[i]
    else:
        for i in range(entries):
            (<float*> cnp.PyArray_DATA(gradient))[i] = <float> sums[i]


cdef class Repeat:
    """A brief call, to be done again on other arrays of the same kinds: what depends on their types and
    shapes has been checked and resolved. Arrays of another kind get None for an answer, and so do all while
    the number of threads is another."""
    cdef const Level* level
    cdef list passes
    cdef Kind input, source, samples
    cdef object size, tables
    cdef int64_t work
    cdef int threads

    @classmethod
    def of(cls, Call call, input, source, size, samples, *written):
        """`source` is the grid, or the matrices for samples of a `size`. None if the call is of a kind
        that is not repeated."""
        cdef Repeat self
        if not call.passes:
            return None
        if not (is_packed(input) and is_packed(source) and is_packed(samples)) or element_of(samples) == Element.bf16:
            return None
        self = cls()
        self.level = level
        self.passes = call.passes
        self.work = call.work()
        self.threads = call.threads
        note(&self.input, input)
        note(&self.source, source)
        note(&self.samples, samples)
        self.size = size
        arrays = {id(array) for array in (input, source, samples, *written)}
        self.tables = [held for held in call.held if id(held) not in arrays]
        return self

    def __call__(self, input, source, size, out=None):
        if not self.takes(input, source, size):
            return None
        if out is None:
            output = fresh(&self.samples)
        elif self.may_fill(out, input, source):
            output = out
        else:
            return None
        with cython.critical_section(self):  # nobody else changes the jobs of a short call before they are done
            self.run(input, source, output, None, None)
        return output

    cdef bint takes(self, input, source, size) except -1:
        if self.level != level or not is_of(&self.input, input) or not is_of(&self.source, source):
            return False
        if self.work >= PARALLEL_FROM and get_num_threads() != self.threads:
            return False
        return size is None if self.size is None else is_size(size, self.size)

    cdef bint may_fill(self, out, input, source) except -1:
        if not is_of(&self.samples, out) or not cnp.PyArray_ISWRITEABLE(out):
            return False
        return are_apart(out, input) and are_apart(out, source)

    cdef int run(self, cnp.ndarray input, cnp.ndarray source, cnp.ndarray samples, cnp.ndarray grad_input,
                 cnp.ndarray grad_source) except -1:
        """Passes see the arrays that they saw the first time."""
        cdef int64_t entries = cnp.PyArray_SIZE(source)
        cdef double* theta = NULL
        cdef double* sums = NULL
        if self.size is not None:
            theta = <double*> calloc(2 * entries + 1, sizeof(double))
            if theta == NULL:
                raise MemoryError
            sums = theta + entries
            read_matrices(source, theta)
        for one in self.passes:
            self.run_pass(one, theta, sums, input, source, samples, grad_input, grad_source)
        if self.size is not None and grad_source is not None:
            write_sums(sums, grad_source)
        free(theta)
        return 0

    cdef void run_pass(self, Pass one, double* theta, double* sums, cnp.ndarray input, cnp.ndarray source,
                       cnp.ndarray samples, cnp.ndarray grad_input, cnp.ndarray grad_source) noexcept:
        cdef bint short = self.work < PARALLEL_FROM  # handing over the interpreter's lock takes as long
        cdef int used = threads_for(self.work, self.threads)
        cdef SampleJob copy
        cdef SampleJob* job = &one.job
        if not short:  # others may do it meanwhile
            copy = one.job
            job = &copy
        job.output.data = cnp.PyArray_DATA(samples)
        if job.input.data != NULL:
            job.input.data = cnp.PyArray_DATA(input)
        if job.grad_input.data != NULL:
            job.grad_input.data = cnp.PyArray_DATA(grad_input)
        if self.size is not None:
            job.source.theta = theta
            if job.source.partial != NULL:
                job.source.partial = sums
        else:
            job.grid.data = cnp.PyArray_DATA(source)
            if job.grad_grid.data != NULL:
                job.grad_grid.data = cnp.PyArray_DATA(grad_source)
        if short:
            run_sample(one.body, job, one.count, 1, True)
        else:
            with nogil:
                run_sample(one.body, job, one.count, used, True)


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
