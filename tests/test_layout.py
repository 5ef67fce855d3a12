"""The tree keeps its shape: small files with a purpose each, and packaging that misses none."""

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_FOLDERS = ("bessemer", "compiler", "runtime", "frontends")
CODE_FOLDERS = (*PACKAGE_FOLDERS, "emulator", "tests", "benchmarks", "examples")
SOURCES = sorted(
    path.relative_to(ROOT) for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py")
)

MOST_LINES = 400
LONGER_FILES = {
    # Size arithmetic calls itself throughout: floordiv simplifies by bounds, bounds by floordiv.
    "compiler/ir/dims.py": 600,
    # The nodes' operators are the constructors, and only those may touch the table of the interned.
    "compiler/ir/expr.py": 450,
}
"""Files that are one idea and yet longer, with the lines they may have."""

EMPTY_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}


each_source = pytest.mark.parametrize("path", SOURCES, ids=str)


@each_source
def test_a_file_is_short_enough_to_read_at_once(path: Path) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= LONGER_FILES.get(path.as_posix(), MOST_LINES)


def test_the_list_of_longer_files_has_no_stale_entry() -> None:
    for name in LONGER_FILES:
        assert len((ROOT / name).read_text().splitlines()) > MOST_LINES, name


@each_source
def test_a_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse((ROOT / path).read_text()))


def test_a_name_says_what_is_inside() -> None:
    words = {path: set(path.with_suffix("").name.lower().split("_")) for path in SOURCES}
    assert [str(path) for path, found in words.items() if found & EMPTY_NAMES] == []
    classes = [
        f"{path}: {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Helper", "Util"))
    ]
    assert classes == []


def test_only_the_options_read_environment_variables() -> None:
    readers = [
        str(path)
        for path in SOURCES
        if path.parts[0] in PACKAGE_FOLDERS and path.as_posix() != "compiler/options.py"
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, (ast.Attribute, ast.Name))
        and (node.attr if isinstance(node, ast.Attribute) else node.id) in ("environ", "getenv")
    ]
    assert readers == []


def _setuptools() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["tool"]["setuptools"]
    return table


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
