"""The tests nearest to a file of the package, by the names of test files and by what they import."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

KERNELS = "itda_lightning/pursuit/kernels/"
# Whole pursuits alone reach the compiled loops: the test files to run for each of their files, and for the others.
OF_LOOPS = {
    "gram_rows.py": ("pursuit/test_laws.py", "growth/test_sequential.py", "pursuit/test_growing_dictionary.py"),
    "products.py": ("pursuit/test_generalised.py", "pursuit/test_laws.py", "pursuit/test_against_oracle.py"),
    "several_steps.py": ("pursuit/test_generalised.py",),
    "elimination.py": ("pursuit/test_generalised.py",),
    "support_rows.py": ("fitting/test_relabelling.py",),
    "pruning_rows.py": ("pursuit/test_pruning.py",),
    "triton_kernels.py": ("pursuit/test_triton.py",),
    "sums.py": ("pursuit/test_sums.py", "pursuit/test_against_oracle.py", "pursuit/test_half_storage.py"),
    "": ("pursuit/test_against_oracle.py", "pursuit/test_laws.py", "pursuit/test_growing_dictionary.py"),
}
# Another form than the compiled one of single steps reaches none of these.
NOT_COMPILED = re.compile(r"\[.*torch (gram|residual).*\]")


def nearest(items: Sequence[Any], root: Path, file: str, function: str) -> list[Any]:
    """Sort tests by nearness: the file's own, those that name the function, those that import the file, its room's."""
    if file.startswith(KERNELS):
        places = OF_LOOPS.get(PurePath(file).name, OF_LOOPS[""])
        chosen = [item for place in places for item in items if item.nodeid.startswith(f"tests/{place}")]
        return [item for item in chosen if not NOT_COMPILED.search(item.nodeid)]
    ranks: dict[Path, int] = {}
    for path in {item.path for item in items}:
        ranks[path] = _rank(path, path.relative_to(root), file, function)
    return sorted((item for item in items if ranks[item.path] < 4), key=lambda item: ranks[item.path])


def _rank(path: Path, place: Path, file: str, function: str) -> int:
    stem, names = PurePath(file).stem, [name for name in function.split(".") if not name.startswith("_")]
    text = path.read_text(encoding="utf-8")
    if place.stem == f"test_{stem}":
        return 0
    if names and re.search(rf"\b{names[-1]}\b", text):
        return 1
    if re.search(rf"\b{stem}\b", text) or any(re.search(rf"\b{name}\b", text) for name in names):
        return 2
    return 3 if PurePath(file).parts[1] == place.parts[1] else 4
