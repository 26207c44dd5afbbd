"""Compile the loops of the single-step pursuits ahead of use."""

from typing import Any

import numpy as np

from itda_lightning.pursuit.kernels import gram_rows, products, single_steps
from itda_lightning.pursuit.kernels.named_arrays import Choice, Code, Gram, Path, Problem, Products, Progress, Screen
from itda_lightning.pursuit.kernels.screening import GROUP


def compile_all(half: bool = False) -> None:
    """Compile the loops for atoms in float32 (``half``: bfloat16), or load them from disk, by running each once."""
    one, index, double, flags = np.ones((1, 1), np.float32), np.zeros(1, np.int64), np.ones(1), np.ones(1, np.bool_)
    atoms = np.ones((1, 1), np.uint16) if half else one
    problem = Problem(one, atoms, index + 1, double, 0.0, 0.0, 0.0, True, False)
    screen = Screen(np.ones((1, 1, GROUP), np.float32), one[0].copy(), 0.0, 1)
    gram = Gram(np.ones((1, GROUP), np.int16), 1.0)
    path = Path(np.empty((0, 1), np.float32), np.empty((0, 1, 1), np.float32))
    code = Code(index[None] - 1, one.copy(), double.copy())
    gram_rows.pursue_rows(0, 1, problem, screen, gram, code, path, index.copy())
    gram_rows.pursue_and_append(problem, atoms.copy(), screen, gram, code, 1.0, flags.copy(), index.copy())
    codes = index[None] - 1, double[None].copy(), double.copy()
    progress = Progress(index, flags, *codes, one.copy(), double * 0, double[None, None].copy(), double[None].copy())
    choice = Choice(index[None] - 1, double[None] * 0)
    kinds: tuple[Any, ...] = np.int16, np.int32
    for kind in kinds:
        part = Products(np.ones((1, 1), kind), one[0].copy(), 0.0, 0, False)
        products.select(0, 1, problem, part, progress, choice)
    single_steps.take(0, 1, 0, problem, progress, choice, path)
