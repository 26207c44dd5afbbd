"""Put a mutant's code in the place of a function's, in a process that has imported everything."""

import gc
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from benchmarks.mutation.mutants import Mutant

KERNELS = "itda_lightning.pursuit.kernels"


def replace(mutant: Mutant, path: Path) -> None:
    """Give every function made from the mutant's place its code, whatever wraps it or has imported it.

    Compiled loops are made anew, with all loops that call them; they compile when they are first called. The Triton
    kernel is read from its file, so its module is loaded from a changed one.
    """
    source = mutant.applied(path.read_bytes())
    if mutant.file.endswith("triton_kernels.py"):
        _replace_module(f"{KERNELS}.triton_kernels", source)
        return
    (code,) = (c for c in _codes(compile(source, str(path), "exec")) if c.co_qualname == mutant.function)
    gc.unfreeze()  # what is frozen is not listed
    changed = [
        function
        for function in gc.get_objects()
        if isinstance(function, FunctionType)
        and function.__code__.co_filename == str(path)
        and function.__code__.co_qualname == mutant.function
    ]
    gc.freeze()
    assert changed, f"no function {mutant.function} of {path} is imported"
    for function in changed:
        function.__code__ = code
    if KERNELS.replace(".", "/") in mutant.file:
        _compile_anew(changed)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _compile_anew(changed: list[FunctionType]) -> None:
    from numba import njit

    modules = [vars(module) for name, module in sys.modules.items() if name.startswith(("itda_lightning", "tests"))]
    loops = {id(value): value for names in modules for value in names.values() if hasattr(value, "py_func")}
    affected = {key for key, loop in loops.items() if loop.py_func in changed}
    while more := {key for key, loop in loops.items() if key not in affected and _called(loop) & affected}:
        affected |= more
    for key in affected:
        fast = loops[key].targetoptions.get("fastmath", False)
        anew = njit(nogil=True, fastmath=fast)(loops[key].py_func)
        for names in modules:
            names.update({name: anew for name, value in names.items() if id(value) == key})


def _called(loop: Any) -> set[int]:
    function = loop.py_func
    return {id(function.__globals__.get(name)) for name in function.__code__.co_names}


def _replace_module(name: str, source: bytes) -> None:
    place = Path(tempfile.mkdtemp(prefix="mutant-")) / "triton_kernels.py"
    place.write_bytes(source)
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for other in list(sys.modules.values()):
        for attribute, value in list(vars(other).items()) if hasattr(other, "__dict__") else []:
            if value is sys.modules.get(name):
                setattr(other, attribute, module)
    sys.modules[name] = module
