"""What users install: a pure-Python wheel that holds everything and works anywhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_FOLDERS = ("bessemer", "compiler", "runtime", "frontends")


def _run(*command: str | Path, folder: Path) -> str:
    """What a command prints that finds no other modules than those where it is told to look."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves old files in its build folder and packs them again."""
    source = tmp_path_factory.mktemp("source")
    for folder in PACKAGE_FOLDERS:
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=unwanted)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    target = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir")
    _run(sys.executable, *build, target, source, folder=target)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel in it; dependencies come from ours."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--no-deps", wheel)
    _run(sys.executable, *install, folder=folder)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    Path(paths["purelib"], "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_the_wheel_is_pure_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in PACKAGE_FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    ]
    expected = {name if name.startswith("bessemer/") else f"bessemer/{name}" for name in files}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert found == expected
    assert licence


def test_every_module_imports_away_from_the_repository(installed: Path, tmp_path: Path) -> None:
    program = """
import importlib, pkgutil, bessemer
for module in pkgutil.walk_packages(bessemer.__path__, "bessemer."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(bessemer.__file__)
"""
    printed = _run(installed, "-c", program, folder=tmp_path)
    assert Path(printed.strip()).is_relative_to(installed.parent.parent)


def test_the_wheel_does_not_disturb_the_source_tree(installed: Path) -> None:
    """Python started there finds the face folder first, and then has to find the rest."""
    program = "import bessemer.compiler, bessemer.runtime; print(bessemer.compiler.__file__)"
    printed = _run(installed, "-c", program, folder=ROOT)
    assert Path(printed.strip()) == ROOT / "compiler" / "__init__.py"


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    printed = _run(installed.with_name("bessemer"), "--help", folder=tmp_path)
    assert "compile" in printed


def test_importing_the_face_loads_the_standard_library_only() -> None:
    """Hence it is fast, and a program that only loads artifacts needs neither LLVM nor onnx."""
    program = """
import sys
before = set(sys.modules)
import bessemer
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - sys.stdlib_module_names))
"""
    assert _run(sys.executable, "-c", program, folder=ROOT).split() == ["bessemer"]


def test_every_public_name_leads_somewhere() -> None:
    program = (
        "import bessemer; print(*(getattr(bessemer, name).__name__ for name in bessemer.__all__))"
    )
    printed = _run(sys.executable, "-c", program, folder=ROOT).split()
    assert {"CompileError", "compile", "load"} <= set(printed)


def test_an_unknown_name_is_an_attribute_error() -> None:
    program = """
import bessemer
try:
    bessemer.no_such_name
except AttributeError as error:
    print(error)
"""
    printed = _run(sys.executable, "-c", program, folder=ROOT)
    assert printed == "module 'bessemer' has no attribute 'no_such_name'\n"


def test_the_version_is_the_project_s() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    printed = _run(
        sys.executable, "-c", "import bessemer; print(bessemer.__version__)", folder=ROOT
    )
    assert printed.strip() == project["version"]
