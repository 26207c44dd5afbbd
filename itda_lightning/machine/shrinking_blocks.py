"""Work through rows in blocks that shrink whenever a device runs out of memory."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from itda_lightning.machine.memory import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def in_blocks(n: int, size: int, work: Callable[[slice], Result], unit: int = 1) -> Iterator[Result]:
    """Yield ``work(rows)`` for consecutive blocks of ``size`` of n rows; at least one block, which may be empty.

    When memory runs out, the block is begun again with half of its rows, and the later ones have as few. With a
    ``unit``, sizes stay multiples of it, if ``size`` is one. Raises what ``work`` raises of a block of ``unit`` rows.

    Example:
        >>> from itda_lightning.machine.shrinking_blocks import in_blocks
        >>> list(in_blocks(5, 2, lambda rows: rows))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    start, size = 0, min(size, max(unit, -(-n // unit) * unit))
    while start < max(n, 1):
        try:
            result = work(slice(start, start + size))
        except (RuntimeError, MemoryError) as error:  # torch's OutOfMemoryError is a RuntimeError
            if size <= unit or not is_out_of_memory(error):
                raise
            size = max(unit, size // 2 // unit * unit)
            logger.warning("memory ran out: going on with %d activations at a time", size)
            continue  # outside of the handler, whose error keeps the tensors of the block
        yield result
        start += size
