"""The checks that read the code without running it: layers, lint, format, types."""

import subprocess
import sys
from pathlib import Path

import pytest


def _check(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def _tool(name: str) -> str:
    """The tool of this environment, which need not be on the PATH."""
    return str(Path(sys.executable).with_name(name))


def test_imports_run_one_way(root: Path) -> None:
    _check(
        _tool("lint-imports"),
        "--config",
        "../pyproject.toml",
        "--no-cache",
        folder=root / ".package",
    )


def test_the_linter_is_content(root: Path) -> None:
    _check(_tool("ruff"), "check", folder=root)


def test_the_code_is_formatted(root: Path) -> None:
    _check(_tool("ruff"), "format", "--check", folder=root)


def test_the_types_hold(root: Path) -> None:
    _check(sys.executable, "-m", "mypy", folder=root)
