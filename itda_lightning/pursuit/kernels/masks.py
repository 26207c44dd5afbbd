"""Compare 64 numbers with a bar at once; the bits of an integer tell which of them reach it."""

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Numbers that are compared at a time.
NUMBERS = 64


def mask_of(_typing: Any, numbers: Any, _start: Any, _eligible: Any, _bar: Any) -> Any:
    """Build the mask of ``numbers[start : start + NUMBERS]``, of a contiguous row, that reach a bar.

    A number does if its bits, as an integer of its width, are at least ``bar`` once ``eligible`` has masked them.
    """
    width: Any = types.int16 if numbers.dtype.bitwidth == 16 else types.int32

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = context.make_array(signature.args[0])(context, builder, arguments[0])
        bits = ir.VectorType(ir.IntType(width.bitwidth), NUMBERS)
        place = builder.bitcast(builder.gep(row.data, [arguments[1]]), bits.as_pointer())
        spread = [ir.Constant(bits, ir.Undefined)] * 2
        for at, number in enumerate(arguments[2:]):
            first = builder.insert_element(spread[at], number, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), NUMBERS), [0] * NUMBERS)
            spread[at] = builder.shuffle_vector(first, first, zeros)
        reached = builder.icmp_signed(">=", builder.and_(builder.load(place, align=1), spread[0]), spread[1])
        return builder.bitcast(reached, ir.IntType(NUMBERS))

    return types.uint64(numbers, types.int64, width, width), generated


def first_of(_typing: Any, mask: Any) -> Any:
    """Build the place of the lowest bit of a mask that is not 0."""

    def generated(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kinds = [ir.IntType(NUMBERS), ir.IntType(1)]
        name = f"llvm.cttz.i{NUMBERS}"
        count = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kinds[0], kinds), name)
        return builder.call(count, [arguments[0], ir.Constant(kinds[1], 1)])

    return types.int64(mask), generated


reached: Any = intrinsic(inspect.unwrap(mask_of))
lowest: Any = intrinsic(inspect.unwrap(first_of))
