"""One step of matching and of orthogonal matching pursuit, for an atom that has been chosen."""

import math
from typing import Any

import numpy as np

from itda_lightning.pursuit.kernels.jit import Atoms, Double, Index, Single, compiled
from itda_lightning.pursuit.kernels.named_arrays import Problem, Work
from itda_lightning.pursuit.kernels.sums import accurate_dot, all_dots, single


@compiled
def copy_to(target: Any, source: Any) -> None:
    """Copy a vector; ``target[:] = source`` would take seconds to compile, for its error message about shapes."""
    for q in range(source.shape[0]):
        target[q] = source[q]


@compiled
def widen(target: Single | Double, row: Atoms) -> None:
    """Copy an atom in single or double precision."""
    for q in range(target.shape[0]):
        target[q] = single(row[q])


@compiled
def gram_of(rows: Single | Double, first: int, count: int, gram: Double) -> None:
    """Fill in the inner products of ``rows[first:count]`` with those up to themselves, four by four.

    ``rows`` has three rows more than ``gram``, as a count may be no multiple of four; what is in them does not matter.
    """
    for s in range(first - first % 4, count, 4):
        for t in range(0, s + 1, 4):
            products = all_dots(
                (rows[s], rows[s + 1], rows[s + 2], rows[s + 3]), (rows[t], rows[t + 1], rows[t + 2], rows[t + 3])
            )
            for i in range(4):
                for j in range(4):
                    if s + i < count and t + j <= s + i:
                        gram[s + i, t + j] = products[4 * i + j]


@compiled
def subtract(a: Single, row: Atoms, weight: np.float32) -> None:
    """Subtract ``weight * row`` from a."""
    for q in range(a.shape[0]):
        a[q] -= weight * single(row[q])


@compiled
def subtract_atoms(residual: Single, atoms: Atoms, support: Index, weights: Single) -> None:
    """Subtract ``sum_s weights[s] * atoms[support[s]]`` from the residual, four atoms at a time."""
    count = support.shape[0]
    for s in range(0, count - 3, 4):
        atom0, atom1 = atoms[support[s]], atoms[support[s + 1]]
        atom2, atom3 = atoms[support[s + 2]], atoms[support[s + 3]]
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        for q in range(residual.shape[0]):
            near = w0 * single(atom0[q]) + w1 * single(atom1[q])
            residual[q] -= near + (w2 * single(atom2[q]) + w3 * single(atom3[q]))
    for s in range(count // 4 * 4, count):
        subtract(residual, atoms[support[s]], weights[s])


@compiled
def inner_products(atom: Atoms, atoms: Atoms, support: Index, result: Double) -> None:
    """Fill in the inner products of an atom with those of the support, in double precision."""
    for s in range(support.shape[0]):
        result[s] = accurate_dot(atom, atoms[support[s]])


@compiled
def combine_rows(result: Double, rows: Double, weights: Double, scale: float) -> None:
    """Fill in ``scale * sum_s weights[s] * rows[s]``; row s has s + 1 entries."""
    result[:] = 0.0
    for s in range(weights.shape[0]):
        weight = scale * weights[s]
        for p in range(s + 1):
            result[p] += weight * rows[s, p]


@compiled
def products_with_rows(rows: Double, vector: Double, result: Double) -> float:
    """Fill in the products of a lower triangular matrix's rows with a vector; return the sum of their squares."""
    squares = 0.0
    for s in range(vector.shape[0]):
        result[s] = accurate_dot(rows[s, : s + 1], vector[: s + 1])
        squares += result[s] * result[s]
    return squares


@compiled
def take_matching(
    atom: int, step: int, atoms: Atoms, residual: Single, support: Index, coefficients: Double, change: Double
) -> None:
    """Take one step of matching pursuit."""
    coefficient = accurate_dot(residual, atoms[atom])
    support[step], coefficients[step], change[step] = atom, coefficient, coefficient
    subtract(residual, atoms[atom], np.float32(coefficient))


@compiled
def take_orthogonal(
    i: int, atom: int, step: int, problem: Problem, residual: Single, support: Index, coefficients: Double, work: Work
) -> bool:
    """Take one step of orthogonal matching pursuit; return False and change nothing if the atom cannot be taken."""
    atoms, inverse, change, weights = problem.atoms, work.inverse, work.change, work.weights
    for s in range(step):
        if support[s] == atom:
            return False
    inner, along = work.scratch[0, :step], work.scratch[1, :step]
    inner_products(atoms[atom], atoms, support[:step], inner)
    new_direction = accurate_dot(atoms[atom], atoms[atom]) - products_with_rows(inverse, inner, along)
    if new_direction <= problem.min_new_direction:
        return False
    length = math.sqrt(new_direction)
    row = inverse[step]
    combine_rows(row[:step], inverse, along, -1.0 / length)
    row[step] = 1.0 / length
    # What the earlier directions explain stays so: only the new one is added.
    projection = accurate_dot(residual, atoms[atom]) / length
    coefficients[step] = 0.0
    for s in range(step + 1):
        change[s] = projection * row[s]
        if problem.nonnegative and coefficients[s] + change[s] < 0:
            return False
    support[step] = atom
    for s in range(step + 1):
        coefficients[s] += change[s]
        weights[s] = np.float32(coefficients[s])
    copy_to(residual, problem.x[i])
    subtract_atoms(residual, atoms, support[: step + 1], weights[: step + 1])
    return True
