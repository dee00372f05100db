"""The stand-ins for a GPU and for CuPy, on kernels written here: what they run, and what they must refuse."""

import subprocess
import sys
import textwrap
from pathlib import Path

import cuda_host
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")

SOURCE = r"""
struct Job {
  const float* x;
  double* y;
  long long n;
  int by, flag;
};

// y[0] += the sum of x
template <int block>
__global__ void total(Job job) {
  __shared__ double part[block / 32];
  double sum = 0;
  for (long long i = blockIdx.x * (long long)block + threadIdx.x; i < job.n; i += (long long)gridDim.x * block)
    sum += __ldg(job.x + i);
  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = threadIdx.x < block / 32 ? part[threadIdx.x] : 0;
  for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(0xffffffffu, sum, by);
  if (threadIdx.x == 0) atomicAdd(job.y, sum);
}

// y[i] = x[the thread `by` further on in the block]
template <bool waits>
__global__ void turned(Job job) {
  __shared__ float values[256];
  values[threadIdx.x] = job.x[threadIdx.x];
  if (waits) __syncthreads();
  job.y[threadIdx.x] = values[(threadIdx.x + job.by) % blockDim.x];
}

template <int way>
__global__ void diverging(Job job) {
  if (way == 0 && threadIdx.x == 7) return;
  if (way == 1 && threadIdx.x == 7) {
    __syncthreads();
    return;
  }
  if (way == 2 && threadIdx.x % 32 < 8) job.y[0] = __shfl_down_sync(0xffffffffu, 1.0, 1);
  if (way == 3) job.y[0] = __shfl_sync(0x0000ffffu, 1.0, 0);
  __syncthreads();
}

// The order in which threads come by.
template <class T>
__global__ void queue(Job job) {
  const unsigned long long place = atomicAdd((unsigned long long*)job.y, 1ull);
  job.y[1 + place] = T(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <int way>
__global__ void votes(Job job) {
  if (way == 0) job.y[threadIdx.x] = __shfl_up_sync(0xffffffffu, job.x[threadIdx.x], 3, 8);
  if (way == 1) job.y[threadIdx.x] = __ballot_sync(0xffffffffu, threadIdx.x % 2);
}

template <class T>
__global__ void shifted(Job job) {
  const long long i = (long long)threadIdx.x + job.by;
  if (i == job.n - 1 || !job.flag) job.y[threadIdx.x] = job.x[i];
  if (job.flag) job.y[i] = 1;
}

template <class T>
__global__ void doubled(const T* x, T* y, int n) {
  const int i = (blockIdx.x * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] + x[i];
}
"""
JOB = np.dtype([("x", "u8"), ("y", "u8"), ("n", "i8"), ("by", "i4"), ("flag", "i4")], align=True)

cp = cuda_host.stand_in()


def kernel(name, code=SOURCE):
    return cp.RawModule(code=code, options=("-std=c++17",), name_expressions=[name]).get_function(name)


def job(x, y, by=0, flag=0):
    return np.array([(x.data.ptr, y.data.ptr, x.size, by, flag)], JOB)


def test_block_reduction():
    x, y = cp.arange(100_000, dtype=np.float32), cp.zeros(())
    kernel("total<256>")((7,), (256,), (job(x, y),))
    assert float(y) == 100_000 * 99_999 / 2


@pytest.mark.parametrize("waits", [True, False])
def test_a_missing_barrier_is_seen(waits):
    x, y = cp.arange(256, dtype=np.float32), cp.empty(256)
    kernel(f"turned<{str(waits).lower()}>")((1,), (256,), (job(x, y, 32),))
    expected = np.roll(np.arange(256.0), -32)
    assert np.array_equal(y.get(), expected) == waits
    assert waits or np.isnan(y.get()).any()  # shared memory is spoilt


@pytest.mark.parametrize(
    "way, message",
    [
        (0, "diverged: thread 0 waits at a barrier of the block.*thread 7 has ended"),
        (1, "diverged: thread 0 waits at a barrier of the block.*thread 7 at"),
        (2, "diverged: thread 0 waits at a barrier of a warp"),
        (3, "thread .* is not in its own mask"),
    ],
)
def test_diverged_threads(way, message):
    x, y = cp.zeros(1, np.float32), cp.zeros(1)
    with pytest.raises(RuntimeError, match=message):
        kernel(f"diverging<{way}>")((2,), (64,), (job(x, y),))
    test_block_reduction()  # the next launch is sound


def test_order():
    name, x, runs = "queue<double>", cp.zeros(1, np.float32), []
    for seed in (0, 0, 1):
        y = cp.zeros(1 + 6 * 64)
        with cuda_host.order(seed):
            kernel(name)((6,), (64,), (job(x, y),))
        runs.append(y.get()[1:].astype(int))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    blocks = runs[0].reshape(6, 64) // 64
    assert (blocks == blocks[:, :1]).all()  # a block after the other
    assert not np.array_equal(blocks[:, 0], np.arange(6))
    for run in runs:
        assert not np.array_equal(run[:64], np.sort(run[:64]))
        assert np.array_equal(np.sort(run), np.arange(6 * 64))


def test_exchange_in_a_warp():
    x, y = cp.arange(64, dtype=np.float32), cp.zeros(64)
    kernel("votes<0>")((1,), (64,), (job(x, y),))
    lanes = np.arange(64)
    assert np.array_equal(y.get(), np.where(lanes % 8 < 3, lanes, lanes - 3))
    kernel("votes<1>")((1,), (64,), (job(x, y),))
    assert (y.get() == 0xAAAAAAAA).all()


def test_arguments():
    run = kernel("doubled<double>")
    x, y = cp.arange(100.0), cp.empty(100)
    run((4,), (8, 4), (x, y, np.int32(100)))
    assert np.array_equal(y.get(), 2 * x.get())
    with pytest.raises(RuntimeError, match="parameter 2 has 4 bytes, got 8"):
        run((4,), (8, 4), (x, y, 100))
    with pytest.raises(RuntimeError, match="3 parameters, got 2"):
        run((4,), (8, 4), (x, y))
    short = np.zeros(1, np.dtype(JOB.descr[:-1]))
    with pytest.raises(RuntimeError, match="parameter 0 has 32 bytes, got 28"):
        kernel("total<256>")((1,), (256,), (short,))


@pytest.mark.parametrize(
    "grid, block",
    [((1,), (1025,)), ((1,), (32, 33)), ((1,), (1, 1, 65)), ((0,), (32,)), ((1, 65536), (32,)), ((1,), (0,))],
)
def test_limits_of_a_launch(grid, block):
    x = cp.zeros(1)
    with pytest.raises(RuntimeError, match=r"no (block|grid) of CUDA"):
        kernel("doubled<double>")(grid, block, (x, x, np.int32(0)))


def test_several_kernels_in_one_object():
    names = ["doubled<float>", "doubled<int>"]
    module = cp.RawModule(code=SOURCE, options=("-std=c++17",), name_expressions=names)
    for name, dtype in zip(names, (np.float32, np.int32), strict=True):
        x = cp.arange(5, dtype=dtype)
        module.get_function(name)((1,), (32,), (x, x, np.int32(5)))
        assert x.tolist() == [0, 2, 4, 6, 8]


def test_what_does_not_compile():
    with pytest.raises(RuntimeError, match="refused nothing<float>"):
        kernel("nothing<float>")((1,), (32,), ())
    with pytest.raises(RuntimeError, match="unused variable"):
        kernel("f<1>", "template <int> __global__ void f(int) { int unused; }")


def crash(by, flag, made="zeros(64, 'f4')"):
    """The exit status and the output of a process that runs `shifted`."""
    text = f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
        import test_cuda_host as t
        x, y = t.cp.{made}, t.cp.zeros(64)
        t.kernel("shifted<float>")((1,), (64,), (t.job(x, y, {by}, {flag}),))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True)
    return run.returncode, run.stderr


@pytest.mark.parametrize("flag", [0, 1], ids=["read", "write"])
def test_beyond_the_end(flag):
    assert crash(0, flag) == (0, "")
    assert crash(1, flag)[0] == -11


@pytest.mark.parametrize("made", ["arange(64.0).astype('f4')", "add(t.cp.zeros(64, 'f4'), 1)", "zeros(65, 'f4')[1:]"])
def test_beyond_the_end_of_what_array_code_has_made(made):
    assert crash(0, 0, made) == (0, "")
    assert crash(1, 0, made)[0] == -11


@pytest.mark.parametrize("by, flag", [(-1200, 0), (-600, 1)], ids=["read", "write"])
def test_in_front_of_the_first_page(by, flag):
    """4800 bytes before x in float32, and before y in float64."""
    assert crash(by, flag)[0] == -11


def test_in_front():
    status, output = crash(-3, 1)
    assert status == 1
    assert "shifted<float>: wrote 24 bytes in front of an array" in output


# ---- The stand-in for CuPy


def test_creation():
    assert np.isnan(cp.empty(3).get()).all()
    assert cp.zeros((2, 3), np.float32).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert cp.full((2,), 3).dtype == np.int64
    assert cp.eye(2).tolist() == [[1, 0], [0, 1]]
    assert cp.empty_like(cp.zeros((2, 3), order="F")).flags.f_contiguous
    assert cp.asarray(np.zeros((2, 3)).T).flags.f_contiguous
    assert cp.ascontiguousarray(cp.zeros((2, 3)).T).flags.c_contiguous
    assert cp.asarray([cp.ones(2), cp.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    x = cp.zeros(3)
    assert cp.asarray(x) is x
    assert cp.array(x) is not x
    assert cp.empty((0, 3)).shape == (0, 3)


def test_layouts_are_kept():
    values = np.arange(24.0).reshape(2, 3, 4)
    for view in (
        values[:, ::-1, ::2],
        values.T,
        np.broadcast_to(values[:, :1], (2, 3, 4)),
        values[:, :0],
        values[0, 0, 0],
    ):
        x = cuda_host.laid_out(np.asarray(view))
        assert x.size == 0 or x.strides == view.strides
        assert np.array_equal(x.get(), view)


def test_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = cp.asarray(np.arange(3).astype(bfloat16))
    assert x.dtype == (x + x).dtype == bfloat16
    assert x.astype(np.float32).tolist() == [0, 1, 2]
    assert cp.empty(3, bfloat16).view(np.uint16).tolist() == [0xFFFF] * 3


def test_results_are_arrays_of_the_device():
    x = cp.arange(6.0).reshape(2, 3)
    for result in (
        x + 1,
        -x,
        x.T,
        x[0],
        x[0, 0],
        x.sum(),
        cp.sum(x),
        np.sum(x),
        cp.linalg.norm(x),
        cp.sqrt(x),
        x @ x.T,
    ):
        assert isinstance(result, cp.ndarray)
    assert all(isinstance(part, cp.ndarray) for part in cp.linalg.svd(x))
    assert isinstance(cp.allclose(x, x), cp.ndarray)
    assert x.shape == (2, 3)
    assert x.dtype == cp.float64
    assert cp.result_type(x, np.float32) == np.float64
    assert not isinstance(x, np.ndarray)


def test_writing():
    x = cp.zeros((2, 3))
    x[0] = cp.ones(3)
    x[1, 2] = 5
    x[0, 0] += 1
    y = x
    y += x
    assert y is x
    assert x.tolist() == [[4, 2, 2], [0, 0, 10]]
    element = x[1, 2]  # a view
    element[...] = 7
    assert float(x[1, 2]) == 7
    assert cp.add(x, 1, out=x) is x


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, host: x + host,
        lambda x, host: host + x,
        lambda x, host: host @ x,
        lambda x, host: cp.add(host, host),
        lambda x, host: cp.stack([x, host]),
        lambda x, host: np.stack([x, host]),
        lambda x, host: cp.sum(host),
        lambda x, host: x.__setitem__(0, host),
        lambda x, host: np.asarray(x),
        lambda x, host: np.array([x, x]),
        lambda x, host: host.__setitem__(0, x),
        lambda x, host: np.add(host, 1, out=x[0]),
        lambda x, host: np.add(x, 1, out=host),
        lambda x, host: cp.add(x, [1, 2]),
        lambda x, host: np.add(x, [1, 2]),
        lambda x, host: np.require(x, requirements="C"),
    ],
)
def test_arrays_of_the_host_are_refused(mix):
    with pytest.raises(TypeError):
        mix(cp.ones((2, 2)), np.ones((2, 2)))


def test_what_cupy_has_not():
    x = cp.ones(())
    for ask in (lambda: x.ctypes, lambda: cp.errstate, lambda: cp.linalg.nothing):
        with pytest.raises(AttributeError):
            ask()
    with pytest.raises(TypeError):
        range(cp.ones((), int))


def test_scalars_of_the_host_are_taken():
    x = cp.ones(2, np.float32)
    assert (x * np.float32(2) + np.array(1.0, np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    "ask",
    [
        bool,
        float,
        int,
        str,
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: x.get(),
        lambda x: cp.asnumpy(x),
        lambda x: x.reshape(1)[x.reshape(1) > 0],
        lambda x: x.reshape(1).__setitem__(x.reshape(1) > 0, 0),
        lambda x: cp.asarray(np.ones(2), blocking=True),
        lambda x: cp.bincount(cp.zeros(2, int)),
        lambda x: cp.where(x.reshape(1)),
        lambda x: cp.cuda.get_current_stream().synchronize(),
        lambda x: cp.cuda.Device().synchronize(),
    ],
)
def test_synchronisation(ask):
    x = cp.ones(())
    ask(x)
    with cuda_host.no_synchronisation(), pytest.raises(cuda_host.SynchronisationError):
        ask(x)


def test_what_does_not_synchronise():
    with cuda_host.no_synchronisation():
        x = cp.asarray(np.arange(6.0)).reshape(2, 3)
        cp.copyto(x, 0.0, where=x > 2)
        x = cp.where(x > 1, x, 0)[:, [2, 0]].sum(axis=1)
    assert x.tolist() == [2, 0]


def test_linear_algebra_does_not_raise():
    x = cp.asarray(np.stack([np.zeros((2, 2)), np.eye(2)]))
    for result in (cp.linalg.inv(x), cp.linalg.solve(x, x)):
        assert np.isnan(result.get()[0]).all()
        assert np.array_equal(result.get()[1], np.eye(2))


def test_sums_of_runs_are_differences():
    x = cp.asarray(np.array([1.0, 2.0, np.nan, 4.0, 5.0]))
    sums = cp.add.reduceat(x, cp.asarray(np.array([0, 2, 3])))
    assert np.array_equal(sums.get(), [3, np.nan, np.nan], equal_nan=True)
    assert cp.add.reduceat(cp.ones((2, 5)), cp.asarray(np.array([0, 3])), axis=1).tolist() == [[3, 2], [3, 2]]


def test_devices():
    x = cp.ones(2)
    with cp.cuda.Device(1):
        assert cp.cuda.Device().id == cp.zeros(1).device.id == 1
        with pytest.raises(ValueError, match="current device"):
            x + 1
        with pytest.raises(ValueError, match="current device"):
            cp.add(cp.ones(2), x)
    assert (x + 1).tolist() == [2, 2]
    assert x.device.id == x.data.device_id == 0


def test_empty_arrays_have_no_address():
    assert cp.empty((0, 3)).data.ptr == 0


def test_install():
    cupy = cuda_host.install()
    import cupy as imported

    assert imported is cupy is cuda_host.install()
    assert cuda_host.installed()
    assert type(cupy.zeros(1)).__module__ == "cupy"


DEVICE = """
__version__ = "14.0"

class ndarray:
    pass

class cuda:
    is_available = staticmethod(lambda: True)
"""


@pytest.mark.parametrize("name", ["cells", "dispatch", "grids", "waiting", "host"])
def test_there_is_no_stand_in_beside_a_device(tmp_path, name):
    """Files whose tests are of the stand-in, in a session that finds a device: its cupy is what it was at the end."""
    (tmp_path / "cupy.py").write_text(DEVICE)
    file = Path(__file__).with_name(f"test_cuda_{name}.py")
    arguments = ["-m", "not gpu", "-p", "no:cacheprovider", "-k", "install" if name == "host" else "", str(file)]
    text = f"""
        import sys
        sys.path[:0] = {[str(tmp_path), *sys.path]!r}
        import cupy, pytest
        status = pytest.main({arguments!r})
        assert sys.modules["cupy"] is cupy
        sys.exit(status)
    """
    command = [sys.executable, "-c", textwrap.dedent(text)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=file.parent.parent)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "there is a device: the kernels run on it" in run.stdout
