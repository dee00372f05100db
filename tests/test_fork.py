"""Forked children, PyTorch beside us, and what `import pystn` loads."""

import os
import subprocess
import sys

import pytest

WORK = """
import numpy as np, pystn
rng = np.random.default_rng(0)
image, grid = rng.standard_normal((1, 2, 200, 200)), rng.uniform(-1, 1, (1, 300, 300, 2))
def work():
    return pystn.grid_sample_vjp(np.ones((1, 2, 300, 300)), image, grid)[0].sum()
"""


def python(code):
    """Runs in a process of its own, where a hang is a time-out."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ask_for", ["", "pystn.set_num_threads(2)"])
def test_a_forked_child_does_not_hang(ask_for):
    """After a parallel call in the parent; on one thread, or on as many as the child asks for."""
    code = (
        WORK
        + f"""
import multiprocessing
expected = work()
def child(queue):
    {ask_for or "pass"}
    queue.put((pystn.get_num_threads(), work()))
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,))
process.start()
threads, result = queue.get(timeout=60)
process.join(60)
assert result == expected and process.exitcode == 0
assert work() == expected
print(threads)
"""
    )
    assert python(code) == (["2"] if ask_for else ["1"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("imports", ["import torch, pystn", "import pystn, torch"])
def test_in_the_workers_of_a_torch_data_loader(imports):
    pytest.importorskip("torch", reason="needs PyTorch's DataLoader")
    code = (
        f"{imports}\n"
        + WORK
        + """
import warnings
warnings.simplefilter("ignore")
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return float(work())
expected = float(work())
torch.ones(500, 500) @ torch.ones(500, 500)
loader = torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
values = torch.cat(list(loader)).tolist()
assert values == [expected] * 4, values
print("done")
"""
    )
    assert python(code) == ["done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_copy_of_what_is_kept():
    code = """
import numpy as np, os, pystn
def grid(shift, out=None):
    return pystn.affine_grid(np.float32([[[1, 0, shift], [0, 1, -shift]]]), (2100, 2100), out=out)
expected = [grid(shift, np.empty((1, 2100, 2100, 2), np.float32)) for shift in (0.25, 0.5)]
grid(0)  # and its memory is kept
child = os.fork()
mine = grid(0.25 if child else 0.5)
right = np.array_equal(mine, expected[0 if child else 1])
if child == 0:
    os._exit(not right)
print(right, os.waitpid(child, 0)[1])
"""
    assert python(code) == ["True", "0"]


def test_import_is_light():
    """The compiled module waits for the first call, and optional packages for their users."""
    code = """
import sys, pystn
heavy = {"pystn.backends._cpu", "torch", "jax", "cupy", "PIL", "skimage", "scipy", "tqdm"} & set(sys.modules)
print(*sorted(heavy))
"""
    assert python(code) == []
