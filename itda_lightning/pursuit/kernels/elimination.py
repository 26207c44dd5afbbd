"""A step of Cholesky factorisation for as many columns as a vector register holds, side by side.

One column alone would wait for each quotient before the next. The order of all sums is that of single columns.
"""

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from itda_lightning.pursuit.kernels.sums import load

COLUMNS = 8


def elimination(
    _typing: Any, rows: Any, _place: Any, _stop: Any, row: Any, _first: Any, _pivot: Any, squares: Any
) -> Any:
    """Build one step, which solves for the entries of the columns in one row of a factor's transpose.

    ``rows[place] / pivot`` are the entries of ``row`` from ``first`` on. Their squares are subtracted from ``squares``,
    and ``row[p]`` times them from ``rows[p]``, for p after ``place`` and before ``stop``. ``rows`` is (rows, COLUMNS),
    ``squares`` (COLUMNS,).
    """
    if any(array.layout != "C" or array.dtype != types.float64 for array in (rows, row, squares)):
        return None

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, stop, first, pivot = (arguments[at] for at in (1, 2, 4, 5))
        data = [context.make_array(signature.args[at])(context, builder, arguments[at]).data for at in (0, 3, 6)]
        number, one = ir.DoubleType(), ir.Constant(place.type, 1)
        vector = ir.VectorType(number, COLUMNS)

        def spread(value: Any) -> Any:
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), COLUMNS), [0] * COLUMNS)
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(single, single, zeros)

        def store(value: Any, target: Any, start: Any) -> None:
            builder.store(value, builder.bitcast(builder.gep(target, [start]), vector.as_pointer()), align=8)

        def place_of(p: Any) -> Any:
            return builder.mul(p, ir.Constant(p.type, COLUMNS))

        zero = ir.Constant(place.type, 0)
        entries = builder.fdiv(load(builder, data[0], place_of(place), number, COLUMNS), spread(pivot))
        store(entries, data[1], first)
        less = builder.fmul(entries, entries)
        store(builder.fsub(load(builder, data[2], zero, number, COLUMNS), less), data[2], zero)
        with cgutils.for_range_slice(builder, builder.add(place, one), stop, one) as (p, _):
            weight = spread(builder.load(builder.gep(data[1], [p])))
            less = builder.fmul(entries, weight)
            store(builder.fsub(load(builder, data[0], place_of(p), number, COLUMNS), less), data[0], place_of(p))
        return context.get_dummy_value()

    return types.none(rows, types.int64, types.int64, row, types.int64, types.float64, squares), generated


eliminate: Any = intrinsic(inspect.unwrap(elimination))
