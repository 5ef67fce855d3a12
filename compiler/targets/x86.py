"""x86-64 processors, by instruction set level, and the one that this process runs on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bessemer.compiler.targets.machine import Target

TRIPLE = "x86_64-unknown-linux-gnu"
# LLVM's model of this processor schedules register tiles without spills; its models of Skylake and
# of plain x86-64 do not, on any processor.
_TUNE = "haswell"
_SSE42 = ("cx16", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3")
_AVX2 = (*_SSE42, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")

SSE42 = Target(
    name="x86_64-sse4.2",
    triple=TRIPLE,
    cpu="x86-64-v2",
    features=_SSE42,
    vector_bits=128,
    vector_registers=16,
    has_fma=False,
    tune=_TUNE,
)
AVX2 = Target(
    name="x86_64-avx2",
    triple=TRIPLE,
    cpu="x86-64-v3",
    features=_AVX2,
    vector_bits=256,
    vector_registers=16,
    has_fma=True,
    has_half_conversion=True,
    tune=_TUNE,
)
AVX512 = Target(
    name="x86_64-avx512",
    triple=TRIPLE,
    cpu="x86-64-v4",
    features=_AVX512,
    vector_bits=512,
    vector_registers=32,
    has_fma=True,
    has_masks=True,
    has_fast_gather=True,
    has_half_conversion=True,
    tune=_TUNE,
)

# What Linux calls features where it does not use LLVM's name.
_LINUX_NAMES = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "lzcnt": "abm",
}


def host() -> Target:
    """The widest level that this process's processor has, with the size of its own L2 cache."""
    flags = _flags()
    for target in (AVX512, AVX2, SSE42):
        if all(_LINUX_NAMES.get(feature, feature) in flags for feature in target.features):
            return replace(target, l2_bytes=_l2_bytes(target.l2_bytes))
    return SSE42


def _flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _l2_bytes(otherwise: int) -> int:
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text.removesuffix("K")) << 10
    except (OSError, ValueError):
        return otherwise
