"""Describes a program for its artifact: names, types and shapes, as the runtime reads them."""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.codegen.artifact.header import c_prefix
from bessemer.compiler.codegen.artifact.link import Bytes
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import Program
from bessemer.compiler.memory_plan.plan_memory import is_data_dependent
from bessemer.compiler.options import Options
from bessemer.compiler.targets.machine import Target
from bessemer.runtime import artifact
from bessemer.runtime.artifact import ArrayInfo, Signature, Strings


def describe(
    program: Program,
    weights: Bytes,
    digest: str,
    target: Target,
    options: Options,
    strings: Strings | None = None,
) -> Signature:
    """The signature of the artifact; `digest` is that of the weights."""
    texts = strings or Strings()
    inputs = [_array(program, v.name, v, k in texts.inputs) for k, v in enumerate(program.inputs)]
    outputs = [
        _array(program, name, v, k in texts.outputs, is_data_dependent(program, v))
        for k, (name, v) in enumerate(zip(program.output_names, program.outputs, strict=True))
    ]
    for room in program.rooms:
        inputs[room.given] = _in_use(inputs[room.given], room.axis, room.before)
        outputs[room.output] = _in_use(outputs[room.output], room.axis, room.after)
    return Signature(
        name=program.name,
        prefix=c_prefix(program.name),
        triple=target.triple,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        symbols=program.symbols,
        input_symbols=program.input_symbols,
        cpu_features=target.features,
        target=target.description,
        precision=options.precision,
        weights_bytes=weights.nbytes,
        weights_sha256=digest,
        updates=program.updates,
        strings=strings,
        rooms=tuple(
            artifact.Room(room.output, room.given, room.axis, room.symbol) for room in program.rooms
        ),
    )


def _in_use(array: ArrayInfo, axis: int, size: Size) -> ArrayInfo:
    """The part of an array with room that is in use."""
    return replace(array, shape=(*array.shape[:axis], _entry(size), *array.shape[axis + 1 :]))


def _array(
    program: Program, name: str, value: Value, is_text: bool, data_dependent: bool = False
) -> ArrayInfo:
    shape = tuple(_entry(program.expanded(size)) for size in value.type.shape)
    dtype = "string" if is_text else RUNTIME_NAMES[value.type.dtype.name]
    return ArrayInfo(name, dtype, shape, data_dependent)


def _entry(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)


RUNTIME_NAMES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "bool": "bool",
    "i4": "int4",
    "u4": "uint4",
    "i2": "int2",
    "u2": "uint2",
    "f8e4m3fn": "float8_e4m3fn",
    "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e5m2": "float8_e5m2",
    "f8e5m2fnuz": "float8_e5m2fnuz",
    "f8e8m0": "float8_e8m0fnu",
    "f4e2m1": "float4_e2m1fn",
}
