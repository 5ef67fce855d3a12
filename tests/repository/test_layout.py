"""The tree keeps its shape: small files with a purpose each, and packaging that misses none."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_FOLDERS = ("bessemer", "compiler", "runtime", "frontends")
CODE_FOLDERS = (*PACKAGE_FOLDERS, "emulator", "tests", "benchmarks", "examples")
SOURCES = sorted(
    path.relative_to(ROOT) for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py")
)

MOST_LINES = 400
LONGER_FILES = {
    # Size arithmetic calls itself throughout: floordiv simplifies by bounds, bounds by floordiv.
    "compiler/ir/dims.py": 665,
    # The nodes' operators are the constructors, and only those may touch the table of the interned.
    "compiler/ir/expr.py": 460,
}
"""Files that are one idea and yet longer, with the lines they may have."""

EMPTY_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}


@dataclass(frozen=True)
class Facts:
    """What the tests want to know of a file, from reading it once."""

    lines: int
    docstring: str | None
    classes: tuple[str, ...]
    packages: frozenset[str]
    reads_environment: bool


@cache
def _facts() -> dict[str, Facts]:
    return {path.as_posix(): _facts_of((ROOT / path).read_text()) for path in SOURCES}


def _facts_of(text: str) -> Facts:
    tree = ast.parse(text)
    classes: list[str] = []
    modules: list[str] = []
    for node in _statements(tree):
        match node:
            case ast.ClassDef(name):
                classes.append(name)
            case ast.Import(aliases):
                modules += [alias.name for alias in aliases]
            case ast.ImportFrom(str() as module):
                modules.append(module)
    packages = frozenset(name.split(".")[0] for name in modules)
    reads = _reads_environment(text, tree)
    return Facts(len(text.splitlines()), ast.get_docstring(tree), tuple(classes), packages, reads)


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Those in a tree, which has many more expressions."""
    for part in ("body", "orelse", "handlers", "finalbody", "cases"):
        for node in getattr(tree, part, ()):
            if isinstance(node, ast.stmt):
                yield node
            yield from _statements(node)


def _reads_environment(text: str, tree: ast.AST) -> bool:
    if not re.search("environ|getenv", text):
        return False
    words = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
    }
    return not words.isdisjoint({"environ", "getenv"})


def _of_packages() -> dict[str, Facts]:
    """The facts of the files that are installed."""
    return {p: facts for p, facts in _facts().items() if p.split("/")[0] in PACKAGE_FOLDERS}


def test_a_file_is_short_enough_to_read_at_once() -> None:
    lines = {path: facts.lines for path, facts in _facts().items()}
    assert {p: n for p, n in lines.items() if n > LONGER_FILES.get(p, MOST_LINES)} == {}


def test_the_list_of_longer_files_has_no_stale_entry() -> None:
    assert [name for name in LONGER_FILES if _facts()[name].lines <= MOST_LINES] == []


def test_a_file_says_what_it_is_for() -> None:
    assert [path for path, facts in _facts().items() if not facts.docstring] == []


def test_a_name_says_what_is_inside() -> None:
    words = {path: set(path.with_suffix("").name.lower().split("_")) for path in SOURCES}
    assert [str(path) for path, found in words.items() if found & EMPTY_NAMES] == []
    named = [(path, name) for path, facts in _facts().items() for name in facts.classes]
    assert [one for one in named if one[1].endswith(("Manager", "Helper", "Util"))] == []


def test_only_the_options_read_environment_variables() -> None:
    readers = [path for path, facts in _of_packages().items() if facts.reads_environment]
    assert readers == ["compiler/options.py"]


def _project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def _setuptools() -> dict[str, Any]:
    table: dict[str, Any] = _project()["tool"]["setuptools"]
    return table


def test_what_is_imported_is_what_is_installed() -> None:
    imported = frozenset().union(*(facts.packages for facts in _of_packages().values()))
    others = imported - sys.stdlib_module_names - {"bessemer"}
    # protobuf, whose package is called google, is what onnx is made with.
    packages = {"onnx" if name == "google" else name.replace("_", "-") for name in others}
    wanted = {re.split(r"[^\w-]", entry)[0] for entry in _project()["project"]["dependencies"]}
    assert packages == wanted


def test_every_package_folder_is_packaged() -> None:
    """setuptools leaves out a folder that is not in its list, without a word."""
    folders = {path.parent for path in SOURCES if path.parts[0] in PACKAGE_FOLDERS}
    names = {
        ".".join(folder.parts if folder.parts[0] == "bessemer" else ("bessemer", *folder.parts))
        for folder in folders
    }
    assert names == set(_setuptools()["packages"])


def test_every_package_folder_has_an_init_file() -> None:
    folders = {path.parent for path in SOURCES if path.parts[0] in PACKAGE_FOLDERS}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_every_mapped_folder_is_linked_for_the_type_checker() -> None:
    for package, folder in _setuptools()["package-dir"].items():
        link = ROOT / ".package" / package.replace(".", "/")
        assert link.resolve() == ROOT / folder
        assert (ROOT / folder / "py.typed").exists()
