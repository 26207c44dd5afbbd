"""What numba compiles: from which arrays, and how."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Single = NDArray[np.float32]
Double = NDArray[np.float64]
Entries = NDArray[np.int16]
Atoms = NDArray[np.float32] | NDArray[np.uint16]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function when it is first called, for use without the interpreter's lock, and keep the result on disk.

    numba's cache on disk notices changes of a function's own file only, but the functions that it calls are compiled in. So
    each file with such functions holds the digests of those that it takes any from (``COMPILED_IN``), which a test checks:
    none of them can change without it.
    """
    # Under pytest every function of the package comes wrapped in a check of its annotations, which is not for numba.
    return njit(nogil=True, cache=True, **options)(inspect.unwrap(function))


def vectorised(function: Callable[..., Any]) -> Any:
    """``compiled``, and arithmetic may be reordered for speed, which is for screens only; there are no infinities or NaNs."""
    return compiled(function, fastmath={"reassoc", "contract", "nnan", "nsz", "arcp"})
