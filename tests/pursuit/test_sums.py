"""Sums of products in one order: what the compiled loops compute has the same bits wherever it was compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

import itda_lightning
from itda_lightning.pursuit.kernels import jit
from itda_lightning.pursuit.kernels.sums import LANES, accurate_dot, dot


@njit
def inlined_dot(a, b):
    return dot(a, b)


@njit
def inlined_accurate_dot(a, b):
    return accurate_dot(a, b)


def in_order(a, b, number):
    """The same sum with numpy, which rounds each operation on arrays once."""
    a, b = (number_of(row).astype(number) for row in (a, b))
    total, start = np.zeros(LANES[0], number), 0
    for lanes in LANES:
        while len(total) > lanes:
            total = total[: len(total) // 2] + total[len(total) // 2 :]
        while start + lanes <= len(a):
            total = total + a[start : start + lanes] * b[start : start + lanes]
            start += lanes
    return total[0]


def number_of(row):
    return row if row.dtype != np.uint16 else (row.astype(np.uint32) << 16).view(np.float32)


def rows(d, seed, dtypes):
    generator = np.random.default_rng(seed)
    for dtype in dtypes:
        row = (generator.standard_normal(d) * 10.0 ** generator.integers(-4, 4, d)).astype(np.float32)
        yield (row.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else row.astype(dtype)


singles = st.sampled_from(["float32", "bfloat16"])


@given(d=st.integers(0, 200), seed=st.integers(0, 2**32 - 1), dtypes=st.tuples(singles, singles))
def test_single_sums_are_taken_in_their_order(d, seed, dtypes):
    a, b = rows(d, seed, dtypes)
    assert inlined_dot(a, b) == in_order(a, b, np.float32)
    exact = number_of(a).astype(float) @ number_of(b).astype(float)
    bound = 2.0**-24 * (d / 16 + 32) * np.linalg.norm(number_of(a)) * np.linalg.norm(number_of(b))
    assert abs(inlined_dot(a, b) - exact) <= bound


@given(
    d=st.integers(0, 200),
    seed=st.integers(0, 2**32 - 1),
    dtypes=st.tuples(singles, singles) | st.just(("float64", "float64")) | st.just(("float32", "float64")),
)
def test_double_sums_are_taken_in_their_order(d, seed, dtypes):
    a, b = rows(d, seed, dtypes)
    assert inlined_accurate_dot(a, b) == in_order(a, b, np.float64)


# Two small loops that inline others, and a digest of what they compute.
LOOPS = """
import hashlib
import numpy as np
from itda_lightning.pursuit.kernels.screening import GROUP, select_among
from itda_lightning.pursuit.kernels.steps import take_orthogonal
from itda_lightning.pursuit.kernels.named_arrays import Problem, Work

generator = np.random.default_rng(0)
n, d, k = 2 * GROUP, 77, 6
atoms, x = generator.standard_normal((n, d)).astype(np.float32), generator.standard_normal((1, d)).astype(np.float32)
atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
problem = Problem(x, atoms, np.array([n]), np.zeros(1), 0.0, 1e-6, 0.0, True, False)
residual, support, coefficients = x[0].copy(), np.full(k, -1), np.zeros(k)
work = Work(np.empty(k), np.empty((2, k)), np.empty(k, np.float32), np.zeros((k, k)))
for step in range(k):
    scores, exact = np.zeros((2, GROUP), np.float32), np.zeros(n, np.bool_)
    error = np.float32(10)
    atom, score, _ = select_among(scores, np.zeros(2, np.float32), residual, atoms, False, exact, error, error)
    assert take_orthogonal(0, atom, step, problem, residual, support, coefficients, work)
results = scores, residual, support, coefficients, work.inverse
print(hashlib.sha256(b"".join(part.tobytes() for part in results)).hexdigest())
"""
# A loop that inlines another, compiled and kept as those of the package are.
LEAF = "from {package}.jit import compiled\n\n@compiled\ndef leaf(x: int) -> int:\n    return x + {number}\n"
CALLER = """
from {package}.jit import compiled
from {package}.leaf import leaf

@compiled
def caller(x: int) -> int:
    return leaf(x)
"""


# Of the package's root only its place: importing the rest takes much longer than compiling the loops.
ROOT_ONLY = """
import sys, types
sys.modules["itda_lightning"] = types.ModuleType("itda_lightning")
sys.modules["itda_lightning"].__path__ = [{place!r}]
"""


def python(code: str, cache: Path, *paths: Path) -> str:
    """Run code in a new process with numba's cache at that place; return what it prints."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.long
def test_results_are_the_same_bits_compiled_and_from_whatever_part_of_the_cache(tmp_path):
    loops = ROOT_ONLY.format(place=str(Path(itda_lightning.__file__).parent)) + LOOPS
    compiled = python(loops, tmp_path)
    assert python(loops, tmp_path) == compiled
    cached = sorted(tmp_path.rglob("*.nbi"))
    assert len(cached) > 4
    for index in cached[::2]:
        index.unlink()
    assert python(loops, tmp_path) == compiled


@pytest.mark.long
def test_a_change_of_any_file_of_the_folder_leaves_nothing_in_the_cache_valid(tmp_path):
    folder = tmp_path / "loops"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(jit.__file__, folder / "jit.py")
    (folder / "caller.py").write_text(CALLER.format(package="loops"))
    run = "from loops.caller import caller; print(caller(1), caller.stats.cache_hits)"
    # numba sees no change in caller.py, and in leaf.py it would see none either: same size, same time.
    for number in (1, 2):
        (folder / "leaf.py").write_text(LEAF.format(package="loops", number=number))
        os.utime(folder / "leaf.py", (0, 0))
        result = str(1 + number)
        assert python(run, tmp_path / "cache", tmp_path).split()[0] == result  # compiled
        second = python(run, tmp_path / "cache", tmp_path).split(" ", 1)
        assert second[0] == result
        assert second[1] != "Counter()", "kept on disk"
