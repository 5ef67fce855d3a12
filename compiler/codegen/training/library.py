"""Writes a training library as LLVM IR: several graphs that share one state, with a C API around
them.

The graphs are a step of training, the evaluation of a batch, and the network alone. Each has a run
body like a model's (run.py); they share context, threads, arena and weights. The state (parameters,
running statistics, the optimizer's arrays) belongs to the context. The step reads and writes it in
place; a step that fails leaves it as it was. After PREFIX_init nothing is allocated.
"""

from __future__ import annotations

from bessemer.compiler.codegen.support.constants import (
    array_table,
    byte_string,
    number_table,
    text_table,
)
from bessemer.compiler.codegen.support.support import runtime_text
from bessemer.compiler.codegen.training.checkpoint_reading import READING
from bessemer.compiler.codegen.training.checkpoint_writing import WRITING
from bessemer.compiler.codegen.training.library_calls import calls_text
from bessemer.compiler.codegen.training.library_interface import INTERFACE
from bessemer.compiler.codegen.training.library_parts import ALIGNMENT, SAFETENSORS, Library
from bessemer.runtime.artifact import Signature

# Every global symbol of a training library is PREFIX_ and one of these.
EXPORTS = (
    "abi",
    "arena_bytes",
    "create",
    "destroy",
    "dim_count",
    "dim_name",
    "evaluate",
    "init",
    "input_count",
    "input_info",
    "load",
    "message",
    "metadata",
    "needed_bytes",
    "output_count",
    "output_info",
    "parameter",
    "predict",
    "required_cpu",
    "reserve",
    "result_count",
    "result_name",
    "save",
    "state_count",
    "state_info",
    "status_text",
    "steps",
    "threads",
    "train_step",
    "trim",
    "version",
)


def library_text(signature: Signature, library: Library) -> str:
    """The LLVM IR of the whole library except the graphs' own functions."""
    tables = _tables(library)
    texts = (tables, INTERFACE, WRITING, READING, calls_text(library))
    return runtime_text(
        signature, [part.body for part in library.parts], "".join(texts), _names(library)
    )


def _names(library: Library) -> dict[str, str | int]:
    before, after = library.checkpoint
    return {
        "state_count": len(library.state),
        "state_block_bytes": max(library.offsets[-1], ALIGNMENT),
        "first_steps": library.steps,
        "before_bytes": len(before),
        "after_bytes": len(after),
        "has_sizes": str(bool(library.step.dims)).lower(),
    }


def _tables(library: Library) -> str:
    state = library.state
    infos = [array.info for array in state]
    shapes = [f"[{','.join(str(size) for size in info.shape)}]" for info in infos]
    kinds = [SAFETENSORS[info.dtype] for info in infos]
    keys = [_in_json(info.name) for info in infos]
    texts = [
        number_table("bessemer_state_offsets", library.offsets),
        number_table("bessemer_state_sizes", [array.bytes for array in state]),
        number_table("bessemer_state_initial", [array.initial for array in state]),
        number_table("bessemer_file_order", library.file_order),
        number_table("bessemer_key_sizes", [len(key.encode()) for key in keys]),
        text_table("bessemer_keys", keys),
        text_table("bessemer_kinds", [f'"{kind}"' for kind in kinds]),
        text_table("bessemer_shapes", shapes),
        text_table("bessemer_names", [info.name for info in infos]),
        byte_string("bessemer_before", library.checkpoint[0]),
        byte_string("bessemer_after", library.checkpoint[1]),
    ]
    for name, part in zip(("step", "evaluation", "prediction"), library.parts, strict=True):
        texts.append(number_table(f"bessemer_{name}_reads", part.reads))
        texts.append(number_table(f"bessemer_{name}_writes", part.writes))
    plain = "".join(texts).replace("$", "$$")
    return (
        plain
        + array_table("state", infos)
        + text_table("bessemer_results", [info.name for info in library.results], "result")
    )


def _in_json(name: str) -> str:
    """A name between quotes, escaped as safetensors escapes it."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "".join(
        escapes.get(char, f"\\u{ord(char):04x}" if ord(char) < 32 else char) for char in name
    )
