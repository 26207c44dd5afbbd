"""Compile the loops with numba; name the types of their arrays."""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Single = NDArray[np.float32]
Double = NDArray[np.float64]
Entries = NDArray[np.int16]
Atoms = NDArray[np.float32] | NDArray[np.uint16]
Bits = NDArray[np.int32] | NDArray[np.int16]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]

MODULES = sorted(Path(__file__).parent.glob("*.py"))
FOLDER_DIGEST = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in MODULES)).hexdigest()[:16]


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function when it is first called, to run without the interpreter's lock; keep the result on disk.

    Numba's cache notices changes of a function's own file only, but the functions that it calls are compiled in. Its
    files are named after the function's qualified name, so that name holds the digest of the whole folder: whatever
    changes here, nothing compiled before is loaded.
    """
    # Under pytest every function of the package comes wrapped in a check of its annotations, which is not for numba.
    function = inspect.unwrap(function)
    function.__qualname__ = f"{function.__name__}-{FOLDER_DIGEST}"
    return njit(nogil=True, cache=True, **options)(function)


def vectorised(function: Callable[..., Any]) -> Any:
    """Compile with arithmetic that may be reordered for speed, for screens only; there are no infinities or NaNs."""
    return compiled(function, fastmath={"reassoc", "contract", "nnan", "nsz", "arcp"})
