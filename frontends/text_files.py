"""Text files that a command writes: tables, figures, tuned choices."""

from __future__ import annotations

from pathlib import Path

from bessemer.compiler.errors import CompileError
from bessemer.runtime.whole_file import whole_file


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, and makes its folder. A link, a device or a pipe stays
    what it is, and the text goes through it. Raises CompileError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text)
            return
        with whole_file(path) as part:
            part.write_text(text)
    except OSError as error:
        raise CompileError(f"Cannot write {path}: {error.strerror or error}") from None
