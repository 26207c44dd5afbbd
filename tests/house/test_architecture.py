"""The house rules that no linter knows: imports go down, and names stay where they belong."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import itda_lightning

PACKAGE = Path(itda_lightning.__file__).parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))

# The rooms from the bottom up: a module may import those of its own room, of the rooms above it in this list, and
# ``errors``, which imports nothing.
LAYERS = [
    "machine",
    "pursuit",
    "growth",
    "dictionary",
    "results",
    "measures",
    "activations",
    "saelens",
    "fitting",
    "evaluation",
    "comparison",
    "across_models",
    "report",
]
# The commands: imported by nothing, each may import every room.
DOORS = [
    "demo",
    "fit",
    "harvest",
    "evaluate",
    "compare",
    "export",
    "push",
    "decompose",
    "steer",
    "page",
    "neuronpedia",
    "delphi",
    "transfer",
    "diff",
    "similarity",
    "verify",
    "doctor",
]

# What some rooms may import at most: of this package (their own room and ``errors`` are always allowed) and of others
# (besides the standard library). A room that is not listed is bound by the order of the rooms only.
OF_THIS_PACKAGE = {
    "machine": set(),
    "pursuit": {"machine"},
    "growth": {"machine", "pursuit"},
    "dictionary": {"machine", "pursuit"},
    "results": {"machine", "dictionary.sources"},
    "measures": {"machine", "dictionary.sources"},
    "report": {"machine", "dictionary.sources", "results"},
}
OF_OTHERS = {
    "errors": set(),
    "pursuit": {"torch", "jaxtyping", "numpy", "numba", "llvmlite", "triton"},
    "growth": {"torch", "jaxtyping"},
    "measures": {"torch", "jaxtyping"},
    "dictionary": {"torch", "jaxtyping", "numpy", "safetensors"},
}
# What some rooms may not import of the standard library: pursuit and growth know nothing of files.
NOT_OF_THE_STANDARD_LIBRARY = {"pursuit": {"json", "os", "io"}, "growth": {"pathlib", "json", "os", "io"}}
MODELS = {"torch", "lightning", "transformers", "sae_lens", "transformer_lens", "datasets"}
NOT_OF_OTHERS = {"report": MODELS, "results": MODELS - {"torch"}}

SAELENS_NAMES = {"d_sae", "W_dec", "feature_acts"}


def room_of(path: Path, package: Path = PACKAGE) -> str:
    """Name the room of a file: its folder at the top of the package, or its own name if it stands at the root."""
    return path.relative_to(package).with_suffix("").parts[0]


def module_of(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path, package: Path = PACKAGE) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, wherever in the file it stands; relative ones are made absolute.

    What is imported from a package of this project is told as a module of its own where it is one.
    """
    here = module_of(path, package).split(".")
    if path.name != "__init__.py":
        here = here[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) - node.level + 1], node.module or ""]).strip(".") if node.level else ""
            base = base or node.module or ""
            for alias in node.names:
                inner = package.parent.joinpath(*base.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or (inner / "__init__.py").exists()
                yield node.lineno, f"{base}.{alias.name}" if base.split(".")[0] == NAME and is_module else base


def wrong_imports(path: Path, package: Path = PACKAGE) -> list[str]:
    """List what is wrong with a file's imports, each with what is allowed."""
    room = room_of(path, package)
    if room in LAYERS:
        allowed = {"errors", *LAYERS[: LAYERS.index(room) + 1]}
    elif room in ("__init__", "__main__", *DOORS):
        allowed = {"errors", *LAYERS, room}
    elif room == "errors":
        allowed = {"errors"}
    else:
        return [f"{room} is neither a room nor a door: give it its place in LAYERS"]
    problems = []
    for line, imported in imports(path, package):
        top, _, rest = imported.partition(".")
        where = f"{path.relative_to(package.parent)}:{line} imports {imported}"
        if top == NAME:
            target = rest.partition(".")[0]
            if not target:
                problems.append(f"{where}: import from the module that defines it, not from the whole package")
            elif target in DOORS and target != room:
                problems.append(f"{where}, a door: doors are imported by nothing")
            elif target not in allowed:
                problems.append(f"{where}, which lies above: {room} may import {sorted(allowed)}")
            elif room in OF_THIS_PACKAGE and not _is_among(rest, OF_THIS_PACKAGE[room] | {room, "errors"}):
                problems.append(f"{where}: of this package {room} may import only {sorted(OF_THIS_PACKAGE[room])}")
        elif top in sys.stdlib_module_names:
            if top in NOT_OF_THE_STANDARD_LIBRARY.get(room, ()):
                problems.append(f"{where}: {room} knows nothing of files")
        elif room in OF_OTHERS and top not in OF_OTHERS[room]:
            problems.append(f"{where}: of other packages {room} may import only {sorted(OF_OTHERS[room])}")
        elif top in NOT_OF_OTHERS.get(room, ()):
            problems.append(f"{where}: {room} may not import any of {sorted(NOT_OF_OTHERS[room])}")
    return problems


def _is_among(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def test_imports_go_down():
    problems = [problem for path in FILES for problem in wrong_imports(path)]
    assert not problems, "\n".join(problems)


def test_the_rooms_and_doors_are_those_of_the_picture():
    assert len(LAYERS) <= 13
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(LAYERS)
    at_the_root = {path.stem for path in PACKAGE.glob("*.py")}
    assert at_the_root - {"__init__", "__main__", "errors"} == set(DOORS)
    for table in (OF_THIS_PACKAGE, OF_OTHERS, NOT_OF_OTHERS, NOT_OF_THE_STANDARD_LIBRARY):
        assert set(table) <= {"errors", *LAYERS}


def test_no_import_closes_a_circle():
    modules = {module_of(path): path for path in FILES}
    imported = {
        name: {target for _, target in imports(path) if target in modules and target != NAME}
        for name, path in modules.items()
    }
    order = TopologicalSorter(imported)
    order.prepare()  # raises CycleError with the circle


def test_no_two_files_have_one_name():
    names = Counter(path.name for path in FILES if path.stem not in ("__init__", "__main__"))
    assert not [name for name, times in names.items() if times > 1]


@pytest.mark.parametrize(
    ("file", "code", "told"),
    [
        ("pursuit/x.py", "import itda_lightning.growth.rule", "lies above"),
        (
            "pursuit/x.py",
            "def f():\n    from itda_lightning.dictionary.sources import Source",
            ":2 imports itda_lightning.dict",
        ),
        ("growth/x.py", "import numpy", "of other packages growth may import only ['jaxtyping', 'torch']"),
        ("growth/x.py", "from pathlib import Path", "growth knows nothing of files"),
        (
            "growth/x.py",
            "from ..dictionary.sources import Sources",
            "imports itda_lightning.dictionary.sources, which lies above",
        ),
        (
            "growth/x.py",
            "from itda_lightning.dictionary import sources",
            "imports itda_lightning.dictionary.sources, which",
        ),
        ("dictionary/x.py", "from itda_lightning import Dictionary", "not from the whole package"),
        ("report/x.py", "from itda_lightning.evaluation import usage", "report may import only"),
        ("report/x.py", "import torch.nn", "report may not import any of"),
        ("evaluation/x.py", "from itda_lightning.fit import main", "doors are imported by nothing"),
        ("measures/x.py", "from itda_lightning.across_models import sides", "lies above"),
        ("other.py", "import torch", "neither a room nor a door"),
    ],
)
def test_a_wrong_import_is_found_and_explained(tmp_path, file, code, told):
    package = tmp_path / NAME
    for module in ("errors", "dictionary/sources", "evaluation/usage", Path(file).with_suffix("")):
        path = (package / module).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (package / file).write_text(code)
    (problem,) = wrong_imports(package / file, package)
    assert told in problem, problem


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("pursuit/x.py", "import math\nimport torch\nfrom itda_lightning.pursuit.code import SparseCode"),
        ("growth/x.py", "from itda_lightning.pursuit import pursue\nfrom .rule import GrowthRule"),
        ("report/x.py", "from itda_lightning.results.run_results import Usage\nimport jinja2"),
        ("fit.py", "from itda_lightning.fitting.module import ITDA\nimport lightning"),
    ],
)
def test_a_right_import_is_not_complained_about(tmp_path, file, code):
    path = tmp_path / NAME / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert wrong_imports(path, tmp_path / NAME) == []


def test_nothing_is_a_drawer_for_odds_and_ends():
    assert not [module_of(path) for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every name, attribute, argument, keyword and definition."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value


def test_saelens_names_stay_in_its_folder():
    others = [path for path in FILES if room_of(path) != "saelens"]
    found = [
        f"{path.name}:{line} {name}"
        for path in others
        for line, name in identifiers(parse(path))
        if name in SAELENS_NAMES
    ]
    assert not found, f"only saelens/ uses SAELens's names: {found}"


@pytest.mark.parametrize("code", ["x.W_dec", "d_sae = 3", "def f(d_sae): ...", "f(d_sae=3)", "def feature_acts(): ..."])
def test_names_of_saelens_are_found(code):
    assert {name for _, name in identifiers(ast.parse(code))} & SAELENS_NAMES
