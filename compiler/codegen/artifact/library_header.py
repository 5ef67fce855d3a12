"""The C header of a training library."""

from __future__ import annotations

from collections.abc import Iterable

from bessemer.compiler.codegen.artifact.header import described_arrays, filled_header, macro_name
from bessemer.compiler.codegen.artifact.header_texts import (
    LIBRARY_COMMENT,
    LIFE,
    REST,
    TRAINING,
    TYPES,
)
from bessemer.compiler.codegen.training.library_parts import Library
from bessemer.runtime.artifact import Signature


def library_header(signature: Signature, library: Library, weights_file: str = "") -> str:
    """The header; `weights_file` is the name of the file that holds the weights, or empty."""
    return filled_header(
        LIBRARY_COMMENT + TYPES + LIFE + TRAINING + REST,
        signature,
        weights_file,
        _macros(signature.prefix, library),
        given=str(len(signature.inputs) - library.targets),
        results=described_arrays(library.results),
        state=described_arrays([array.info for array in library.state]),
    )


def _macros(prefix: str, library: Library) -> Iterable[str]:
    step = library.step
    given = len(step.body.signature.inputs) - len(step.reads) - 2
    yield f"#define {prefix}_PREDICTION_INPUT_COUNT {given - library.targets}"
    yield f"#define {prefix}_STATE_COUNT {len(library.state)}"
    yield f"#define {prefix}_RESULT_COUNT {len(library.results)}"
    for place, info in enumerate(library.results):
        yield f"#define {prefix}_RESULT_{macro_name(info.name)} {place}"
