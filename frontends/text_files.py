"""Text files that a command writes: tables, figures, tuned choices."""

from __future__ import annotations

from pathlib import Path

from bessemer.compiler.errors import CompileError
from bessemer.runtime.whole_file import whole_file


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, and makes its folder. Raises CompileError where it cannot
    be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(text)
    except OSError as error:
        raise CompileError(f"Cannot write {path}: {error.strerror or error}") from None
