"""Relocatable ELF files of 64-bit machines as sections and symbols, read and written."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")

# The ELF specification's SHT_*, STT_FILE, SHN_UNDEF and SHN_LORESERVE, STV_HIDDEN.
SYMTAB, STRTAB, RELA, NOBITS = 2, 3, 4, 8
FILE, UNDEFINED, RESERVED = 4, 0, 0xFF00
HIDDEN = 2


@dataclass(frozen=True)
class Section:
    """The fields of a section's header (`kind` is sh_type), and its bytes: none for NOBITS."""

    name: bytes
    kind: int
    flags: int
    size: int
    info: int
    alignment: int
    entry_size: int
    content: bytes


@dataclass(frozen=True)
class Symbol:
    """An entry of the symbol table: `kind` is the type in st_info, `section` the number of the
    section in which it is defined, `value` its offset there."""

    name: bytes
    kind: int
    is_local: bool
    visibility: int
    section: int
    value: int
    size: int

    @property
    def is_inner(self) -> bool:
        """Whether it is local in the result, if it is defined."""
        return self.is_local or self.visibility == HIDDEN


@dataclass(frozen=True)
class ObjectFile:
    """`header` is the file's, as HEADER unpacks it; places in the lists are ELF's numbers."""

    header: tuple[int, ...]
    sections: list[Section]
    symbols: list[Symbol]


@dataclass
class Names:
    """A string table that is being filled. `taken` are the names of symbols."""

    text: bytearray = field(default_factory=lambda: bytearray(1))
    known: dict[bytes, int] = field(default_factory=lambda: {b"": 0})
    taken: set[bytes] = field(default_factory=set)

    def place(self, name: bytes) -> int:
        """Where the name begins in the table, to which it is added if it is not there."""
        found = self.known.get(name)
        if found is None:
            found = self.known[name] = len(self.text)
            self.text += name + b"\0"
        return found

    def unused(self, name: bytes) -> bytes:
        """The name for a local symbol: a number is added to one that is taken."""
        found, number = name, 1
        while found in self.taken:
            number += 1
            found = name + b".%d" % number
        if found:
            self.taken.add(found)
        return found


def read_object(file: bytes) -> ObjectFile:
    """The sections and symbols of a file that LLVM has written; nothing in it is checked."""
    header = HEADER.unpack_from(file)
    start, count, names_at = header[6], header[12], header[13]
    raw = [SECTION.unpack_from(file, start + k * SECTION.size) for k in range(count)]
    strings = raw[names_at]
    sections = []
    symbols: list[Symbol] = []
    for name, kind, flags, _, offset, size, link, info, alignment, entry_size in raw:
        content = b"" if kind == NOBITS else file[offset : offset + size]
        text = _text(file, strings[4] + name)
        sections.append(Section(text, kind, flags, size, info, alignment, entry_size, content))
        if kind == SYMTAB:
            symbols = [
                Symbol(_text(file, raw[link][4] + at), what & 15, what >> 4 == 0, other, *rest)
                for at, what, other, *rest in SYMBOL.iter_unpack(content)
            ]
    return ObjectFile(header, sections, symbols)


def _text(file: bytes, start: int) -> bytes:
    return file[start : file.index(b"\0", start)]


def written(
    header: tuple[int, ...],
    parts: Sequence[tuple[Section, bytes, int, int]],
    table: bytes,
    local_count: int,
    names: Names,
) -> bytes:
    """The file: header, contents, section headers. Parts: section, content, sh_link, sh_info.

    The symbols are the section behind the parts: `table`, whose first `local_count` are local.
    """
    symtab = Section(b".symtab", SYMTAB, 0, len(table), 0, 8, SYMBOL.size, table)
    strtab = Section(b".strtab", STRTAB, 0, 0, 0, 1, 0, b"")
    listed = [*parts, (symtab, table, len(parts) + 2, local_count), (strtab, b"", 0, 0)]
    places = [names.place(section.name) for section, *_ in listed]
    file = bytearray(HEADER.size)
    headers = [bytes(SECTION.size)]
    for place, (section, content, link, info) in zip(places, listed, strict=True):
        if section.name == b".strtab":
            content = bytes(names.text)
        file += bytes(-len(file) % max(1, section.alignment))
        size = section.size if section.kind == NOBITS else len(content)
        fields = (place, section.kind, section.flags, 0, len(file), size, link, info)
        headers.append(SECTION.pack(*fields, section.alignment, section.entry_size))
        file += content
    file += bytes(-len(file) % 8)
    changed = list(header)
    changed[6], changed[12], changed[13] = len(file), len(headers), len(headers) - 1
    file[: HEADER.size] = HEADER.pack(*changed)
    return bytes(file) + b"".join(headers)
