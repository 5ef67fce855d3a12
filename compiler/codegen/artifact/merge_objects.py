"""Several relocatable ELF files become one, so that a model's code can be compiled in parts.

Sections are put one behind the other, unchanged; a linker joins those of one name later. Symbols
get new numbers, and relocations follow. A hidden symbol that one file defines and others need
becomes a local one: outside of the result nobody knows it. A local symbol whose name is taken gets
another: LLVM's linker for this process finds local symbols by name, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bessemer.compiler.errors import InternalError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")

_SYMTAB, _STRTAB, _RELA, _NOBITS = 2, 3, 4, 8
_ADDRSIG = 0x6FFF4C03  # a hint to linkers, by symbol numbers
_FILE, _UNDEFINED, _RESERVED = 4, 0, 0xFF00
_HIDDEN = 2


@dataclass(frozen=True)
class _Section:
    name: bytes
    kind: int
    flags: int
    size: int
    info: int
    alignment: int
    entry_size: int
    content: bytes


@dataclass(frozen=True)
class _Symbol:
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
        return self.is_local or self.visibility == _HIDDEN


@dataclass(frozen=True)
class _Object:
    header: tuple[int, ...]
    sections: list[_Section]
    symbols: list[_Symbol]


@dataclass
class _Names:
    """A string table that is being filled. `taken` are the names of symbols."""

    text: bytearray = field(default_factory=lambda: bytearray(1))
    known: dict[bytes, int] = field(default_factory=lambda: {b"": 0})
    taken: set[bytes] = field(default_factory=set)

    def place(self, name: bytes) -> int:
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


def merge_objects(files: Sequence[bytes]) -> bytes:
    """One relocatable file for one machine out of several; the first keeps its places.

    Raises InternalError where two define the same global name.
    """
    objects = [_read(file) for file in files]
    kept = [_kept(one, first=number == 0) for number, one in enumerate(objects)]
    # Where each file's sections are in the result; 0 is not a section.
    places: list[dict[int, int]] = []
    count = 1
    for numbers in kept:
        places.append({number: count + k for k, number in enumerate(numbers)})
        count += len(numbers)
    names = _Names()
    table, local_count, renumbered = _symbols(objects, places, names)
    parts: list[tuple[_Section, bytes, int, int]] = []
    for one, numbers, place, symbols in zip(objects, kept, places, renumbered, strict=True):
        for number in numbers:
            section = one.sections[number]
            if section.kind == _RELA:
                moved = _relocated(section.content, symbols)
                parts.append((section, moved, count, place[section.info]))
            else:
                parts.append((section, section.content, 0, 0))
    symtab = _Section(b".symtab", _SYMTAB, 0, len(table), 0, 8, _SYMBOL.size, table)
    parts.append((symtab, table, count + 1, local_count))
    strtab = _Section(b".strtab", _STRTAB, 0, 0, 0, 1, 0, b"")
    parts.append((strtab, b"", 0, 0))
    return _written(objects[0].header, parts, names)


def _read(file: bytes) -> _Object:
    header = _HEADER.unpack_from(file)
    start, count, names_at = header[6], header[12], header[13]
    raw = [_SECTION.unpack_from(file, start + k * _SECTION.size) for k in range(count)]
    strings = raw[names_at]
    sections = []
    symbols: list[_Symbol] = []
    for name, kind, flags, _, offset, size, link, info, alignment, entry_size in raw:
        content = b"" if kind == _NOBITS else file[offset : offset + size]
        text = _text(file, strings[4] + name)
        sections.append(_Section(text, kind, flags, size, info, alignment, entry_size, content))
        if kind == _SYMTAB:
            symbols = [
                _Symbol(_text(file, raw[link][4] + at), what & 15, what >> 4 == 0, other, *rest)
                for at, what, other, *rest in _SYMBOL.iter_unpack(content)
            ]
    return _Object(header, sections, symbols)


def _text(file: bytes, start: int) -> bytes:
    return file[start : file.index(b"\0", start)]


def _kept(one: _Object, first: bool) -> list[int]:
    dropped = {0, _SYMTAB, _STRTAB, _ADDRSIG}
    return [
        number
        for number, section in enumerate(one.sections)
        if section.kind not in dropped and (first or section.name != b".note.GNU-stack")
    ]


def _symbols(
    objects: Sequence[_Object], places: Sequence[dict[int, int]], names: _Names
) -> tuple[bytes, int, list[list[int]]]:
    """The symbol table, how many of it are local, and every file's symbols' new numbers."""
    names.taken |= {s.name for one in objects for s in one.symbols if not s.is_inner}
    local: list[bytes] = [bytes(_SYMBOL.size)]
    outer: list[bytes] = []
    # Numbers below zero count global symbols, which come after all the local ones: -1 is the first.
    defined: dict[bytes, int] = {}
    numbers: list[list[int]] = []
    for one, place in zip(objects, places, strict=True):
        mine = [0] * len(one.symbols)
        for position, symbol in enumerate(one.symbols):
            if symbol.kind == _FILE or symbol.section == _UNDEFINED:
                continue
            where = symbol.section if symbol.section >= _RESERVED else place[symbol.section]
            if symbol.is_inner:
                local.append(_entry(symbol, names.place(names.unused(symbol.name)), where))
                mine[position] = len(local) - 1
            else:
                outer.append(_entry(symbol, names.place(symbol.name), where))
                mine[position] = -len(outer)
            if not symbol.is_local:
                if symbol.name in defined:
                    raise InternalError(f"two parts define {symbol.name!r}")
                defined[symbol.name] = mine[position]
        numbers.append(mine)
    for one, mine in zip(objects, numbers, strict=True):
        for position, symbol in enumerate(one.symbols):
            if symbol.section == _UNDEFINED and symbol.name:
                if symbol.name not in defined:
                    outer.append(_entry(symbol, names.place(symbol.name), _UNDEFINED))
                    defined[symbol.name] = -len(outer)
                mine[position] = defined[symbol.name]
    count = len(local)
    final = [[n if n >= 0 else count - n - 1 for n in mine] for mine in numbers]
    return b"".join((*local, *outer)), count, final


def _entry(symbol: _Symbol, name: int, section: int) -> bytes:
    inner = symbol.is_inner and section != _UNDEFINED
    what = symbol.kind if inner else 1 << 4 | symbol.kind
    visibility = 0 if inner else symbol.visibility
    return _SYMBOL.pack(name, what, visibility, section, symbol.value, symbol.size)


def _relocated(content: bytes, symbols: Sequence[int]) -> bytes:
    return b"".join(
        _RELOCATION.pack(offset, symbols[info >> 32] << 32 | info & 0xFFFFFFFF, addend)
        for offset, info, addend in _RELOCATION.iter_unpack(content)
    )


def _written(
    header: tuple[int, ...], parts: Iterable[tuple[_Section, bytes, int, int]], names: _Names
) -> bytes:
    """The file: header, contents, section headers. Parts: section, content, sh_link, sh_info."""
    listed = list(parts)
    places = [names.place(section.name) for section, *_ in listed]
    file = bytearray(_HEADER.size)
    headers = [bytes(_SECTION.size)]
    for place, (section, content, link, info) in zip(places, listed, strict=True):
        if section.name == b".strtab":
            content = bytes(names.text)
        file += bytes(-len(file) % max(1, section.alignment))
        size = section.size if section.kind == _NOBITS else len(content)
        fields = (place, section.kind, section.flags, 0, len(file), size, link, info)
        headers.append(_SECTION.pack(*fields, section.alignment, section.entry_size))
        file += content
    file += bytes(-len(file) % 8)
    changed = list(header)
    changed[6], changed[12], changed[13] = len(file), len(headers), len(headers) - 1
    file[: _HEADER.size] = _HEADER.pack(*changed)
    return bytes(file) + b"".join(headers)
