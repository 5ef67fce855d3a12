"""Changes and checks an ELF object file, and makes a static library of it."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from bessemer.compiler.codegen.support.weights import LABEL_BYTES, SECTION
from bessemer.compiler.errors import InternalError
from bessemer.runtime.artifact import SYMBOL_TABLE, Section, read_sections, read_symbols

_ARCHIVE = b"!<arch>\n"

# What generated code and the support code may ask of libc, libm and pthread.
_LIBC_NAMES = """
    __errno_location bcmp clock_gettime close fclose fgets flock fopen free fsync getpid lseek
    madvise memcmp memcpy memmove memset mmap munmap open posix_memalign pthread_cond_destroy
    pthread_cond_init pthread_cond_signal pthread_cond_wait pthread_create pthread_join
    pthread_mutex_destroy pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock
    pthread_self pthread_sigmask rename sched_getaffinity sched_yield sigfillset snprintf sscanf
    strcmp strcspn strlen strncmp strrchr syscall sysconf unlink write
"""
_LIBM_NAMES = """
    acos acosh asin asinh atan atan2 atanh cbrt ceil cos cosh erf erfc exp exp2 expm1 fabs floor fma
    fmax fmin fmod ldexp lgamma log log10 log1p log2 nearbyint pow remainder rint round roundeven
    sin sinh sqrt tan tanh tgamma trunc
"""
_LIBC = frozenset(_LIBC_NAMES.split())
_LIBM = frozenset(name + kind for name in _LIBM_NAMES.split() for kind in ("", "f"))
_LINKER = frozenset({"_GLOBAL_OFFSET_TABLE_"})


def _weights_section(code: bytes) -> Section:
    for section in read_sections(code):
        if section.name == SECTION and section.size == LABEL_BYTES:
            return section
    raise InternalError("the object file has no label for its weights")


def labelled(code: bytes, label: bytes) -> bytes:
    """The object file with this label in its weights section."""
    place = _weights_section(code).offset
    return code[:place] + label + code[place + LABEL_BYTES :]


def with_room(code: bytes, label: bytes, size: int) -> bytes:
    """The object file with this label, in a weights section that ends the file and continues for
    `size` bytes.

    The result ends where the weights begin, so that the caller can append them. The section's old
    place in the file stays unused.
    """
    section = _weights_section(code)
    padded = code + bytes(-len(code) % LABEL_BYTES)
    moved = struct.pack("<QQ", len(padded), LABEL_BYTES + size)
    fields = section.header + 24  # sh_offset, sh_size
    return padded[:fields] + moved + padded[fields + 16 :] + label


def check_symbols(code: bytes, prefix: str) -> None:
    """Raises InternalError if the object file defines or needs a global name that it must not."""
    for symbol in read_symbols(code, SYMBOL_TABLE):
        if not symbol.is_global:
            continue
        if symbol.is_defined and not symbol.name.startswith(f"{prefix}_"):
            raise InternalError(f"the object defines the global symbol {symbol.name!r}")
        if not symbol.is_defined and symbol.name not in _LIBC | _LIBM | _LINKER:
            raise InternalError(
                f"the generated code calls {symbol.name!r}, which is in neither libc nor libm"
            )


def archive_parts(member: str, size: int, symbols: Iterable[str]) -> tuple[bytes, bytes]:
    """The bytes before and after one object file of `size` bytes that make it a static library.

    An ar file consists of a table from symbols to the member, and the member. All dates and owners
    are 0.
    """
    names = list(symbols)
    table_size = 4 + 4 * len(names) + sum(len(name) + 1 for name in names)
    padding = table_size % 2
    first = len(_ARCHIVE) + 60 + table_size + padding
    table = struct.pack(">I", len(names)) + struct.pack(">I", first) * len(names)
    table += b"".join(name.encode() + b"\0" for name in names) + b"\0" * padding
    before = _ARCHIVE + _member_header("/", len(table)) + table
    return before + _member_header(f"{member[:13]}.o/", size), b"\n" * (size % 2)


def _member_header(name: str, size: int) -> bytes:
    if size >= 10**10:
        raise InternalError("an ar archive holds members of less than 10 GB")
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{size:<10}`\n".encode()
