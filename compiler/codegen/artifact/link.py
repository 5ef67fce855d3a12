"""Writes a model's code and weights to files: an object file, a static or shared library, and the
header.

    model.o, model.a        need nothing but this file
    model.so                is linked by the C compiler, or by the ziglang package if there is none
    model.h                 beside each of them
    model.weights           beside each of them, if the weights are not inside

All are built in a folder beside their place and then renamed, so that they appear whole or not at
all. The same input gives the same bytes, wherever it is built.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from bessemer.compiler.codegen.artifact.elf import archive_parts, check_symbols, labelled, with_room
from bessemer.compiler.codegen.artifact.header import header_text
from bessemer.compiler.codegen.artifact.library_header import library_header
from bessemer.compiler.codegen.artifact.machine import Machine, compile_object
from bessemer.compiler.codegen.artifact.merge_objects import merge_objects
from bessemer.compiler.codegen.support.processor import architecture
from bessemer.compiler.codegen.support.string_table import EXPORTS as STRING_EXPORTS
from bessemer.compiler.codegen.support.support import (
    EXPORTS,
    interface_text,
    shared_texts,
    support_text,
)
from bessemer.compiler.codegen.support.weights import BESIDE, INSIDE, weights_label
from bessemer.compiler.codegen.training.library import EXPORTS as LIBRARY_EXPORTS
from bessemer.compiler.codegen.training.library import library_text
from bessemer.compiler.codegen.training.library_parts import Library
from bessemer.compiler.errors import CompileError, InternalError
from bessemer.runtime.artifact import Placement, Signature
from bessemer.runtime.whole_file import folder_beside

Bytes = npt.NDArray[np.uint8]

SUFFIXES = (".so", ".o", ".a")

# Code reaches the weights with 32-bit distances.
_LARGEST_INSIDE = 2**31 - 2**27


@dataclass(frozen=True, eq=False)
class Code:
    """A compiled model, or training library, without its weights: the object file, and its
    description."""

    signature: Signature
    object: bytes
    library: Library | None = None

    def header(self, weights_file: str) -> str:
        """The C header; `weights_file` is the name of the file that holds the weights, or empty."""
        if self.library is None:
            return header_text(self.signature, weights_file)
        return library_header(self.signature, self.library, weights_file)

    @property
    def exports(self) -> tuple[str, ...]:
        """The functions of the C interface, without the prefix."""
        if self.library is not None:
            return LIBRARY_EXPORTS
        return EXPORTS if self.signature.strings is None else EXPORTS + STRING_EXPORTS


def weights_digest(weights: Bytes) -> str:
    """The SHA-256 of the weights for the signature; "" if there are no weights."""
    return sha256(weights.data).hexdigest() if weights.size else ""


_NAME = re.compile(r'(?:define|declare) [^@]*@("[^"]*"|[\w.$-]+)')


def module_text(signature: Signature, texts: Sequence[str], library: Library | None = None) -> str:
    """The LLVM IR texts of a model or library, and its own support code, as one module. Code that
    it shares with other artifacts is not in it (see `shared_objects` and `interface_object`).

    A function may be declared in several texts, also where another text defines it; no two texts
    may define the same name. Lines that begin with `target` or `source_filename` are dropped.
    """
    support = support_text(signature) if library is None else library_text(signature, library)
    lines = [line for text in (support, *texts) for line in text.splitlines()]
    known = {
        found[1] for line in lines if line.startswith("define ") and (found := _NAME.match(line))
    }
    kept = []
    for line in lines:
        if line.startswith("declare ") and (found := _NAME.match(line)):
            if found[1] in known:
                continue
            known.add(found[1])
        elif line.startswith(("target ", "source_filename")):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n"


def shared_objects(
    triple: str, features: tuple[str, ...], machine: Machine, has_entry: bool = True
) -> list[bytes]:
    """The object files that are the same in all artifacts for a processor. A process compiles them
    once. `has_entry`: the artifact is called from Python."""
    texts = shared_texts(triple, features, has_entry)
    return [_shared_object(text, machine) for text in texts]


def interface_object(prefix: str, machine: Machine, has_entry: bool = True) -> bytes:
    """The object file of the C API, which is the same in all artifacts with this prefix. A process
    compiles it once. `has_entry` as in `shared_objects`."""
    return _shared_object(interface_text(prefix, machine.triple, has_entry), machine)


_shared_object = lru_cache(maxsize=64)(compile_object)


def compile_code(
    signature: Signature,
    texts: Sequence[str],
    machine: Machine,
    passes: Sequence[str] = (),
    parts: Sequence[Future[bytes]] = (),
    library: Library | None = None,
) -> Code:
    """Compiles the model's LLVM IR texts and the support code into one object file.

    The texts define PREFIX_body and PREFIX_workspace (see support.py), or those of each graph of a
    library, as internal functions. `parts` are object files with hidden functions that the texts
    declare (see parts.py). Raises InternalError if the result would define or need a symbol that an
    artifact must not.
    """
    code = compile_object(module_text(signature, texts, library), machine, passes)
    has_entry = library is None
    shared = shared_objects(signature.triple, signature.cpu_features, machine, has_entry)
    interface = interface_object(signature.prefix, machine, has_entry)
    code = merge_objects([code, *shared, interface, *(part.result() for part in parts)])
    check_symbols(code, signature.prefix)
    return Code(signature, code, library)


def save(
    code: Code, weights: Bytes, path: str | Path, placement: Placement = "inside", linker: str = ""
) -> list[Path]:
    """Writes the artifact and the files beside it. Returns the files written, the artifact first.

    The suffix of `path` decides what is built: .so, .o or .a. `linker` is a C compiler's command,
    for .so only. Raises CompileError for another suffix, a folder that cannot be written to,
    weights too large to be inside, or a .so without a linker for the target.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise CompileError(
            f"'{target.name}' has no suffix that says what to build. "
            "Use .so (shared library), .o (object file) or .a (static library)."
        )
    if placement not in ("inside", "beside"):
        raise CompileError(f"placement={placement!r} is neither 'inside' nor 'beside'.")
    if code.signature.weights_bytes != weights.nbytes:
        raise InternalError(
            f"{weights.nbytes} bytes of weights, {code.signature.weights_bytes} said"
        )
    try:
        return _save(code, weights, target, placement, linker)
    except OSError as error:
        raise CompileError(f"Cannot write {target}: {error.strerror or error}") from None


def _save(
    code: Code, weights: Bytes, target: Path, placement: Placement, linker: str
) -> list[Path]:
    command = linker_command(code.signature.triple, linker) if target.suffix == ".so" else []
    inside = placement == "inside" or not weights.size
    names = [target.name, target.with_suffix(".h").name]
    if not inside:
        names.append(target.with_suffix(".weights").name)
    # The folder is on the same disk, so that only renaming is left once everything is built.
    with folder_beside(target) as folder:
        source = folder / ("model.o" if command else target.name)
        with source.open("w+b") as file:
            if target.suffix == ".a":
                _write_archive(file, code, weights, inside)
            else:
                _write_object(file, code, weights, inside)
        if command:
            _link(command, folder, source.name, target.name)
        (folder / names[1]).write_text(code.header("" if inside else names[2]))
        if not inside:
            with (folder / names[2]).open("wb") as file:
                file.write(_label(code.signature, BESIDE))
                file.write(weights.data)
        for part in reversed(names):
            os.replace(folder / part, target.with_name(part))
    return [target.with_name(part) for part in names]


def _label(signature: Signature, place: int) -> bytes:
    return weights_label(signature.weights_bytes, signature.weights_sha256, place)


def _write_object(file: BinaryIO, code: Code, weights: Bytes, inside: bool) -> None:
    if not inside:
        file.write(labelled(code.object, _label(code.signature, BESIDE)))
        return
    if weights.nbytes > _LARGEST_INSIDE:
        raise CompileError(
            f"{weights.nbytes / 2**30:.1f} GiB of weights do not fit inside a library (2 GiB). "
            'Put them beside it: placement="beside", or `--weights beside`.'
        )
    file.write(with_room(code.object, _label(code.signature, INSIDE), weights.nbytes))
    file.write(weights.data)


def _write_archive(file: BinaryIO, code: Code, weights: Bytes, inside: bool) -> None:
    names = [f"{code.signature.prefix}_{name}" for name in code.exports]
    # The first part tells the member's size, which is known at the end: it is written twice.
    before, _ = archive_parts(code.signature.prefix, 0, names)
    file.write(before)
    _write_object(file, code, weights, inside)
    size = file.tell() - len(before)
    before, after = archive_parts(code.signature.prefix, size, names)
    file.write(after)
    file.seek(0)
    file.write(before)


def _link(command: list[str], folder: Path, source: str, target: str) -> None:
    arguments = [*command, "-shared", "-nostartfiles", "-o", target, source]
    # A name after -Wl, would end at its first comma.
    arguments += ["-Xlinker", "-soname", "-Xlinker", target]
    arguments += ["-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now"]
    # Its own functions are meant when it calls them, also where another library has the same names.
    arguments += ["-Wl,-Bsymbolic", "-Wl,-z,defs", "-Wl,--build-id=none", "-lm", "-lpthread"]
    result = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompileError(
            f"Linking {target} with '{' '.join(command)}' failed (exit code {result.returncode}). "
            f"Name another C compiler as the linker, or write a .o.\n{result.stderr}".rstrip()
        )


def linker_command(triple: str, linker: str) -> list[str]:
    """The command that links for this triple: the requested one, a C compiler, or zig's."""
    wanted = architecture(triple)
    names = [f"{wanted}-linux-gnu-gcc"]
    if platform.machine() == wanted:
        names = ["cc", "gcc", "clang"]
    for name in [linker] if linker else names:
        if shutil.which(name):
            return [name]
    if linker:
        raise CompileError(
            f"The linker '{linker}' is not installed. Name another one, or none: then cc or the "
            "ziglang package is used."
        )
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{wanted}-linux-gnu"]
    raise CompileError(
        f"There is nothing to link a shared library for {wanted} with: neither {names[0]} nor zig. "
        f"Install one ('pip install ziglang' brings zig), or save a .o or .a, which need none."
    )
