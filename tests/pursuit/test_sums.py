"""Sums of products in one order: what the compiled loops compute has the same bits wherever it was compiled."""

import ast
import hashlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from itda_lightning.pursuit.kernels.sums import LANES, accurate_dot, dot

PURSUIT = Path(__file__).parents[2] / "itda_lightning" / "pursuit" / "kernels"
# Codes by all pursuits, with a Gram and without, of atoms in both dtypes.
ENCODE = """
import hashlib
import torch
from itda_lightning.pursuit import PreparedAtoms, pursue
from tests.pursuit.cases import make_case

torch.set_num_threads(1)
case = make_case("correlated", 203, 300, 24, 8, 1.0, 9)
for dtype in (torch.float32, torch.bfloat16):
    for pursuit in ("mp", "omp", "gomp"):
        for gram in (False, True):
            prepared = PreparedAtoms(case.atoms.to(dtype), len(case.atoms))
            assert prepared.compiled
            if gram:
                prepared.build_gram()
            code = pursue(pursuit, case.x.float(), prepared, case.k)
            digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in code))
            print(dtype, pursuit, gram, digest.hexdigest())
"""


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


def imported(module):
    """Names of the pursuit's modules that a module of it imports from."""
    prefix = "itda_lightning.pursuit.kernels."
    nodes = ast.walk(ast.parse((PURSUIT / f"{module}.py").read_text()))
    return {
        node.module.removeprefix(prefix) for node in nodes if isinstance(node, ast.ImportFrom) if prefix in node.module
    }


def test_numbas_cache_notices_changes_of_what_is_compiled_in():
    modules = [path.stem for path in PURSUIT.glob("*.py") if "jit" in imported(path.stem) and path.stem != "compiled"]
    assert sorted(modules) == ["generalised_rows", "pursuits", "screening", "steps"]
    for module in modules:
        actual = {of: hashlib.sha256((PURSUIT / f"{of}.py").read_bytes()).hexdigest()[:12] for of in imported(module)}
        known = import_module(f"itda_lightning.pursuit.kernels.{module}").COMPILED_IN
        assert known == actual, f"COMPILED_IN of {module}.py is of other files: numba would keep their old machine code"


def test_codes_are_the_same_bits_compiled_and_from_whatever_part_of_the_cache(tmp_path):
    def encode():
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ENCODE], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    compiled = encode()
    assert len(compiled) == 12
    without_gram, with_gram = compiled[::2], compiled[1::2]
    for one, other in zip(without_gram, with_gram, strict=True):
        assert one.split()[-1] == other.split()[-1]
    assert encode() == compiled
    cached = sorted(tmp_path.rglob("*.nbi"))
    assert len(cached) > 20
    for number, index in enumerate(cached):
        if number % 3:
            index.unlink()
    assert encode() == compiled
