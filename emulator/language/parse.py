"""Reads a PTX text: module variables, entries, their registers, labels and instructions."""

from __future__ import annotations

import bisect
import functools
import re
from dataclasses import dataclass, field

from emulator.errors import PtxSyntaxError
from emulator.language.parse_operands import parse_number, parse_operand, split_list
from emulator.language.syntax import (
    Instruction,
    Kernel,
    Module,
    Negated,
    Parameter,
    Register,
    Variable,
)
from emulator.state.arrays import WIDTHS

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DEBUG_LINE = re.compile(r"^\s*\.(?:loc|file)\b[^\n]*$", re.MULTILINE)
_VERSION = re.compile(r"\.version\s+(\d+)\.(\d+)")
_TARGET = re.compile(r"\.target\s+(\w+)")
_ENTRY = re.compile(r"(?:\.visible|\.weak)?\s*\.entry\s+([\w$%]+)\s*\(([^)]*)\)([^{]*)\{")
_FUNCTION = re.compile(r"\.func\b[^;{]*\{")
_VARIABLE = re.compile(
    r"(?:\.(?:extern|visible|weak|common)\s+)*\.(global|const|shared|local)\s+"
    r"(?:\.attribute\([^)]*\)\s*)?(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$%]+)((?:\s*\[\s*\d*\s*\])*)\s*(?:=\s*(.+))?$",
    re.DOTALL,
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)(?:\s+\.ptr(?:\s+\.(?:global|const|local|shared))?"
    r"(?:\s+\.align\s+\d+)?)?\s+([\w$%]+)(?:\[(\d+)\])?$"
)
_STATEMENT = re.compile(r"\s*(?:([{}])|([\w$%]+)\s*:(?!:)|([^;{}](?:[^;]*?));)", re.DOTALL)
_REGISTER_LIST = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.DOTALL)
_NUMBERED = re.compile(r"([%\w$]+)<(\d+)>$")
_GUARD = re.compile(r"@(!?)\s*([%\w$]+)\s+(.*)$", re.DOTALL)
_INSTRUCTION = re.compile(r"([a-z][\w:.]*)\s*(.*)$", re.DOTALL)


@functools.lru_cache(maxsize=64)
def parse_module(text: str) -> Module:
    """The module that `text` is. Raises PtxSyntaxError."""
    text = _DEBUG_LINE.sub("", _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text))
    version, target = _VERSION.search(text), _TARGET.search(text)
    if version is None or target is None:
        raise PtxSyntaxError("the text has no .version or no .target: it is not a PTX module")
    if _FUNCTION.search(text):
        raise PtxSyntaxError("device functions (.func) are not read: inline them")
    kernels: dict[str, Kernel] = {}
    outside: list[str] = []
    place = 0
    for entry in _ENTRY.finditer(text):
        outside.append(text[place : entry.start()])
        place = _closing_brace(text, entry.end())
        kernels[entry[1]] = _parse_kernel(entry, text[entry.end() : place - 1])
    outside.append(text[place:])
    return Module(
        (int(version[1]), int(version[2])),
        target[1],
        kernels,
        tuple(_module_variables("\n".join(outside))),
    )


def _closing_brace(text: str, place: int) -> int:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, place):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    raise PtxSyntaxError("a kernel's last brace is missing")


def _module_variables(text: str) -> list[Variable]:
    found = []
    for statement in text.split(";"):
        start = re.search(r"\.(?:extern|visible|weak|common|global|const|shared)\s", statement)
        if start and (variable := _VARIABLE.match(statement[start.start() :].strip())):
            found.append(_variable(variable))
    return found


def _variable(found: re.Match[str]) -> Variable:
    space, alignment, kind, name, extents, values = found.groups()
    bytes_each = WIDTHS[kind] // 8
    count = 1
    for extent in re.findall(r"\[\s*(\d*)\s*\]", extents):
        count *= int(extent or 0)
    words = (
        tuple(_initial_word(one) for one in split_list(values.strip("{} \n\t"))) if values else ()
    )
    size = max(count, len(words)) * bytes_each if extents else bytes_each
    return Variable(name, space, int(alignment or bytes_each), size, bytes_each, words)


def _initial_word(text: str) -> int | tuple[str, int]:
    if (number := parse_number(text)) is not None:
        return number.value
    found = re.match(r"(?:generic\()?([\w$%]+)\)?(?:\s*\+\s*(\d+))?$", text)
    if found is None:
        raise PtxSyntaxError(f"cannot read the initial value {text!r}")
    return found[1], int(found[2] or 0)


def _parameters(text: str) -> tuple[Parameter, ...]:
    result: list[Parameter] = []
    end = 0
    for one in split_list(text):
        found = _PARAMETER.match(" ".join(one.split()))
        if found is None:
            raise PtxSyntaxError(f"cannot read the parameter {one!r}")
        bytes_each = WIDTHS[found[2]] // 8
        size = bytes_each * int(found[4] or 1)
        alignment = int(found[1] or bytes_each)
        offset = -(-end // alignment) * alignment
        result.append(Parameter(found[3], offset, size))
        end = offset + size
    return tuple(result)


def _triple(text: str, directive: str) -> tuple[int, int, int] | None:
    found = re.search(rf"\.{directive}\s+([\d,\s]+)", text)
    if found is None:
        return None
    numbers = [int(one) for one in found[1].split(",")]
    x, y, z = (*numbers, 1, 1, 1)[:3]
    return x, y, z


@dataclass
class _Body:
    """What reading a kernel's body has found so far; inner scopes hide the registers of
    outer ones.
    """

    scopes: list[dict[str, Register]] = field(default_factory=lambda: [{}])
    widths: list[int] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    label: str = ""

    def declare(self, name: str, width: int) -> None:
        self.scopes[-1][name] = Register(len(self.widths), width, name)
        self.widths.append(width)

    def names(self) -> dict[str, Register]:
        if len(self.scopes) == 1:
            return self.scopes[0]
        return {name: one for scope in self.scopes for name, one in scope.items()}


def _parse_kernel(entry: re.Match[str], text: str) -> Kernel:
    body = _Body()
    line_ends = [found.start() for found in re.finditer("\n", text)]
    place = 0
    while (found := _STATEMENT.match(text, place)) is not None:
        place = found.end()
        if found[1] == "{":
            body.scopes.append({})
        elif found[1] == "}":
            body.scopes.pop()
        elif found[2]:
            body.label = found[2]
            body.labels[found[2]] = len(body.instructions)
        else:
            line = bisect.bisect(line_ends, found.start(3)) + 1
            _read_statement(" ".join(found[3].split()), line, body)
    if text[place:].strip():
        raise PtxSyntaxError(f"kernel {entry[1]}: cannot read {text[place:].strip()[:60]!r}")
    if "cluster" in entry[3]:
        raise PtxSyntaxError(f"kernel {entry[1]}: clusters of blocks are not emulated")
    most = _triple(entry[3], "maxntid")
    return Kernel(
        entry[1],
        _parameters(entry[2]),
        tuple(body.instructions),
        body.labels,
        body.targets,
        tuple(body.widths),
        tuple(body.variables),
        _triple(entry[3], "reqntid"),
        most[0] * most[1] * most[2] if most else None,
    )


def _read_statement(statement: str, line: int, body: _Body) -> None:
    if statement.startswith("."):
        _read_directive(statement, body)
        return
    guard: Register | Negated | None = None
    text = statement
    if guarded := _GUARD.match(statement):
        register = body.names()[guarded[2]]
        guard = Negated(register) if guarded[1] else register
        text = guarded[3]
    found = _INSTRUCTION.match(text)
    if found is None:
        raise PtxSyntaxError(f"cannot read the statement {statement!r}")
    names = body.names()
    operands = tuple(parse_operand(one, names) for one in split_list(found[2]))
    opcode = tuple(found[1].split("."))
    body.instructions.append(Instruction(opcode, operands, guard, statement, line))


def _read_directive(statement: str, body: _Body) -> None:
    if found := _REGISTER_LIST.match(statement):
        width = WIDTHS[found[1]]
        for name in split_list(found[2]):
            if numbered := _NUMBERED.match(name):
                for number in range(int(numbered[2])):
                    body.declare(f"{numbered[1]}{number}", width)
            else:
                body.declare(name, width)
    elif variable := _VARIABLE.match(statement):
        body.variables.append(_variable(variable))
    elif statement.startswith(".branchtargets"):
        body.targets[body.label] = tuple(split_list(statement.removeprefix(".branchtargets")))
    elif not statement.startswith((".pragma", ".align", ".loc")):
        raise PtxSyntaxError(f"cannot read the directive {statement!r}")
