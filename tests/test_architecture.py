"""The house rules that no linter knows: imports go down, names stay where they belong, nothing loads code from data."""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import itda_lightning

PACKAGE = Path(itda_lightning.__file__).parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up: a module may import those of its own line's unit and of the lines above it. A unit is a folder or a
# file at the top of the package, or a folder in such a folder that has a line of its own.
LAYERS = [
    "errors",
    "atomic_files",
    "command_line",
    "bundled",
    "ranks",
    "pursuit",
    "growth",
    "sources",
    "dictionary_files",
    "dictionary",
    "sharded_dictionary",
    "activations",
    "thresholds",
    "arguments",
    "validation",
    "checkpoints",
    "facts",
    "same_fit",
    "replicated",
    "module",
    "refinement",
    "callbacks",
    "fit_in_memory",
    "wandb_logging",
    "saelens",
    "run_directory",
    "loading",
    "similarity",
    "similarity.models",
    "evaluation",
    "report",
]

# What some units may import at most: of this package (their own unit is always allowed) and of others (besides the
# standard library). A unit that is not listed is bound by the order of the layers only.
OF_THIS_PACKAGE = {
    "errors": set(),
    "atomic_files": {"errors"},
    "command_line": {"errors"},
    "bundled": {"errors", "atomic_files"},
    "ranks": {"errors"},
    "pursuit": {"ranks"},
    "growth": {"ranks", "pursuit"},
    "sources": {"errors"},
    "dictionary_files": {"errors", "atomic_files"},
    "dictionary": {"errors", "pursuit", "sources", "dictionary_files"},
    "sharded_dictionary": {"errors", "ranks", "pursuit", "sources", "dictionary_files"},
    "similarity": {"errors", "sources"},
    "checkpoints": {"errors", "atomic_files"},
    "report": {
        "errors",
        "atomic_files",
        "sources",
        "wandb_logging",
        "evaluation.comparison",
        "evaluation.difference",
        "evaluation.results",
        "similarity.models.results",
    },
}
OF_OTHERS = {
    "errors": set(),
    "ranks": {"torch", "jaxtyping"},
    "pursuit": {"torch", "jaxtyping", "numpy", "numba", "llvmlite", "psutil", "triton"},
    "growth": {"torch", "jaxtyping"},
    "sources": {"torch", "jaxtyping"},
    "similarity": {"torch", "jaxtyping"},
    "dictionary_files": {"torch", "safetensors"},
    "dictionary": {"torch", "jaxtyping"},
    "sharded_dictionary": {"torch", "jaxtyping"},
}
# What some units may not import of the standard library: pursuit and growth know nothing of files (but for the
# container's memory limit and the memory nodes, which the kernel tells in files).
NOT_OF_THE_STANDARD_LIBRARY = {"pursuit": {"json", "os", "io"}, "growth": {"pathlib", "json", "os", "io"}}
MODELS = {"torch", "lightning", "transformers", "sae_lens", "transformer_lens", "datasets"}
NOT_OF_OTHERS = {"report": MODELS}

SAELENS_NAMES = {"d_sae", "W_dec", "feature_acts"}
MAX_LINES = 320


def unit_of(path: Path, package: Path = PACKAGE) -> str:
    return unit_named(path.relative_to(package).with_suffix("").parts)


def unit_named(parts: Sequence[str]) -> str:
    """The unit of a module by the parts of its name; a folder's ``__main__`` is a command, not of the folder's layer."""
    inner = ".".join(parts[:2])
    return inner if inner in LAYERS or parts[1:2] == ("__main__",) else parts[0]


def module_of(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def is_command(path: Path) -> bool:
    """Whether it has the guard of a program: ``if __name__ == "__main__"``."""
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in parse(path).body)


COMMANDS = {unit_of(path) for path in FILES if (path.parent == PACKAGE or path.stem == "__main__") and is_command(path)}


def wrong_imports(path: Path, package: Path = PACKAGE, commands: set[str] = COMMANDS) -> list[str]:
    """What is wrong with a file's imports, each with what is allowed."""
    unit = unit_of(path, package)
    if path == package / "__init__.py":
        allowed = [*LAYERS]
    elif unit in commands:
        allowed = [*LAYERS, unit]
    elif unit in LAYERS:
        allowed = LAYERS[: LAYERS.index(unit) + 1]
    else:
        return [f"{unit} is neither a layer nor a command: give it its place in LAYERS"]
    problems = []
    for line, imported in imports(path, package):
        top, _, rest = imported.partition(".")
        where = f"{path.relative_to(package.parent)}:{line} imports {imported}"
        if top == NAME:
            target = unit_named(tuple(rest.split(".")))
            if not target:
                problems.append(f"{where}: import from the module that defines it, not from the whole package")
            elif target in commands and target != unit:
                problems.append(f"{where}, a command: commands are imported by nothing")
            elif target not in allowed:
                problems.append(f"{where}, which lies above: {unit} may import {allowed}")
            elif unit in OF_THIS_PACKAGE and not _is_among(rest, OF_THIS_PACKAGE[unit] | {unit}):
                problems.append(f"{where}: of this package {unit} may import only {sorted(OF_THIS_PACKAGE[unit])}")
        elif top in sys.stdlib_module_names:
            if top in NOT_OF_THE_STANDARD_LIBRARY.get(unit, ()):
                problems.append(f"{where}: {unit} knows nothing of files")
        elif unit in OF_OTHERS and top not in OF_OTHERS[unit]:
            problems.append(f"{where}: of other packages {unit} may import only {sorted(OF_OTHERS[unit])}")
        elif top in NOT_OF_OTHERS.get(unit, ()):
            problems.append(f"{where}: {unit} may not import any of {sorted(NOT_OF_OTHERS[unit])}")
    return problems


def _is_among(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_imports_go_down(path):
    problems = wrong_imports(path)
    assert not problems, "\n".join(problems)


def test_every_layer_exists_and_is_no_command():
    units = {unit_of(path) for path in FILES}
    assert not set(LAYERS) - units, "layers without a module"
    assert not set(LAYERS) & COMMANDS, "commands belong above all layers, so not in the list"
    assert len(set(LAYERS)) == len(LAYERS)
    for table in (OF_THIS_PACKAGE, OF_OTHERS, NOT_OF_OTHERS, NOT_OF_THE_STANDARD_LIBRARY):
        assert set(table) <= set(LAYERS)


def test_there_are_commands_to_guard():
    assert {"fit", "evaluate", "export", "decompose", "page", "similarity.__main__"} <= COMMANDS


@pytest.mark.parametrize(
    ("file", "code", "told"),
    [
        (
            "pursuit/x.py",
            "import itda_lightning.errors",
            "lies above|of this package pursuit may import only ['ranks']",
        ),
        (
            "pursuit/x.py",
            "def f():\n    from itda_lightning.dictionary import Dictionary",
            ":2 imports itda_lightning.dict",
        ),
        ("growth/x.py", "import numpy", "of other packages growth may import only ['jaxtyping', 'torch']"),
        ("growth/x.py", "from pathlib import Path", "growth knows nothing of files"),
        ("growth/x.py", "from ..sources import Sources", "imports itda_lightning.sources, which lies above"),
        ("growth/x.py", "from itda_lightning import sources", "imports itda_lightning.sources, which lies above"),
        ("dictionary.py", "from itda_lightning import Dictionary", "not from the whole package"),
        ("report/x.py", "from itda_lightning.evaluation import usage", "report may import only"),
        ("report/x.py", "import torch.nn", "report may not import any of"),
        ("evaluation/x.py", "from itda_lightning.fit import main", "commands are imported by nothing"),
        (
            "similarity/x.py",
            "from itda_lightning.similarity.models import sides",
            "similarity.models, which lies above|",
        ),
        ("other.py", "import torch", "neither a layer nor a command"),
    ],
)
def test_a_wrong_import_is_found_and_explained(tmp_path, file, code, told):
    package = tmp_path / NAME
    for unit in ("errors", "sources", "dictionary", "evaluation/usage", Path(file).with_suffix("")):
        path = (package / unit).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (package / file).write_text(code)
    (problem,) = wrong_imports(package / file, package, {"fit"})
    assert any(part in problem for part in told.split("|")), problem


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("pursuit/x.py", "import math\nimport torch\nfrom itda_lightning.pursuit.code import SparseCode"),
        ("growth/x.py", "from itda_lightning.pursuit import pursue\nfrom .rule import GrowthRule"),
        ("report/x.py", "from itda_lightning.evaluation.results import Usage\nimport jinja2"),
        ("fit.py", "from itda_lightning.module import ITDA\nimport lightning"),
    ],
)
def test_a_right_import_is_not_complained_about(tmp_path, file, code):
    path = tmp_path / NAME / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert wrong_imports(path, tmp_path / NAME, {"fit"}) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines, more than {MAX_LINES}: split it by idea"


def test_nothing_is_a_drawer_for_odds_and_ends():
    assert not [module_of(path) for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every name, attribute, argument, keyword and definition."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_saelens_names_stay_in_its_folder(path):
    found = [f"{path.name}:{line} {name}" for line, name in identifiers(parse(path)) if name in SAELENS_NAMES]
    assert unit_of(path) == "saelens" or not found, f"only saelens/ uses SAELens's names: {found}"


def dangers(tree: ast.AST) -> Iterator[str]:
    """What could run code that comes with data."""
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if {module.partition(".")[0] for module in modules} & {
                "pickle",
                "dill",
                "cloudpickle",
                "joblib",
                "marshal",
            }:
                yield f"{where}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load" and keywords.get("weights_only") != "True":
                yield f"{where}: torch.load without weights_only=True"
            if called in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
                yield f"{where}: {called}"
            if keywords.get("trust_remote_code", "False") != "False":
                yield f"{where}: trust_remote_code"


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_no_file_runs_code_that_comes_with_data(path):
    assert not list(dangers(parse(path))), f"{path.name}: load data as data"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "load_dataset(name, trust_remote_code=True)",
    ],
)
def test_what_is_dangerous_is_found(code):
    assert len(list(dangers(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["torch.load(p, weights_only=True)", "model.eval()", "yaml.safe_load(t)", "json.load(f)"]
)
def test_what_is_harmless_is_not(code):
    assert not list(dangers(ast.parse(code)))


@pytest.mark.parametrize("code", ["x.W_dec", "d_sae = 3", "def f(d_sae): ...", "f(d_sae=3)", "def feature_acts(): ..."])
def test_names_of_saelens_are_found(code):
    assert {name for _, name in identifiers(ast.parse(code))} & SAELENS_NAMES
