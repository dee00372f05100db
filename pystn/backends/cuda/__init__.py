"""The CUDA backend: CuPy arrays in, kernels compiled when first needed, launched on CuPy's current stream."""
