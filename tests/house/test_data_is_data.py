"""Nothing that is loaded can run code."""

import ast
from collections.abc import Iterator

import pytest

from tests.house.test_architecture import FILES, parse


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


def test_no_file_runs_code_that_comes_with_data():
    found = [f"{path.name} {danger}" for path in FILES for danger in dangers(parse(path))]
    assert not found, f"load data as data: {found}"


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
