"""Passes and schedules ask for operators by name: a name that no operator has is never found."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import bessemer.compiler.driver  # noqa: F401  (registers the operators)
from bessemer.compiler.ir.functions import SCHEDULED_UNARY
from bessemer.compiler.ir.op import OPS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "compiler").rglob("*.py"))


def _asked_for(path: Path) -> Iterator[ast.expr]:
    """What a file compares operators' names with."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        match node:
            case ast.Compare(left, _, others) if _is_name_of_operator(left):
                yield from others
            case ast.Match(subject, cases) if _is_name_of_operator(subject):
                for pattern in (part for case in cases for part in ast.walk(case.pattern)):
                    if isinstance(pattern, ast.MatchValue):
                        yield pattern.value


def _is_name_of_operator(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(ast.Name("operator") | ast.Attribute(_, "operator"), "name"):
            return True
        case _:
            return False


def _strings(wanted: ast.expr, path: Path) -> set[str]:
    """The strings in an expression; a name in it is one of the file's constants."""
    found = set[str]()
    for node in ast.walk(wanted):
        match node:
            case ast.Constant(str() as text):
                found.add(text)
            case ast.Name(name) if name.isupper():
                module = importlib.import_module(
                    ".".join(("bessemer", *path.with_suffix("").parts))
                )
                constant = getattr(module, name)
                found |= {constant} if isinstance(constant, str) else set(constant)
    return found


def test_the_operators_that_the_compiler_asks_for_exist() -> None:
    asked = [
        (path.as_posix(), name)
        for path in SOURCES
        for wanted in _asked_for(path)
        for name in _strings(wanted, path)
    ]
    assert len(asked) > 100
    known = OPS.keys() | set(SCHEDULED_UNARY)
    assert [(path, name) for path, name in asked if name not in known] == []
