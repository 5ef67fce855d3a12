"""Reads the operands of one instruction."""

from __future__ import annotations

import re
import struct

from emulator.errors import PtxSyntaxError
from emulator.language.syntax import (
    Address,
    Discard,
    Immediate,
    Negated,
    Operand,
    Register,
    Special,
    Symbol,
    TensorBox,
    Tuple,
)

_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|\d+)U?$")
_FLOAT_BITS = re.compile(r"0[fF]([0-9a-fA-F]{8})$|0[dD]([0-9a-fA-F]{16})$")
_DECIMAL = re.compile(r"[-+]?\d+\.\d*([eE][-+]?\d+)?$")
_ADDRESS = re.compile(r"(.+?)\s*(?:\+\s*(-?(?:0[xX][0-9a-fA-F]+|\d+)))?$", re.DOTALL)
_NAME = re.compile(r"[%$_A-Za-z][\w$.]*$")


def split_list(text: str) -> list[str]:
    """The parts of `text` between commas that stand in no bracket."""
    parts: list[str] = []
    depth = start = 0
    for place, character in enumerate(text):
        if character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def parse_number(text: str) -> Immediate | None:
    if _INTEGER.match(text):
        return Immediate(int(text.rstrip("U"), 0) if not _is_octal(text) else int(text, 8))
    if found := _FLOAT_BITS.match(text):
        return Immediate(int(found[1], 16), 32) if found[1] else Immediate(int(found[2], 16), 64)
    if _DECIMAL.match(text):
        return Immediate(struct.unpack("<Q", struct.pack("<d", float(text)))[0], 64)
    return None


def _is_octal(text: str) -> bool:
    return len(text) > 1 and text[0] == "0" and text.isdigit()


def parse_operand(text: str, names: dict[str, Register]) -> Operand:
    """The operand `text`; `names` are the registers in scope."""
    if text in names:
        return names[text]
    if text == "_":
        return Discard()
    match text[0]:
        case "{":
            return Tuple(tuple(parse_operand(one, names) for one in split_list(text[1:-1])))
        case "[":
            return _parse_memory(text[1:-1], names)
        case "!":
            return _negated(parse_operand(text[1:].strip(), names), text)
    if "|" in text:
        return Tuple(tuple(parse_operand(one.strip(), names) for one in text.split("|")))
    if (number := parse_number(text)) is not None:
        return number
    if text == "WARP_SZ":
        return Immediate(32)
    if text[0] == "%":
        return Special(text[1:])
    if not _NAME.match(text):
        base = _ADDRESS.match(text)
        if base is None or base[2] is None:
            raise PtxSyntaxError(f"cannot read the operand {text!r}")
        return Address(parse_operand(base[1].strip(), names), int(base[2], 0))
    return Symbol(text)


def _negated(operand: Operand, text: str) -> Negated:
    if not isinstance(operand, Register):
        raise PtxSyntaxError(f"{text!r} negates what is not a predicate")
    return Negated(operand)


def _parse_memory(text: str, names: dict[str, Register]) -> Operand:
    parts = split_list(text)
    base = _ADDRESS.match(parts[0])
    if base is None:
        raise PtxSyntaxError(f"cannot read the address [{text}]")
    offset = int(base[2], 0) if base[2] else 0
    if len(parts) == 1:
        return Address(parse_operand(base[1].strip(), names), offset)
    box = parse_operand(parts[1], names)
    if not isinstance(box, Tuple) or len(parts) != 2:
        raise PtxSyntaxError(f"cannot read the tensor coordinates [{text}]")
    return TensorBox(Address(parse_operand(base[1].strip(), names), offset), box.parts)
