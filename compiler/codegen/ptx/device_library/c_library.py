"""Writes a model for GPUs as a shared library: tables and runtime in C, with the program file
inside.

    model.so   linked by the C compiler; needs libc, libdl and, to run, NVIDIA's driver
    model.h    beside it

The whole file that `bessemer.load` reads is a section of the library; the tables point to the PTX,
the cubins and the weights in it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from string import Template

from bessemer.compiler.codegen.artifact.link import linker_command
from bessemer.compiler.codegen.ptx.device_library.c_contexts import LIFE
from bessemer.compiler.codegen.ptx.device_library.c_driver import DRIVER
from bessemer.compiler.codegen.ptx.device_library.c_header import STATUS_TEXTS, device_header
from bessemer.compiler.codegen.ptx.device_library.c_run import RUN
from bessemer.compiler.codegen.ptx.device_library.c_tables import Tables, c_string
from bessemer.compiler.errors import CompileError
from bessemer.runtime.artifact import DTYPE_CODES, ArrayInfo, Signature
from bessemer.runtime.cuda.artifact import FiniteStep
from bessemer.runtime.cuda.program_file import Form, PartPlaces, pack_with_places
from bessemer.runtime.cuda.program_place import SECTION
from bessemer.runtime.whole_file import folder_beside

_INFO = """
API const char *${prefix}_message(const ${prefix}_context *c) { return c ? c->message : ""; }
API int32_t ${prefix}_abi(void) { return ${prefix}_ABI; }
API int32_t ${prefix}_input_count(void) { return ${prefix}_INPUT_COUNT; }
API int32_t ${prefix}_output_count(void) { return ${prefix}_OUTPUT_COUNT; }
API int32_t ${prefix}_dim_count(void) { return ${prefix}_DIM_COUNT; }
API const ${prefix}_value *${prefix}_input_info(int32_t k) {
  return k >= 0 && k < ${prefix}_INPUT_COUNT ? &input_infos[k] : NULL;
}
API const ${prefix}_value *${prefix}_output_info(int32_t k) {
  return k >= 0 && k < ${prefix}_OUTPUT_COUNT ? &output_infos[k] : NULL;
}
API const char *${prefix}_dim_name(int32_t k) {
  return k >= 0 && k < ${prefix}_DIM_COUNT ? dim_names[k] : NULL;
}
API const char *${prefix}_metadata(void) { return metadata; }
API const char *${prefix}_status_text(int32_t status) {
  switch (status) {
$status_cases
    default: return NULL;
  }
}
"""
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-Wall", "-Wextra")
_LINK = ("-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,defs", "-Wl,--build-id=none")
_ZIG_TARGET = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


def library_source(forms: Sequence[Form], header: str, program: str, places: PartPlaces) -> str:
    """The C text; `header` and `program` are the names of those files."""
    signature = forms[0].program.signature
    tables = [Tables(form.program, number) for number, form in enumerate(forms)]
    begin = [
        f'#include "{header}"',
        DRIVER,
        '#define API __attribute__((visibility("default")))',
        f"#define LEVELS {c_string(levels_of(forms))}",
        f"#define PROGRAM_COUNT {len(forms)}",
        f"#define HAS_HOST_STEPS {int(_has_host_steps(forms))}",
    ]
    for name, found in (
        ("PLACES", [t.most_places for t in tables]),
        ("SYMBOLS", [t.most_symbols for t in tables]),
        ("MAPS", [t.most_maps for t in tables]),
        ("FAULTS", [t.faults for t in tables]),
    ):
        begin.append(f"#define MOST_{name} {max(found)}")
    begin.append(_embedded(program))
    begin += [table.text for table in tables]
    rows = []
    for table, form, (ptx, cubin, weights) in zip(tables, forms, places, strict=True):
        assembled = f"program_file + {cubin}" if form.cubin else "NULL"
        rows.append(
            table.row(
                f"program_file + {ptx}", assembled, f"program_file + {weights}", form.weights.nbytes
            )
        )
    begin.append("static const program programs[] = {\n" + ",\n".join(rows) + "};")
    begin.append(_infos(signature))
    cases = "\n".join(
        f"    case {int(status)}: return {c_string(text)};" for status, text in STATUS_TEXTS.items()
    )
    text = Template(LIFE + RUN + _INFO).substitute(prefix=signature.prefix, status_cases=cases)
    return "\n".join([*begin, text])


def _embedded(program: str) -> str:
    return (
        f'__asm__(".pushsection {SECTION},\\"a\\",@progbits\\n.balign 64\\n'
        f'program_file:\\n.incbin \\"{program}\\"\\n.popsection\\n");\n'
        'extern const unsigned char program_file[] __attribute__((visibility("hidden")));'
    )


def _has_host_steps(forms: Sequence[Form]) -> bool:
    return any(isinstance(step, FiniteStep) for form in forms for step in form.program.steps)


def levels_of(forms: Sequence[Form]) -> str:
    """The levels that there is code for, as text for people."""
    return ", ".join(form.program.signature.target for form in forms)


def _infos(signature: Signature) -> str:
    prefix = signature.prefix
    parts = []
    for kind, arrays in (("input", signature.inputs), ("output", signature.outputs)):
        rows = []
        for number, info in enumerate(arrays):
            parts.append(_shape(f"{kind}_{number}", info))
            names = f"{kind}_{number}_shape, {kind}_{number}_dims"
            code, rank = DTYPE_CODES[info.dtype], len(info.shape)
            rows.append(f"  {{{c_string(info.name)}, {code}, {rank}, {names}}}")
        listed = ",\n".join(rows) or "  {0}"
        parts.append(f"static const {prefix}_value {kind}_infos[] = {{\n{listed}}};")
    names_of = ", ".join(map(c_string, signature.symbols)) or "NULL"
    parts.append(f"static const char *const dim_names[] = {{{names_of}}};")
    parts.append(f"static const char metadata[] = {c_string(signature.to_json())};")
    return "\n".join(parts)


def _shape(name: str, info: ArrayInfo) -> str:
    shape = ", ".join(str(s) if isinstance(s, int) else "-1" for s in info.shape) or "0"
    dims = ", ".join(c_string(str(size)) for size in info.shape) or "NULL"
    return (
        f"static const int64_t {name}_shape[] = {{{shape}}};\n"
        f"static const char *const {name}_dims[] = {{{dims}}};"
    )


def save_library(
    forms: Sequence[Form], path: Path, linker: str = "", machine: str = "x86_64"
) -> list[Path]:
    """Writes model.so and model.h, and returns their paths. Raises CompileError if the model has
    control flow or sizes that the data decides, or if there is no C compiler."""
    signature = forms[0].program.signature
    command = linker_command(_ZIG_TARGET[machine], linker)
    header = path.with_suffix(".h")
    data, places = pack_with_places(forms)
    with folder_beside(path) as folder:
        (folder / header.name).write_text(device_header(signature, levels_of(forms)))
        (folder / "model.bessemer").write_bytes(data)
        source = library_source(forms, header.name, "model.bessemer", places)
        (folder / "model.c").write_text(source)
        own_name = ("-Xlinker", "-soname", "-Xlinker", path.name)
        arguments = [*command, *_FLAGS, *_LINK, *own_name]
        done = subprocess.run(
            [*arguments, "model.c", "-o", path.name, "-ldl"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CompileError(f"{command[0]} failed on {path.name}:\n{done.stderr.strip()[:2000]}")
        os.replace(folder / path.name, path)
        os.replace(folder / header.name, header)
    return [path, header]
