"""What an artifact says about itself: its signature, its status codes, and the names in its file.

The signature lies in the artifact as one JSON string (PREFIX_metadata), so that a loader needs
nothing but the file. The compiler writes it; the runtime reads it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.shapes import names_in

FORMAT = 1

Placement = Literal["inside", "beside"]
"""Where a library's weights are: inside it, or in a file beside it."""

# Element types by name; the numbers are those of ONNX's TensorProto.DataType, which people know.
DTYPE_CODES: dict[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "string": 8,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 20,
    "uint4": 21,
    "int4": 22,
    "float4_e2m1fn": 23,
    "float8_e8m0fnu": 24,
    "uint2": 25,
    "int2": 26,
}
SMALL_DTYPES = tuple(name for name, code in DTYPE_CODES.items() if code > DTYPE_CODES["bfloat16"])
"""Types of at most eight bits; every element has a byte of its own."""


class Status(IntEnum):
    """What the C functions return; the header lists the same codes."""

    OK = 0
    INVALID_ARGUMENT = 1
    OUT_OF_MEMORY = 2
    WORKSPACE_TOO_SMALL = 3
    WEIGHTS = 4
    CPU_UNSUPPORTED = 5
    INDEX_OUT_OF_RANGE = 6
    SHAPE_MISMATCH = 7
    INTERNAL = 8
    NOT_FINITE = 9
    CHECKPOINT = 10


STATUS_TEXTS: dict[Status, str] = {
    Status.OK: "no error",
    Status.INVALID_ARGUMENT: "an argument is null, negative or misaligned",
    Status.OUT_OF_MEMORY: "memory could not be allocated",
    Status.WORKSPACE_TOO_SMALL: "the workspace is too small for these dimensions",
    Status.WEIGHTS: "the weights are missing or belong to another model",
    Status.CPU_UNSUPPORTED: "the processor lacks an instruction set that the model was built for",
    Status.INDEX_OUT_OF_RANGE: "an index in the data is out of range",
    Status.SHAPE_MISMATCH: "the shapes contradict each other",
    Status.INTERNAL: "internal error",
    Status.NOT_FINITE: "a result that must be finite is not; nothing was updated",
    Status.CHECKPOINT: "a checkpoint cannot be read or written, or is of another network",
}


@dataclass(frozen=True)
class ArrayInfo:
    """An input or output: `shape` holds numbers and expressions over the signature's symbols.

    `data_dependent`: a size depends on the data, so that it is known only after the run.
    A `dtype` of "string" is int32 for the code: see Strings.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    data_dependent: bool = False


@dataclass(frozen=True)
class Room:
    """An output continues an input along an axis; both lie in arrays that may have more places.

    `output` and `given` are their positions, and `symbol` names how many places the arrays have:
    the one for both, or two. What is in use is what the shapes say.
    """

    output: int
    given: int
    axis: int
    symbol: str


@dataclass(frozen=True)
class Step:
    """What is done with arrays before a run: an operator of preparation.py, on arrays by name.

    `source` is the user's node that wants it.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Strings:
    """How a model takes and gives strings, while it computes with numbers.

    Each string is its place in `table`; one that is not there has a place behind the end, which the
    caller chooses. `inputs` and `outputs` are the positions of the tensors of strings. Where
    `steps` make inputs of what the caller gives, `given` describes what that is.
    """

    table: tuple[str, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    given: tuple[ArrayInfo, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Signature:
    """All that a caller of a compiled model has to know.

    `prefix` starts every C symbol. `symbols` are the named sizes in the order of the dims array:
    the first `input_symbols` are bound by the inputs' shapes, the others are written by the run.
    `cpu_features` are LLVM's names of what the processor must have; `target` is the machine that
    the code was made for, in words. `weights_sha256` is hex. `updates` are pairs (output, input) of
    places: that output may be written where that input is, if they are of one shape. `rooms` are
    outputs that continue an input, which lie in arrays that may be larger, and may be one.
    """

    name: str
    prefix: str
    triple: str
    inputs: tuple[ArrayInfo, ...]
    outputs: tuple[ArrayInfo, ...]
    symbols: tuple[str, ...] = ()
    input_symbols: int = 0
    cpu_features: tuple[str, ...] = ()
    target: str = ""
    precision: str = "float32"
    weights_bytes: int = 0
    weights_sha256: str = ""
    updates: tuple[tuple[int, int], ...] = ()
    strings: Strings | None = None
    rooms: tuple[Room, ...] = ()
    producer: str = "bessemer"
    format: int = FORMAT

    def to_json(self) -> str:
        """One line of JSON, the same for equal signatures."""
        fields = asdict(self)
        for name in ("strings", "rooms"):
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, separators=(",", ":"), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Signature:
        """Raises ArtifactError where the text is not a signature of a format that we read."""
        try:
            fields = json.loads(text)
            found = fields["format"]
            if found != FORMAT:
                raise ArtifactError(
                    f"The artifact has format {found}, this Bessemer reads format {FORMAT}. "
                    "Compile the model again."
                )
            signature = _from_fields(fields)
            check_signature(signature)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"The artifact's description is damaged: {error}") from None
        return signature


def _from_fields(fields: dict[str, Any]) -> Signature:
    for key in ("inputs", "outputs"):
        fields[key] = _arrays(fields[key])
    for key in ("symbols", "cpu_features"):
        fields[key] = tuple(fields[key])
    fields["updates"] = tuple((output, given) for output, given in fields.get("updates", ()))
    fields["rooms"] = tuple(Room(**room) for room in fields.get("rooms", ()))
    if "strings" in fields:
        fields["strings"] = _strings(fields["strings"])
    return Signature(**fields)


def _arrays(items: list[dict[str, Any]]) -> tuple[ArrayInfo, ...]:
    return tuple(
        ArrayInfo(item["name"], item["dtype"], tuple(item["shape"]), item["data_dependent"])
        for item in items
    )


def _strings(fields: dict[str, Any]) -> Strings:
    steps = tuple(
        Step(**{**step, "inputs": tuple(step["inputs"]), "outputs": tuple(step["outputs"])})
        for step in fields["steps"]
    )
    table, inputs, outputs = (tuple(fields[key]) for key in ("table", "inputs", "outputs"))
    return Strings(table, inputs, outputs, _arrays(fields["given"]), steps)


def check_signature(signature: Signature) -> None:
    """Raises ValueError where the signature's parts contradict each other."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", signature.prefix):
        raise ValueError(f"the prefix {signature.prefix!r} is not a C identifier")
    bound = signature.symbols[: signature.input_symbols]
    for symbol in signature.symbols:
        if not symbol.isidentifier() or names_in(symbol) != {symbol}:
            raise ValueError(f"the symbol {symbol!r} is not a plain name")
    if len(set(signature.symbols)) != len(signature.symbols):
        raise ValueError("a symbol is listed twice")
    for array in signature.inputs:
        _check_array(array, bound)
    for array in signature.outputs:
        _check_array(array, signature.symbols if array.data_dependent else bound)
    for output, given in signature.updates:
        one, other = signature.outputs[output], signature.inputs[given]
        if (one.dtype, len(one.shape)) != (other.dtype, len(other.shape)):
            raise ValueError(f"output {output} cannot be where input {given} is")
    for room in signature.rooms:
        for array in (signature.inputs[room.given], signature.outputs[room.output]):
            if not 0 <= room.axis < len(array.shape):
                raise ValueError(f"{array.name!r} has no axis {room.axis} with room")
    plain = {size for array in signature.inputs for size in array.shape}
    plain |= {room.symbol for room in signature.rooms}
    for symbol in bound:
        if symbol not in plain:
            raise ValueError(f"no input has the symbol {symbol!r} as one of its sizes")


def _check_array(array: ArrayInfo, symbols: tuple[str, ...]) -> None:
    if array.dtype not in DTYPE_CODES:
        raise ValueError(f"{array.name!r} has the unknown dtype {array.dtype!r}")
    for size in array.shape:
        if isinstance(size, int):
            if size < 0:
                raise ValueError(f"{array.name!r} has the negative size {size}")
        elif unknown := names_in(size) - set(symbols):
            raise ValueError(f"{array.name!r} reads the unknown symbol {sorted(unknown)[0]!r}")


class Section(NamedTuple):
    """A section of an ELF file: `header` is where its 64-byte header lies in the file."""

    name: str
    kind: int
    header: int
    offset: int
    size: int
    link: int


class Symbol(NamedTuple):
    """A name in an ELF file's symbol table."""

    name: str
    is_global: bool
    is_defined: bool


SYMBOL_TABLE, DYNAMIC_SYMBOL_TABLE = 2, 11  # section kinds
_DAMAGED = "The file is cut off or damaged. Copy it again, or compile the model again."
MACHINES = {62: "x86_64", 183: "aarch64"}


def elf_machine(data: bytes | memoryview) -> str:
    """The machine that an ELF file is for; raises ArtifactError where the file is none of ours."""
    if len(data) < 64 or bytes(data[:6]) != b"\x7fELF\x02\x01":
        raise ArtifactError("The file is not a 64-bit little-endian ELF file, so not an artifact.")
    code: int = struct.unpack_from("<H", data, 18)[0]
    return MACHINES.get(code, f"machine {code}")


def read_sections(data: bytes | memoryview) -> list[Section]:
    """The sections of an ELF file, in order; raises ArtifactError where it is damaged."""
    elf_machine(data)
    try:
        (start,) = struct.unpack_from("<Q", data, 40)
        count, names_index = struct.unpack_from("<HH", data, 60)
        raw = []
        for index in range(count):
            header = start + 64 * index
            name, kind, _, _, offset, size, link = struct.unpack_from("<IIQQQQI", data, header)
            raw.append(Section(str(name), kind, header, offset, size, link))
        names = raw[names_index].offset
        return [part._replace(name=_text_at(data, names + int(part.name))) for part in raw]
    except (struct.error, IndexError, ValueError):
        raise ArtifactError(_DAMAGED) from None


def read_symbols(data: bytes | memoryview, kind: int) -> Iterator[Symbol]:
    """The named symbols of the table of this kind; raises ArtifactError where it is damaged."""
    sections = read_sections(data)
    try:
        for table in (section for section in sections if section.kind == kind):
            names = sections[table.link].offset
            for entry in range(table.offset, table.offset + table.size, 24):
                name, info, _, section = struct.unpack_from("<IBBH", data, entry)
                if name:
                    yield Symbol(_text_at(data, names + name), info >> 4 != 0, section != 0)
    except (struct.error, IndexError, ValueError):
        raise ArtifactError(_DAMAGED) from None


def _text_at(data: bytes | memoryview, offset: int) -> str:
    end = offset
    while data[end]:
        end += 1
    return bytes(data[offset:end]).decode()
