"""Small faults for a source file: one changed comparison, operator, number, condition, statement or returned value.

A mutant changes one place of one function's body. Left alone is what no behaviour depends on or every run would notice:
annotations, decorators, docstrings and messages, assertions, log lines, imports, and the numbers of a module and of
defaults, which are settings.
"""

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip
OPPOSITES = {"min": "max", "any": "all", "argmin": "argmax", "amin": "amax", "minimum": "maximum", "ceil": "floor"}
OPPOSITES |= {value: key for key, value in OPPOSITES.items()}
# In the names of paths.
PATHS = ("path", "directory", "folder", "root")
LOGS = {"logger", "logging", "warnings"}


class Mutant(NamedTuple):
    """One change of one file: the bytes ``start..stop`` become ``after``."""

    key: str  # the same as long as the function reads the same
    file: str
    function: str
    line: int
    kind: str
    before: str
    after: str
    start: int
    stop: int

    def applied(self, source: bytes) -> bytes:
        """Return the source with the change."""
        return source[: self.start] + self.after.encode() + source[self.stop :]


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """Return all mutants of a file, whose path is relative to the root."""
    source = (root / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    result, seen = [], Counter[tuple[str, ...]]()
    for function, name in _functions(ast.parse(source)):
        for node, kind, after in _changes(function):
            start = starts[node.lineno - 1] + node.col_offset
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            stop = starts[node.end_lineno - 1] + node.end_col_offset
            before = source[start:stop].decode()
            place = (file, name, kind, before, after)
            seen[place] += 1
            key = hashlib.sha256("\0".join((*place, str(seen[place]))).encode()).hexdigest()[:12]
            result.append(Mutant(key, file, name, node.lineno, kind, before, after, start, stop))
    return result


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[ast.FunctionDef, str]]:
    """Yield the functions and methods of a module with their qualified names; inner functions belong to the outer."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node, prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from _functions(node, prefix)


def _changes(function: ast.FunctionDef) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    """Yield the nodes to replace, the kind of change and the new text."""
    returned = ast.unparse(function.returns) if function.returns else ""
    for statement in function.body:
        yield from _of_statement(statement, returned)


def _of_statement(node: ast.stmt, returned: str) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    if isinstance(node, ast.FunctionDef):
        for statement in node.body:
            yield from _of_statement(statement, ast.unparse(node.returns) if node.returns else "")
        return
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom | ast.ClassDef) or _is_silent(node):
        return
    if _may_be_dropped(node):
        # A function without its `super()` has no cell for the class, and could not take the other's place.
        yield node, "statement dropped", "__class__" if "super()" in ast.unparse(node) else "pass"
    if isinstance(node, ast.Raise):
        return  # the rest of it is a message
    if isinstance(node, ast.Return) and node.value is not None:
        text = ast.unparse(node.value)
        if returned == "bool":
            yield node.value, "value returned", f"(not ({text}))"
        elif returned.startswith("Bool"):
            yield node.value, "value returned", f"(~({text}))"
        elif returned in ("int", "float") or returned.startswith(("Float", "Int")):
            yield node.value, "value returned", f"({text} + 1)"
    if isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield node.test, "condition", f"(not ({ast.unparse(node.test)}))"
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "target", "targets"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt):
                yield from _of_statement(child, returned)
            elif isinstance(child, ast.expr):
                yield from _of_expression(child)
            elif isinstance(child, ast.AST):  # items of `with`, handlers of `try`
                for inner in ast.iter_child_nodes(child):
                    if isinstance(inner, ast.stmt):
                        yield from _of_statement(inner, returned)
                    elif isinstance(inner, ast.expr) and not isinstance(child, ast.ExceptHandler):
                        yield from _of_expression(inner)


def _is_silent(node: ast.stmt) -> bool:
    """Tell docstrings and log lines."""
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Constant):
        return True
    target = value.func if isinstance(value, ast.Call) else None
    return isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in LOGS


def _may_be_dropped(node: ast.stmt) -> bool:
    """Tell statements without which the rest still runs; a name that is set for the first time would be missed."""
    if isinstance(node, ast.Assign):
        target, names = node.targets[0], {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        return not isinstance(target, ast.Name | ast.Tuple) or (isinstance(target, ast.Name) and target.id in names)
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return call or isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break)


def _of_expression(node: ast.expr) -> Iterator[tuple[ast.expr, str, str]]:
    if isinstance(node, ast.JoinedStr):  # f-strings are messages and names
        return
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[place] = COMPARISONS[type(operator)]()
            yield node, "comparison", f"({ast.unparse(changed)})"
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_text(node):
        changed_sum = copy.deepcopy(node)
        changed_sum.op = ARITHMETIC[type(node.op)]()
        yield node, "arithmetic", f"({ast.unparse(changed_sum)})"
    elif isinstance(node, ast.BoolOp):
        changed_condition = copy.deepcopy(node)
        changed_condition.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield node, "boolean", f"({ast.unparse(changed_condition)})"
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node, "operator dropped", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.IfExp) and not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield node.test, "condition", f"(not ({ast.unparse(node.test)}))"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = node.value
        changed_value = (
            not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 2 or 1.0
        )
        yield node, "constant", repr(changed_value)
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in OPPOSITES:
            changed_call = copy.deepcopy(node)
            if isinstance(changed_call.func, ast.Name):
                changed_call.func.id = OPPOSITES[name]
            elif isinstance(changed_call.func, ast.Attribute):
                changed_call.func.attr = OPPOSITES[name]
            yield node, "call", ast.unparse(changed_call)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _of_expression(child)
        elif isinstance(child, ast.keyword):
            yield from _of_expression(child.value)
        elif isinstance(child, ast.comprehension):
            for inner in (child.iter, *child.ifs):
                yield from _of_expression(inner)


def _is_text(node: ast.BinOp) -> bool:
    """Tell sums of strings and paths, which fail at once with any other operator."""
    parts = (node.left, node.right)
    if any(isinstance(part, ast.JoinedStr | ast.Constant) and not _is_number(part) for part in parts):
        return True
    return isinstance(node.op, ast.Div) and any(word in ast.unparse(node.left).lower() for word in PATHS)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)
