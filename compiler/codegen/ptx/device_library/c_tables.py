"""Writes a device program as C tables, which the text of c_run.py executes: each step is a row.

Sizes are cases of a function `size`, so that tables hold only numbers:

    case 3: return 4*d[0];
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Sequence

from bessemer.compiler.errors import CompileError
from bessemer.runtime.artifact import ArrayInfo, Signature
from bessemer.runtime.cuda.artifact import (
    BindStep,
    BranchStep,
    CopyStep,
    DeviceProgram,
    DeviceStep,
    Entry,
    FiniteStep,
    LaunchStep,
    Place,
    RepeatStep,
    TensorMap,
)
from bessemer.runtime.cuda.tensor_maps import ELEMENTS, SWIZZLES

_SPACES = {"arena": "ARENA", "weights": "WEIGHTS", "input": "INPUT", "output": "OUTPUT"}
_KINDS = {"bool": 1, "bfloat16": 2}
_FLOATS = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}
_CALLS = {ast.FloorDiv: "floored", ast.Mod: "modulo"}
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
_FUNCTIONS = {"min": "least", "max": "most"}
MOST_AXES = 5


def c_size(entry: Entry, symbols: Sequence[str]) -> str:
    """A size as a C expression over the dims `d`."""
    if isinstance(entry, int):
        return f"INT64_C({entry})"
    return _c_expression(ast.parse(entry.strip(), mode="eval").body, symbols)


def _c_expression(node: ast.expr, symbols: Sequence[str]) -> str:
    match node:
        case ast.Constant(value=int(number)):
            return f"INT64_C({number})"
        case ast.Name(id=name):
            return f"d[{symbols.index(name)}]"
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"(-{_c_expression(operand, symbols)})"
        case ast.BinOp(left=left, op=op, right=right):
            one, other = _c_expression(left, symbols), _c_expression(right, symbols)
            if type(op) in _CALLS:
                return f"{_CALLS[type(op)]}({one}, {other})"
            return f"({one} {_SIGNS[type(op)]} {other})"
        case ast.Call(func=ast.Name(id=name), args=args):
            first, *rest = (_c_expression(part, symbols) for part in args)
            for part in rest:
                first = f"{_FUNCTIONS[name]}({first}, {part})"
            return first
        case _:
            raise CompileError(f"{ast.unparse(node)!r} is not a size.")


def c_string(text: str) -> str:
    """A C string literal of any text."""
    escaped = re.sub(
        rb"[^A-Za-z0-9_.,: ()\[\]=<>/+-]", lambda m: b"\\%03o" % m[0][0], text.encode()
    )
    return f'"{escaped.decode()}"'


def bytes_of(info: ArrayInfo) -> Entry:
    """The size in bytes of an input or output."""
    # The other names end with their bits.
    size = _KINDS.get(info.dtype) or int(info.dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8
    if all(isinstance(part, int) for part in info.shape):
        return math.prod(int(part) for part in info.shape) * size
    return "*".join([str(size), *(f"({part})" for part in info.shape)])


class Tables:
    """The C text of one program's tables, whose names end with the program's number."""

    def __init__(self, program: DeviceProgram, number: int) -> None:
        self.program, self.number = program, number
        self.most_places = self.most_symbols = self.most_maps = 0
        self._sizes: dict[Entry, int] = {}
        self._places: list[str] = []
        self._symbols: list[int] = []
        self._maps: list[str] = []
        self._messages: list[str] = []
        self.faults = 0
        steps = [self._step(step) for step in program.steps]
        kernels = [self._kernel(number) for number in range(len(program.kernels))]
        ends = [self._size(end) for end in program.ends]
        required = [
            f"{{{self._size(one.size)}, {c_string(one.where)}}}" for one in program.required
        ]
        signature = program.signature
        inputs, outputs = (
            [self._size(bytes_of(info)) for info in infos]
            for infos in (signature.inputs, signature.outputs)
        )
        self.text = "\n".join(
            [
                self._array("int32_t", "ends", map(str, ends)),
                self._array("int32_t", "input_bytes", map(str, inputs)),
                self._array("int32_t", "output_bytes", map(str, outputs)),
                self._array("int32_t", "symbols", map(str, self._symbols)),
                self._array("place", "places", self._places),
                self._array("tensor_map", "maps", self._maps),
                self._array("char *const", "messages", map(c_string, self._messages)),
                self._array("kernel", "kernels", kernels),
                self._array("step", "steps", steps),
                self._array("required_size", "required", required),
                self._size_function(signature),
            ]
        )

    def row(self, ptx: str, cubin: str, weights: str, weights_bytes: int) -> str:
        """The row of the program itself. The first three arguments are C expressions."""
        program, n = self.program, self.number
        counts = (program.level, int(program.exact), len(program.kernels), len(program.steps))
        more = len(program.ends), self.faults, len(program.required)
        numbers = ", ".join(map(str, (*counts, *more)))
        names = ("kernels", "messages", "steps", "places", "symbols", "ends", "input_bytes",
                 "output_bytes", "maps", "required")  # fmt: skip
        tables = ", ".join(f"{name}_{n}" for name in names)
        return f"  {{{numbers}, {ptx}, {cubin}, {weights}, {weights_bytes}, {tables}, size_{n}}}"

    def _array(self, kind: str, name: str, rows: Iterable[str]) -> str:
        # C has no empty arrays.
        nothing = {"place": "{ARENA, 0, 0}", "required_size": '{0, ""}'}
        listed = list(rows) or [nothing.get(kind, "0")]
        body = ",\n  ".join(listed)
        return f"static const {kind} {name}_{self.number}[] = {{\n  {body}}};"

    def _size(self, entry: Entry) -> int:
        return self._sizes.setdefault(entry, len(self._sizes))

    def _size_function(self, signature: Signature) -> str:
        lines = [
            f"    case {number}: return {c_size(entry, signature.symbols)};"
            for entry, number in self._sizes.items()
        ]
        return "\n".join(
            [
                f"static int64_t size_{self.number}(int32_t entry, const int64_t *d) {{",
                "  (void)d;",
                "  switch (entry) {",
                *lines,
                "    default: return 0;",
                "  }",
                "}",
            ]
        )

    def _place(self, place: Place) -> str:
        return f"{{{_SPACES[place.space]}, {place.number}, {self._size(place.offset)}}}"

    def _kernel(self, number: int) -> str:
        kernel = self.program.kernels[number]
        first = len(self._messages)
        self._messages += kernel.messages
        counts = (kernel.threads, kernel.shared_bytes, len(kernel.messages), first)
        return f"{{{c_string(kernel.name)}, {', '.join(map(str, counts))}}}"

    def _step(self, step: DeviceStep) -> str:
        first = len(self._places)
        match step:
            case LaunchStep() if not step.sets:
                return self._launch(step, first)
            case CopyStep(source, target, size):
                self._places += [self._place(source), self._place(target)]
                return f'{{COPY, 0, 2, {first}, 0, 0, {self._size(size)}, 0, 0, 0, ""}}'
            case FiniteStep(source, dtype, name):
                self._places.append(self._place(source))
                return (
                    f"{{FINITE, {_FLOATS[dtype]}, 1, {first}, 0, 0, 0, 0, 0, 0, {c_string(name)}}}"
                )
            case BranchStep() | RepeatStep():
                raise self._refusal(step.where, "control flow")
            case LaunchStep() | BindStep():
                raise self._refusal(step.where, "a size that the data decides")

    def _refusal(self, where: str, what: str) -> CompileError:
        place = f" ({where})" if where else ""
        return CompileError(
            f"'{self.program.signature.name}' has {what}{place}, which the C library for GPUs "
            "cannot follow. Save it as a .bessemer file, for Python."
        )

    def _launch(self, step: LaunchStep, first: int) -> str:
        symbols, maps = len(self._symbols), len(self._maps)
        self._places += [self._place(place) for place in step.buffers]
        self._symbols += [self._size(entry) for entry in step.symbols]
        self._maps += [self._map(plan) for plan in step.tensor_maps]
        self.most_places = max(self.most_places, len(step.buffers))
        self.most_symbols = max(self.most_symbols, len(step.symbols))
        self.most_maps = max(self.most_maps, len(step.tensor_maps))
        fault = self.faults
        self.faults += bool(self.program.kernels[step.kernel].messages)
        counts = (
            *(step.kernel, len(step.buffers), first, len(step.symbols), symbols),
            *(self._size(step.grid), len(step.tensor_maps), maps, fault),
        )
        where = step.where or self.program.kernels[step.kernel].name
        return f"{{LAUNCH, {', '.join(map(str, counts))}, {c_string(where)}}}"

    def _map(self, plan: TensorMap) -> str:
        rank = len(plan.shape)
        shape = _padded(self._size(entry) for entry in plan.shape)
        strides = _padded(self._size(entry) for entry in plan.strides)
        head = (plan.buffer, int(ELEMENTS[plan.dtype]), int(SWIZZLES[plan.swizzle]), rank)
        numbers = ", ".join(map(str, (*head, self._size(plan.offset))))
        walk = plan.windows
        if walk is None:
            tail = f"0, {{0}}, {{0}}, 0, 0, {_padded([1] * rank)}"
        else:
            corners = f"{_padded(walk.lower)}, {_padded(walk.upper)}"
            tail = f"1, {corners}, {walk.channels}, {walk.pixels}, {_padded((1, *walk.steps, 1))}"
        return f"{{{numbers}, {shape}, {strides}, {_padded(plan.box)}, {tail}}}"


def _padded(numbers: Iterable[int]) -> str:
    found = list(numbers)
    return "{" + ", ".join(map(str, found + [0] * (MOST_AXES - len(found)))) + "}"
