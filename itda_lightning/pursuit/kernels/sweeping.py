"""The sweep operator (Goodnight 1979), which takes a column into a least-squares problem, or out of it.

Sweeping the Gram matrix of some atoms, with the projections of an activation as its last row, on all atoms leaves minus
the inverse of the Gram, and the least-squares coefficients as the last row. Sweeping on an atom again takes it out.
"""

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from itda_lightning.pursuit.kernels.jit import Double, compiled
from itda_lightning.pursuit.kernels.sums import load, with_product

ROWS, LANES = 4, 4  # that are changed at a time


@compiled
def padded_size(size: int) -> int:
    """Return the rows and columns of memory that a matrix of this size needs to be swept."""
    return -(-size // ROWS) * ROWS


def add_multiples_of(_typing: Any, matrix: Any, row: Any, weights: Any, _first: Any) -> Any:
    """Build the sum of four rows of a lower triangle, from ``first`` on, with multiples of one row.

    Loops over short rows would take longer to begin than to run, so LLVM is not left to make vectors of them.
    """

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = zip(signature.args[:3], arguments[:3], strict=True)
        matrix, row, weights = (context.make_array(kind)(context, builder, one) for kind, one in kinds)
        first, number = arguments[3], context.get_data_type(types.float64)
        vector, width = ir.VectorType(number, LANES), builder.extract_value(matrix.shape, 1)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        targets, factors = [], []
        for r in range(ROWS):
            at = builder.add(first, ir.Constant(first.type, r))
            targets.append(builder.gep(matrix.data, [builder.mul(at, width)]))
            weight = builder.load(builder.gep(weights.data, [at]))
            factor = builder.insert_element(vector(ir.Undefined), weight, ir.IntType(32)(0))
            factors.append(builder.shuffle_vector(factor, factor, lanes))
        stop = builder.add(first, ir.Constant(first.type, ROWS))
        with cgutils.for_range_slice(builder, first.type(0), stop, first.type(LANES)) as (q, _):
            added = load(builder, row.data, q, number, LANES)
            for target, factor in zip(targets, factors, strict=True):
                total = with_product(builder, load(builder, target, q, number, LANES), factor, added, fused=True)
                place = builder.bitcast(builder.gep(target, [q]), vector.as_pointer())
                builder.store(total, place, align=8)
        return context.get_dummy_value()

    return types.none(matrix, row, weights, types.int64), generated


add_multiples: Any = intrinsic(inspect.unwrap(add_multiples_of))


@compiled
def sweep(matrix: Double, pivot: int, size: int, scratch: Double) -> None:
    """Sweep the lower triangle of a symmetric matrix on a diagonal entry.

    Args:
        matrix, scratch: (padded, padded) and (2, padded), of which the first ``size`` rows and columns count.
    """
    column, weights, share = scratch[0], scratch[1], 1.0 / matrix[pivot, pivot]
    for s in range(pivot):
        column[s] = matrix[pivot, s]
    for s in range(pivot, size):
        column[s] = matrix[s, pivot]
    for s in range(size):
        weights[s] = -share * column[s]
    for s in range(0, size, ROWS):
        add_multiples(matrix, column, weights, s)
    for s in range(pivot):
        matrix[pivot, s] = -weights[s]
    for s in range(pivot + 1, size):
        matrix[s, pivot] = -weights[s]
    matrix[pivot, pivot] = -share
