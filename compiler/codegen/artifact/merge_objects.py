"""Merges several relocatable ELF files into one, so that a model's code can be compiled in parts.

Sections are put one after the other, unchanged; a linker joins those of the same name later.
Symbols get new numbers, and relocations are adjusted. A hidden symbol that one file defines and
others need becomes local, since it is not used outside of the result. A local symbol whose name is
taken gets another name, because LLVM's linker for this process finds local symbols by name, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.codegen.artifact.object_files import (
    FILE,
    RELA,
    RELOCATION,
    RESERVED,
    STRTAB,
    SYMBOL,
    SYMTAB,
    UNDEFINED,
    Names,
    ObjectFile,
    Section,
    Symbol,
    read_object,
    written,
)
from bessemer.compiler.errors import InternalError

_ADDRSIG = 0x6FFF4C03  # a hint to linkers, by symbol numbers


def merge_objects(files: Sequence[bytes]) -> bytes:
    """One relocatable file made of several for the same machine. The contents of the first file
    keep their places.

    Raises InternalError if two files define the same global name.
    """
    objects = [read_object(file) for file in files]
    kept = [_kept(one, first=number == 0) for number, one in enumerate(objects)]
    # Where each file's sections are in the result; 0 is not a section.
    places: list[dict[int, int]] = []
    count = 1
    for numbers in kept:
        places.append({number: count + k for k, number in enumerate(numbers)})
        count += len(numbers)
    names = Names()
    table, local_count, renumbered = _symbols(objects, places, names)
    parts: list[tuple[Section, bytes, int, int]] = []
    for one, numbers, place, symbols in zip(objects, kept, places, renumbered, strict=True):
        for number in numbers:
            section = one.sections[number]
            if section.kind == RELA:
                moved = _relocated(section.content, symbols)
                parts.append((section, moved, count, place[section.info]))
            else:
                parts.append((section, section.content, 0, 0))
    return written(objects[0].header, parts, table, local_count, names)


def _kept(one: ObjectFile, first: bool) -> list[int]:
    dropped = {0, SYMTAB, STRTAB, _ADDRSIG}
    return [
        number
        for number, section in enumerate(one.sections)
        if section.kind not in dropped and (first or section.name != b".note.GNU-stack")
    ]


def _symbols(
    objects: Sequence[ObjectFile], places: Sequence[dict[int, int]], names: Names
) -> tuple[bytes, int, list[list[int]]]:
    """The symbol table, how many of it are local, and every file's symbols' new numbers."""
    names.taken |= {s.name for one in objects for s in one.symbols if not s.is_inner}
    table = _Table(names)
    numbers = [table.define(one, place) for one, place in zip(objects, places, strict=True)]
    for one, mine in zip(objects, numbers, strict=True):
        table.refer(one, mine)
    count = len(table.local)
    final = [[n if n >= 0 else count - n - 1 for n in mine] for mine in numbers]
    return b"".join((*table.local, *table.outer)), count, final


class _Table:
    """A symbol table in the making. Numbers below zero count the global symbols, which come after
    all the local ones: -1 is the first."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.local: list[bytes] = [bytes(SYMBOL.size)]
        self.outer: list[bytes] = []
        self.defined: dict[bytes, int] = {}

    def define(self, one: ObjectFile, place: dict[int, int]) -> list[int]:
        """Adds what a file defines; the numbers of its symbols, 0 for the others."""
        numbers = [0] * len(one.symbols)
        for position, symbol in enumerate(one.symbols):
            if symbol.kind == FILE or symbol.section == UNDEFINED:
                continue
            where = symbol.section if symbol.section >= RESERVED else place[symbol.section]
            if symbol.is_inner:
                name = self.names.unused(symbol.name)
                self.local.append(_entry(symbol, self.names.place(name), where))
                numbers[position] = len(self.local) - 1
            else:
                numbers[position] = self._add_global(symbol, where)
            if not symbol.is_local:
                if symbol.name in self.defined:
                    raise InternalError(f"two parts define {symbol.name!r}")
                self.defined[symbol.name] = numbers[position]
        return numbers

    def refer(self, one: ObjectFile, numbers: list[int]) -> None:
        """Gives the symbols that a file needs of others their numbers."""
        for position, symbol in enumerate(one.symbols):
            if symbol.section == UNDEFINED and symbol.name:
                if symbol.name not in self.defined:
                    self.defined[symbol.name] = self._add_global(symbol, UNDEFINED)
                numbers[position] = self.defined[symbol.name]

    def _add_global(self, symbol: Symbol, section: int) -> int:
        self.outer.append(_entry(symbol, self.names.place(symbol.name), section))
        return -len(self.outer)


def _entry(symbol: Symbol, name: int, section: int) -> bytes:
    inner = symbol.is_inner and section != UNDEFINED
    what = symbol.kind if inner else 1 << 4 | symbol.kind
    visibility = 0 if inner else symbol.visibility
    return SYMBOL.pack(name, what, visibility, section, symbol.value, symbol.size)


def _relocated(content: bytes, symbols: Sequence[int]) -> bytes:
    return b"".join(
        RELOCATION.pack(offset, symbols[info >> 32] << 32 | info & 0xFFFFFFFF, addend)
        for offset, info, addend in RELOCATION.iter_unpack(content)
    )
