"""NumPy's arrays as jobs see them: pointers, strides in elements, types."""

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
