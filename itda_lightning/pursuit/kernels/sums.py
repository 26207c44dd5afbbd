"""Sums of products in one order, for the compiled loops: the same bits whatever the optimiser makes of their callers.

LLVM turns a plain loop over products into vector instructions only if it may reorder the sum (``fastmath``). Then the
order, and so the last bits, depend on the function into which the loop is inlined, which differs between the process
that compiles it and those that load it from numba's cache. Here the order is written out: sums side by side that are
added in halves. It holds in callers that are compiled without ``fastmath``.
"""

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Sums side by side: for most of a row, for its rest, and for the rest of that. Each divides the one before.
LANES = 16, 4, 1
# Of many sums at a time, which then have registers enough, by the bytes of a number.
LANES_OF_PAIRS = {8: (8, 1), 4: (16, 4, 1)}


def as_numbers(builder: Any, entries: Any, numbers: Any) -> Any:
    """Convert a vector of floats, or of the bits of bfloat16 in 16-bit integers, to a vector of this LLVM type."""
    if isinstance(entries.type.element, ir.IntType):
        lanes = entries.type.count
        bits = builder.zext(entries, ir.VectorType(ir.IntType(32), lanes))
        bits = builder.shl(bits, ir.Constant(bits.type, [16] * lanes))
        entries = builder.bitcast(bits, ir.VectorType(ir.FloatType(), lanes))
    return entries if entries.type == numbers else builder.fpext(entries, numbers)


def as_single(_typing: Any, entry: Any) -> Any:
    """Convert an entry of an atom to float32: itself, or the number whose upper half it is."""
    if entry != types.uint16:
        return entry(entry), lambda *generated: generated[3][0]

    def widened(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits = builder.zext(arguments[0], context.get_value_type(types.uint32))
        shifted = builder.shl(bits, context.get_constant(types.uint32, 16))
        return builder.bitcast(shifted, context.get_value_type(types.float32))

    return types.float32(entry), widened


def sum_of_products(result: Any) -> Any:
    """Build the inner product of two contiguous rows of equal length, with products and sums of this numba type."""

    def typed(_typing: Any, a: Any, b: Any) -> Any:
        if any(row.layout != "C" for row in (a, b)):
            return None

        def generated(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return sums(context, builder, result, (a, b), arguments, [(0, 1)], LANES)[0]

        return result(a, b), generated

    return intrinsic(inspect.unwrap(typed))


def sums_of_all_pairs(rows: int) -> Any:
    """Build the inner products of ``rows`` rows with as many others, contiguous, in the precision that all have.

    They are a matrix, by rows. Each number that is loaded is in ``rows`` products, so they take less time than single
    ones.
    """

    def typed(_typing: Any, left: Any, right: Any) -> Any:
        of, number = (*left, *right), left[0].dtype
        if len(left) != rows or any(row.layout != "C" or row.dtype != number for row in of):
            return None
        result = types.UniTuple(number, rows * rows)

        def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            values = [
                value
                for tuple_, kind in zip(arguments, signature.args, strict=True)
                for value in cgutils.unpack_tuple(builder, tuple_, len(kind))
            ]
            pairs = [(i, rows + j) for i in range(rows) for j in range(rows)]
            totals = sums(context, builder, number, of, values, pairs, LANES_OF_PAIRS[number.bitwidth // 8])
            return context.make_tuple(builder, result, totals)

        return result(left, right), generated

    return intrinsic(inspect.unwrap(typed))


def sums(context: Any, builder: Any, result: Any, types_of: Any, arguments: Any, pairs: Any, lanes_of: Any) -> Any:
    """Sum the products of each pair of rows, all pairs on the way through the rows."""
    number = context.get_value_type(result)
    rows = [context.make_array(row)(context, builder, one) for row, one in zip(types_of, arguments, strict=True)]
    entries = [context.get_data_type(row.dtype) for row in types_of]
    length = builder.extract_value(rows[0].shape, 0)
    start, totals = ir.Constant(length.type, 0), [ir.Constant(ir.VectorType(number, lanes_of[0]), None)] * len(pairs)
    for lanes in lanes_of:
        while totals[0].type.count > lanes:
            totals = [halved(builder, total) for total in totals]
        places = [cgutils.alloca_once_value(builder, total) for total in totals]
        stop = builder.and_(length, ir.Constant(length.type, -lanes))
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(length.type, lanes)) as (q, _):
            parts = [load(builder, row.data, q, entry, lanes) for row, entry in zip(rows, entries, strict=True)]
            parts = [as_numbers(builder, part, ir.VectorType(number, lanes)) for part in parts]
            for place, (left, right) in zip(places, pairs, strict=True):
                builder.store(
                    with_product(builder, builder.load(place), parts[left], parts[right], len(pairs) > 1), place
                )
        start, totals = stop, [builder.load(place) for place in places]
    return [builder.extract_element(total, ir.Constant(ir.IntType(32), 0)) for total in totals]


def with_product(builder: Any, total: Any, left: Any, right: Any, fused: bool) -> Any:
    """Add a product to a sum; ``fused`` and in double precision in one instruction, which rounds once.

    A product of two numbers that were float32 is exact in double precision, so for them this is the same sum.
    """
    single = total.type.element == ir.FloatType()
    if single and not fused:
        return builder.fadd(total, builder.fmul(left, right))
    name = f"llvm.fma.v{total.type.count}f{32 if single else 64}"
    fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(total.type, [total.type] * 3), name)
    return builder.call(fused, [left, right, total])


def load(builder: Any, data: Any, start: Any, entry: Any, lanes: int) -> Any:
    """Load a vector of entries of this LLVM type from ``start`` on."""
    place = builder.bitcast(builder.gep(data, [start]), ir.VectorType(entry, lanes).as_pointer())
    return builder.load(place, align=1)


def halved(builder: Any, vector: Any) -> Any:
    """Add the second half of a vector to its first."""
    half = vector.type.count // 2
    places = ir.VectorType(ir.IntType(32), half)
    low, high = (ir.Constant(places, list(range(first, first + half))) for first in (0, half))
    return builder.fadd(builder.shuffle_vector(vector, vector, low), builder.shuffle_vector(vector, vector, high))


single: Any = intrinsic(inspect.unwrap(as_single))
# Inner products in single and in double precision.
dot: Any = sum_of_products(types.float32)
accurate_dot: Any = sum_of_products(types.float64)
all_dots: Any = sums_of_all_pairs(4)
