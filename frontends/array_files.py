"""Arrays by name in .npz files: inputs, outputs, data to train on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.runtime.whole_file import whole_file


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name; raises CompileError where it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except TypeError:
        raise CompileError(
            f"{path} holds one array without a name; write an .npz file, by np.savez."
        ) from None
    except OSError as error:
        raise CompileError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, AttributeError, EOFError, BadZipFile):
        # NumPy's own message takes any file for a pickle, and advises to load it.
        raise CompileError(
            f"{path} is not an .npz file of arrays, as np.savez writes them. Arrays of objects "
            "cannot be read; strings want a dtype such as <U9."
        ) from None


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes an .npz file, whole or not at all; strings as NumPy's, which need no pickle."""
    plain = {
        name: array.astype(str) if array.dtype == object else array
        for name, array in arrays.items()
    }
    try:
        with whole_file(path) as part, part.open("wb") as file:
            np.savez(file, **plain)  # type: ignore[arg-type]
    except OSError as error:
        raise CompileError(f"Cannot write {path}: {error.strerror or error}") from None
