"""Ask for a row of a large matrix before it is needed: rows that pursuits read next lie anywhere in it."""

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes


def prefetch_of(_typing: Any, rows: Any, _row: Any) -> Any:
    """Build the request for one row of a contiguous matrix, which is brought into the second cache."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        matrix = context.make_array(signature.args[0])(context, builder, arguments[0])
        width = builder.extract_value(matrix.strides, 0)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        start = builder.gep(builder.bitcast(matrix.data, byte), [builder.mul(width, arguments[1])])
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        options = [ir.Constant(word, 0), ir.Constant(word, 2), ir.Constant(word, 1)]  # to read, second cache, data
        zero, line = ir.Constant(width.type, 0), ir.Constant(width.type, LINE)
        with cgutils.for_range_slice(builder, zero, width, line) as (place, _):
            builder.call(fetch, [builder.gep(start, [place]), *options])
        return context.get_dummy_value()

    return types.none(rows, types.int64), generated


prefetch: Any = intrinsic(inspect.unwrap(prefetch_of))
