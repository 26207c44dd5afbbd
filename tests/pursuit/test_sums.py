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
from itda_lightning.pursuit.kernels.steps import gram_of
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


@given(
    d=st.integers(1, 40),
    count=st.integers(1, 14),
    given=st.integers(0, 13),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_a_gram_is_filled_in_from_a_row_on_and_up_to_the_diagonal(d, count, given, seed, dtype):
    first = min(given, count - 1)
    chosen = np.random.default_rng(seed).standard_normal((count + 3, d)).astype(dtype)
    gram = np.full((count, count), np.nan)
    gram_of(chosen, first, count, gram)
    wanted = np.tril(np.ones((count, count), bool)) & (np.arange(count) >= first - first % 4)[:, None]
    np.testing.assert_array_equal(~np.isnan(gram), wanted)
    exact = chosen[:count].astype(np.float64)
    expected = exact @ exact.T
    np.testing.assert_allclose(gram[wanted], expected[wanted], rtol=0, atol=500 * np.finfo(dtype).eps * d)


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
    maxima, gram = np.zeros(2, np.float32), np.zeros((n, GROUP), np.int16)
    atom, score, _ = select_among(scores, maxima, residual, atoms, gram, False, exact, error, error)
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


WRITE = """
import os
from pathlib import Path

Path({path!r}).write_text({text!r})
os.utime({path!r}, (0, 0))
"""
LOSE_HALF = """
from pathlib import Path

indices = sorted(Path({cache!r}).rglob("*.nbi"))
assert len(indices) > 4
for index in indices[::2]:
    index.unlink()
"""


# Of the packages around the loops only their places: importing the rest takes longer than compiling the loops.
LOOPS_ONLY = """
import sys, types
for name, place in (("itda_lightning", {place!r}), ("itda_lightning.pursuit", {place!r} + "/pursuit")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]
"""


# Numba is imported and made ready to compile once; what it compiles and loads is in processes of their own.
ONE_AFTER_ANOTHER = """
import os, sys, numba
numba.njit(lambda x: x + 1)(1)
for code in {codes!r}:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        exec(code, {{}})
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
"""


def python(*codes: str, cache: Path, paths: tuple[Path, ...] = ()) -> list[str]:
    """Run each code in a new process with numba's cache at that place; return the lines that they print."""
    # Without byte code, in which Python would not see a change of the same size at the same time either.
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER.format(codes=codes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_results_are_the_same_bits_compiled_and_from_whatever_part_of_the_cache(tmp_path):
    loops = LOOPS_ONLY.format(place=str(Path(itda_lightning.__file__).parent)) + LOOPS
    compiled, cached, half_cached = python(loops, loops, LOSE_HALF.format(cache=str(tmp_path)), loops, cache=tmp_path)
    assert compiled == cached == half_cached
    assert len(compiled) == 64


@pytest.mark.long
def test_a_change_of_any_file_of_the_folder_leaves_nothing_in_the_cache_valid(tmp_path):
    folder = tmp_path / "loops"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(jit.__file__, folder / "jit.py")
    (folder / "caller.py").write_text(CALLER.format(package="loops"))
    run = "from loops.caller import caller; print(caller(1), sum(caller.stats.cache_hits.values()))"
    # numba sees no change in caller.py, and in leaf.py it would see none either: same size, same time.
    first, second = (
        WRITE.format(path=str(folder / "leaf.py"), text=LEAF.format(package="loops", number=number))
        for number in (1, 2)
    )
    told = python(first, run, run, second, run, run, cache=tmp_path / "cache", paths=(tmp_path,))
    assert told == ["2 0", "2 1", "3 0", "3 1"], "compiled, kept on disk, compiled again, kept on disk"
