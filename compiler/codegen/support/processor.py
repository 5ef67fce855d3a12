"""The support code that differs between processors: denormals, pausing, and the check for processor
features.

The support code itself is compiled for the oldest processor of its architecture, so that `create`
can report a missing instruction set and does not crash because of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from bessemer.compiler.errors import InternalError

# Where cpuid tells of a feature: (leaf, subleaf, register, bit), and the state that the operating
# system must save for it (bits of XCR0): 6 = AVX, 0xE6 = AVX-512, 0x60000 = AMX.
_AVX, _AVX512, _AMX = 0x6, 0xE6, 0x60000
X86_FEATURES: dict[str, tuple[int, int, str, int, int]] = {
    "sse3": (1, 0, "c", 0, 0),
    "ssse3": (1, 0, "c", 9, 0),
    "fma": (1, 0, "c", 12, _AVX),
    "cx16": (1, 0, "c", 13, 0),
    "sse4.1": (1, 0, "c", 19, 0),
    "sse4.2": (1, 0, "c", 20, 0),
    "movbe": (1, 0, "c", 22, 0),
    "popcnt": (1, 0, "c", 23, 0),
    "avx": (1, 0, "c", 28, _AVX),
    "f16c": (1, 0, "c", 29, _AVX),
    "bmi": (7, 0, "b", 3, 0),
    "avx2": (7, 0, "b", 5, _AVX),
    "bmi2": (7, 0, "b", 8, 0),
    "avx512f": (7, 0, "b", 16, _AVX512),
    "avx512dq": (7, 0, "b", 17, _AVX512),
    "avx512ifma": (7, 0, "b", 21, _AVX512),
    "avx512cd": (7, 0, "b", 28, _AVX512),
    "avx512bw": (7, 0, "b", 30, _AVX512),
    "avx512vl": (7, 0, "b", 31, _AVX512),
    "avx512vbmi": (7, 0, "c", 1, _AVX512),
    "avx512vbmi2": (7, 0, "c", 6, _AVX512),
    "avx512vnni": (7, 0, "c", 11, _AVX512),
    "avx512bitalg": (7, 0, "c", 12, _AVX512),
    "avx512vpopcntdq": (7, 0, "c", 14, _AVX512),
    "amx-bf16": (7, 0, "d", 22, _AMX),
    "avx512fp16": (7, 0, "d", 23, _AVX512),
    "amx-tile": (7, 0, "d", 24, _AMX),
    "amx-int8": (7, 0, "d", 25, _AMX),
    "avxvnni": (7, 1, "a", 4, _AVX),
    "avx512bf16": (7, 1, "a", 5, _AVX512),
    "amx-fp16": (7, 1, "a", 21, _AMX),
    "lzcnt": (0x80000001, 0, "c", 5, 0),
}
_ALWAYS_THERE = {"sse", "sse2", "cx8", "fxsr", "mmx", "x87", "64bit", "cmov"}

_X86_DENORMALS = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse2.pause()

define hidden i64 @bessemer_flush_denormals() $baseline {
  %old = alloca i32
  %new = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %old)
  store i32 40896, ptr %new
  call void @llvm.x86.sse.ldmxcsr(ptr %new)
  %mode = load i32, ptr %old
  %wide = zext i32 %mode to i64
  ret i64 %wide
}

define hidden void @bessemer_restore_denormals(i64 %mode) $baseline {
  %slot = alloca i32
  %word = trunc i64 %mode to i32
  store i32 %word, ptr %slot
  call void @llvm.x86.sse.ldmxcsr(ptr %slot)
  ret void
}
"""

# 0x1000000 is FZ: flushes inputs and results of float32 and float64, rounds to nearest, no traps.
_AARCH64_DENORMALS = """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
declare void @llvm.aarch64.hint(i32)

define hidden i64 @bessemer_flush_denormals() $baseline {
  %mode = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 16777216)
  ret i64 %mode
}

define hidden void @bessemer_restore_denormals(i64 %mode) $baseline {
  call void @llvm.aarch64.set.fpcr(i64 %mode)
  ret void
}
"""

# Machine code as bytes: LLVM has no intrinsic for cpuid, and llvmlite assembles inline assembly for
# the machine that it runs on only. The bytes return before the empty body is reached.
#   push rbx; mov r8, rdx; mov eax, edi; mov ecx, esi; cpuid;
#   mov [r8], eax; mov [r8 + 4], ebx; mov [r8 + 8], ecx; mov [r8 + 12], edx; pop rbx; ret
#   xor ecx, ecx; xgetbv; ret
_CPUID_CODE = "53 4989D0 89F8 89F1 0FA2 418900 41895804 41894808 4189500C 5B C3"
_XGETBV_CODE = "31C9 0F01D0 C3"

_CPUID = """
define hidden void @bessemer_cpuid_into(i32 %leaf, i32 %subleaf, ptr %out)
  noinline optnone $baseline prologue [27 x i8] c"CPUID_CODE" {
  ret void
}

define hidden i32 @bessemer_xgetbv() noinline optnone $baseline prologue [6 x i8] c"XGETBV_CODE" {
  ret i32 0
}

define hidden i32 @bessemer_cpuid(i32 %leaf, i32 %subleaf, i64 %register) $baseline {
  %all = alloca [4 x i32]
  call void @bessemer_cpuid_into(i32 %leaf, i32 %subleaf, ptr %all)
  %at = getelementptr [4 x i32], ptr %all, i64 0, i64 %register
  %word = load i32, ptr %at
  ret i32 %word
}

define hidden i32 @bessemer_saved_state() $baseline {
entry:
  %c = call i32 @bessemer_cpuid(i32 1, i32 0, i64 2)
  %bit = and i32 %c, 134217728
  %has = icmp ne i32 %bit, 0
  br i1 %has, label %read, label %none
read:
  %low = call i32 @bessemer_xgetbv()
  ret i32 %low
none:
  ret i32 0
}
"""

# Linux gives the large AMX state to a process only when asked: arch_prctl(ARCH_REQ_XCOMP_PERM, 18).
_AMX_PERMISSION = """
  %refused = call i64 (i64, ...) @syscall(i64 158, i64 4131, i64 18)
  %granted = icmp eq i64 %refused, 0
  ret i1 %granted
"""


def architecture(triple: str) -> str:
    """x86_64 or aarch64; raises InternalError for a machine that the support code does not know."""
    found = triple.split("-", maxsplit=1)[0]
    if found not in ("x86_64", "aarch64"):
        raise InternalError(f"no support code for {triple}")
    return found


def baseline(triple: str) -> str:
    """The function attributes that restrict the support code to the oldest processor of the
    architecture."""
    if architecture(triple) == "x86_64":
        return 'nounwind "target-cpu"="x86-64" "target-features"="+sse2"'
    return 'nounwind "target-cpu"="generic" "target-features"="+neon"'


def pause(triple: str) -> str:
    """The instruction that tells the processor that this thread is only waiting."""
    if architecture(triple) == "x86_64":
        return "call void @llvm.x86.sse2.pause()"
    return "call void @llvm.aarch64.hint(i32 1)"


def processor_text(triple: str, features: Iterable[str]) -> str:
    """LLVM IR of bessemer_flush_denormals, bessemer_restore_denormals and bessemer_processor_fits.

    Flushing sets the whole control word (0x9FC0: flush, denormals are zero, round to nearest, no
    traps), so that the caller's rounding mode does not change the model's results. Restoring sets
    it back.
    """
    if architecture(triple) == "aarch64":
        return _AARCH64_DENORMALS + _fits("", "  ret i1 true\n")
    wanted = sorted(set(features) - _ALWAYS_THERE)
    if unknown := [feature for feature in wanted if feature not in X86_FEATURES]:
        raise InternalError(f"no way known to check the processor for {', '.join(unknown)}")
    if not wanted:
        return _X86_DENORMALS + _fits("", "  ret i1 true\n")
    checks = "".join(_x86_checks(wanted))
    amx = "amx-tile" in wanted
    end = "yes:\n" + (_AMX_PERMISSION if amx else "  ret i1 true\n") + "no:\n  ret i1 false\n"
    declare = "declare i64 @syscall(i64, ...)\n" if amx else ""
    return _X86_DENORMALS + _cpuid_text() + declare + _fits(checks, end)


def _cpuid_text() -> str:
    def escaped(code: str) -> str:
        return "".join(f"\\{byte:02X}" for byte in bytes.fromhex(code))

    text = _CPUID.replace("XGETBV_CODE", escaped(_XGETBV_CODE))
    return text.replace("CPUID_CODE", escaped(_CPUID_CODE))


def _fits(checks: str, end: str) -> str:
    return f"\ndefine hidden i1 @bessemer_processor_fits() $baseline {{\n{checks}{end}}}\n"


def _x86_checks(features: list[str]) -> Iterable[str]:
    """Blocks that branch to %no if the highest leaf of cpuid is too low, or a feature or saved
    state is missing."""
    masks: dict[tuple[int, int, str], int] = {}
    state = 0
    for feature in features:
        leaf, subleaf, register, bit, saved = X86_FEATURES[feature]
        masks[leaf, subleaf, register] = masks.get((leaf, subleaf, register), 0) | 1 << bit
        state |= saved
    tests: list[tuple[int, int, str, int, str]] = []
    for (leaf, subleaf, register), mask in masks.items():
        tests.append((leaf & 0x80000000, 0, "a", leaf, "uge"))
        tests.append((leaf, subleaf, register, mask, "eq"))
    for number, (leaf, subleaf, register, value, comparison) in enumerate(tests):
        place = "abcd".index(register)
        mask = value if comparison == "eq" else 0xFFFFFFFF
        call = f"call i32 @bessemer_cpuid(i32 {leaf}, i32 {subleaf}, i64 {place})"
        yield f"  %word{number} = {call}\n"
        yield f"  %masked{number} = and i32 %word{number}, {mask}\n"
        yield f"  %test{number} = icmp {comparison} i32 %masked{number}, {value}\n"
        yield f"  br i1 %test{number}, label %next{number}, label %no\nnext{number}:\n"
    yield "  %saved = call i32 @bessemer_saved_state()\n"
    yield f"  %there = and i32 %saved, {state}\n"
    yield f"  %all = icmp eq i32 %there, {state}\n"
    yield "  br i1 %all, label %yes, label %no\n"
