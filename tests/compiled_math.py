"""Compiles one vector math function for an instruction set and runs it over NumPy arrays."""

import ctypes
import platform
import struct
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from bessemer.compiler.codegen.math.math_terms import MathFunction, llvm_type

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES: dict[str, Any] = {"f32": np.float32, "f64": np.float64, "i16": np.uint16}

AVX2 = "+avx2,+fma,+f16c"
AVX512 = f"{AVX2},+avx512f,+avx512bw,+avx512dq,+avx512vl"
TARGETS = {  # triple, features, has FMA
    "sse4.2": ("x86_64-unknown-linux-gnu", "+sse4.2", False),
    "avx2": ("x86_64-unknown-linux-gnu", AVX2, True),
    "avx512": ("x86_64-unknown-linux-gnu", AVX512, True),
    "neon": ("aarch64-unknown-linux-gnu", "+neon", True),
}


def runs_here(target: str) -> bool:
    triple, features, _ = TARGETS[target]
    if triple.split("-")[0] != {"AMD64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine(), platform.machine()
    ):
        return False
    host = llvm.get_host_cpu_features()
    return target == "neon" or all(host.get(name[1:], False) for name in features.split(","))


RUNNABLE = [name for name in TARGETS if runs_here(name)]
BEST = RUNNABLE[-1]


def machine(target: str, jit: bool) -> llvm.TargetMachine:
    triple, features, _ = TARGETS[target]
    found = llvm.Target.from_triple(llvm.get_process_triple() if jit else triple)
    model = "jitdefault" if jit else "small"
    return found.create_target_machine(
        features=features, opt=2, reloc="pic", jit=jit, codemodel=model
    )


def inlined(text: str, tm: llvm.TargetMachine) -> llvm.ModuleRef:
    module = llvm.parse_assembly(text)
    module.verify()
    module.triple, module.data_layout = tm.triple, str(tm.target_data)
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.run(module, llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options(0)))
    return module


FLUSH = """  %state = alloca i32
  store i32 40896, ptr %state
  call void @llvm.x86.sse.ldmxcsr(ptr %state)
"""
RESTORE = """  store i32 8064, ptr %state
  call void @llvm.x86.sse.ldmxcsr(ptr %state)
"""


def loop_text(function: MathFunction, kinds: list[str], lanes: int, flush: bool) -> str:
    """`apply(inputs, output, count)`: the function over arrays; flush sets FTZ and DAZ."""
    sources, result = kinds[:-1], kinds[-1]
    names = [f"%in{i}" for i in range(len(sources))]
    loads = "".join(
        f"  {name}.p = getelementptr {llvm_type(kind, 1)}, ptr {name}, i64 %i\n"
        f"  {name}.v = load {llvm_type(kind, lanes)}, ptr {name}.p, align 1\n"
        for name, kind in zip(names, sources)
    )
    call = ", ".join(f"{llvm_type(k, lanes)} {n}.v" for n, k in zip(names, sources))
    declarations = sorted(function.declarations)
    if flush:
        declarations.append("declare void @llvm.x86.sse.ldmxcsr(ptr)")
    return (
        "\n".join(declarations)
        + f"""
{function.text}
define void @apply({", ".join(f"ptr {name}" for name in names)}, ptr %out, i64 %count) {{
entry:
{FLUSH if flush else ""}  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
{loads}  %r = call {llvm_type(result, lanes)} @{function.symbol}({call})
  %p = getelementptr {llvm_type(result, 1)}, ptr %out, i64 %i
  store {llvm_type(result, lanes)} %r, ptr %p, align 1
  %next = add i64 %i, {lanes}
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
{RESTORE if flush else ""}  ret void
}}
"""
    )


def run(
    function: MathFunction,
    kinds: list[str],
    lanes: int,
    target: str,
    *inputs: Array,
    flush: bool = False,
) -> Array:
    """The function's results, compiled for `target`; kinds: of the inputs, then of the output."""
    tm = machine(target, jit=True)
    engine = llvm.create_mcjit_compiler(inlined(loop_text(function, kinds, lanes, flush), tm), tm)
    engine.finalize_object()
    count = len(inputs[0])
    padded = [np.pad(x.astype(DTYPES[k]), (0, -count % lanes)) for x, k in zip(inputs, kinds)]
    out = np.empty(len(padded[0]), DTYPES[kinds[-1]])
    pointers = [ctypes.c_void_p] * len(kinds)
    apply = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64)(engine.get_function_address("apply"))
    apply(*[x.ctypes.data for x in padded], out.ctypes.data, len(out))
    return out[:count]


def object_for(function: MathFunction, kinds: list[str], lanes: int, target: str) -> bytes:
    """An ELF object with the function in a loop, for any of TARGETS."""
    tm = machine(target, jit=False)
    elf: bytes = tm.emit_object(inlined(loop_text(function, kinds, lanes, flush=False), tm))
    return elf


def undefined_symbols(elf: bytes) -> set[str]:
    """The names an ELF64 object wants from elsewhere."""
    table_offset = struct.unpack_from("<Q", elf, 0x28)[0]
    count = struct.unpack_from("<H", elf, 0x3C)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table_offset + 64 * i) for i in range(count)]
    (symbols,) = [section for section in sections if section[1] == 2]
    strings = sections[symbols[6]][4]
    names = set()
    for offset in range(symbols[4] + 24, symbols[4] + symbols[5], 24):
        name, _, _, section = struct.unpack_from("<IBBH", elf, offset)
        if section == 0:
            names.add(elf[strings + name : elf.index(b"\0", strings + name)].decode())
    return names
