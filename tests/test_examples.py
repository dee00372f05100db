"""The examples run: a few epochs suffice for the transformer to help, and for a picture."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "docs" / "examples").glob("digits_*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_transformer_helps(example, tmp_path):
    for module in ("sklearn", "matplotlib", example.stem.removeprefix("digits_")):
        pytest.importorskip(module, reason=f"{module} is not installed")
    found = subprocess.run(
        [sys.executable, example, "--epochs", "8", "--output", tmp_path / "read.png"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    without, with_transformer = map(float, re.findall(r"([\d.]+)% right", found.stdout))
    assert 10 < without < with_transformer - 15
    assert (tmp_path / "read.png").read_bytes().startswith(b"\x89PNG")


def test_there_are_examples():
    assert EXAMPLES
