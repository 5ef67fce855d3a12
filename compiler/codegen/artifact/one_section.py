"""Turns a relocatable ELF file for x86-64 into one with a single section, for LLVM's linker in this
process.

That linker puts each section wherever the process's memory has room. In a process whose memory is
fragmented, two sections may be more than 2 GiB apart and cannot reach each other. Within one
section all distances are known, so they are written into the code here. Only addresses are left to
that linker: those of the code in its tables, and those of functions outside, each of which is
called through a jump.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from bessemer.compiler.codegen.artifact.object_files import (
    RELA,
    RELOCATION,
    SYMBOL,
    UNDEFINED,
    Names,
    ObjectFile,
    Section,
    Symbol,
    read_object,
    written,
)
from bessemer.compiler.errors import InternalError

_PROGBITS = 1
_WRITABLE, _ALLOCATED, _EXECUTABLE, _LINKED = 1, 2, 4, 0x40
_OF_SECTION = 3  # a symbol that stands for its section

# Kinds of relocations: an address; a distance to a symbol, a call, or a cell with an address.
_ADDRESS = 1
_DISTANCES = (2, 4)
_CELLS = (9, 41, 42)

_JUMP = b"\xff\x25\x02\0\0\0\0\0"
"""A jump to the address in the cell behind it."""


def has_variables(file: bytes) -> bool:
    """Whether the code writes to variables of its own, as code that measures times does."""
    return any(_is_written(section) for section in read_object(file).sections)


def in_one_section(file: bytes) -> bytes:
    """The same code in one section, which is executable and not writable.

    Raises InternalError if there are variables, or relocations of other kinds.
    """
    code = _Code(read_object(file))
    for section in code.file.sections:
        if section.kind == RELA and section.info in code.places:
            for offset, info, addend in RELOCATION.iter_unpack(section.content):
                place = code.places[section.info] + offset
                code.relocate(place, info & 0xFFFFFFFF, info >> 32, addend)
    return code.written()


def _is_written(section: Section) -> bool:
    flags = _ALLOCATED | _WRITABLE
    return section.flags & flags == flags and not section.name.startswith(b".data.rel.ro")


@dataclass
class _Code:
    """The content that is being made, and the relocations that are left."""

    file: ObjectFile
    content: bytearray = field(default_factory=bytearray)
    places: dict[int, int] = field(default_factory=dict)
    jumps: dict[int, int] = field(default_factory=dict)
    alignment: int = 16
    addresses: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, section in self._loaded():
            self.content += bytes(-len(self.content) % max(1, section.alignment))
            self.places[number] = len(self.content)
            self.content += section.content or bytes(section.size)
            self.alignment = max(self.alignment, section.alignment)

    def _loaded(self) -> Iterator[tuple[int, Section]]:
        for number, section in enumerate(self.file.sections):
            if section.flags & _ALLOCATED:
                if _is_written(section):
                    raise InternalError(f"The code has variables, in {section.name.decode()}.")
                yield number, section

    def place_of(self, symbol: Symbol) -> int:
        return self.places[symbol.section] + symbol.value

    def relocate(self, place: int, kind: int, number: int, addend: int) -> None:
        """Writes a distance, or keeps an address for later."""
        symbol = self.file.symbols[number]
        is_foreign = symbol.section == UNDEFINED
        if kind == _ADDRESS:
            self.addresses.append((place, number, addend))
        elif kind in _CELLS:
            self._write_distance(place, self._jump(number) + len(_JUMP) + addend)
        elif kind in _DISTANCES:
            target = self._jump(number) if is_foreign else self.place_of(symbol)
            self._write_distance(place, target + addend)
        else:
            raise InternalError(f"The code has a relocation of kind {kind}.")

    def _write_distance(self, place: int, target: int) -> None:
        struct.pack_into("<i", self.content, place, target - place)

    def _jump(self, number: int) -> int:
        """Where the code jumps to a symbol; behind it is the cell with the symbol's address."""
        if number not in self.jumps:
            self.content += bytes(-len(self.content) % 16)
            self.jumps[number] = len(self.content)
            self.content += _JUMP + bytes(8)
            self.addresses.append((self.jumps[number] + len(_JUMP), number, 0))
        return self.jumps[number]

    def written(self) -> bytes:
        names = Names()
        table = b"".join(self._entry(symbol, names) for symbol in self.file.symbols)
        relocations = b"".join(
            RELOCATION.pack(place, number << 32 | _ADDRESS, addend + self._within(number))
            for place, number, addend in self.addresses
        )
        size, content = len(self.content), bytes(self.content)
        flags, width = _ALLOCATED | _EXECUTABLE, RELOCATION.size
        text = Section(b".text", _PROGBITS, flags, size, 0, self.alignment, 0, content)
        rela = Section(b".rela.text", RELA, _LINKED, 0, 0, 8, width, relocations)
        local_count = sum(symbol.is_local for symbol in self.file.symbols)
        parts = [(text, content, 0, 0), (rela, relocations, 3, 1)]
        return written(self.file.header, parts, table, local_count, names)

    def _within(self, number: int) -> int:
        """The place of a symbol as LLVM's linker needs it, which takes a section's symbol for the
        section's begin."""
        symbol = self.file.symbols[number]
        return self.places[symbol.section] if symbol.kind == _OF_SECTION else 0

    def _entry(self, symbol: Symbol, names: Names) -> bytes:
        inside = symbol.section in self.places
        where = 1 if inside else symbol.section
        value = symbol.value
        if inside and symbol.kind != _OF_SECTION:
            value = self.place_of(symbol)
        what = symbol.kind if symbol.is_local else 1 << 4 | symbol.kind
        name = names.place(symbol.name)
        return SYMBOL.pack(name, what, symbol.visibility, where, value, symbol.size)
