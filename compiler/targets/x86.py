"""x86-64 processors by instruction set level, and detection of the one that this process runs
on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bessemer.compiler.targets.machine import Target
from bessemer.compiler.targets.tile_permission import request_tiles

TRIPLE = "x86_64-unknown-linux-gnu"
# LLVM's model of this processor schedules register tiles without spills; its models of Skylake and
# of plain x86-64 do not, on any processor.
_TUNE = "haswell"
_LAST_CACHE = 32 << 20
_LARGEST_L2 = 2 << 20
"""No core has much more; some virtual machines claim 4 MiB, whatever there is."""
# The caches of a level are the smallest of its processors. (Code for these is nearly as fast on
# larger ones: ResNet-50, MobileNetV2 and BERT on Zen 5 0.99 to 1.02.) First levels have 8 ways on
# Skylake, Cascade Lake and Zen 4, and 12 from Ice Lake and Zen 5 on, thus on all with AMX. Second
# levels have 256 KiB on Intel's desktop processors from Haswell to Comet Lake.
_SMALLEST_L2 = 256 << 10
_SSE42 = ("cx16", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3")
_AVX2 = (*_SSE42, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
# Fetching a line to be written.
_HINTS = ("prfchw",)

SSE42 = Target(
    name="x86_64-sse4.2",
    triple=TRIPLE,
    cpu="x86-64-v2",
    features=_SSE42,
    vector_bits=128,
    vector_registers=16,
    has_fma=False,
    has_dot_int16=True,
    l2_bytes=_SMALLEST_L2,
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
    has_dot_int16=True,
    l2_bytes=_SMALLEST_L2,
    last_cache=_LAST_CACHE,
    tune=_TUNE,
    hints=_HINTS,
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
    has_half_conversion=True,
    has_lookup=True,
    has_dot_int16=True,
    last_cache=_LAST_CACHE,
    vector_letter="v",
    tune=_TUNE,
    hints=_HINTS,
)
AVX2_VNNI = replace(
    AVX2,
    name="x86_64-avx2-vnni",
    features=(*_AVX2, "avxvnni"),
    has_dot_int8=True,
    l2_bytes=1 << 20,
)
AVX512_VNNI = replace(
    AVX512,
    name="x86_64-avx512-vnni",
    features=(*_AVX512, "avx512vnni"),
    has_dot_int8=True,
)
AVX512_BF16 = replace(
    AVX512_VNNI,
    name="x86_64-avx512-bf16",
    features=(*AVX512_VNNI.features, "avx512bf16", "avx512vbmi"),
    has_byte_lookup=True,
    has_dot_bf16=True,
)
AMX = replace(
    AVX512_BF16,
    name="x86_64-amx",
    features=(*AVX512_BF16.features, "amx-tile", "amx-bf16", "amx-int8"),
    has_tiles=True,
    l1_ways=12,
    l2_bytes=2 << 20,
)
TARGETS = (AMX, AVX512_BF16, AVX512_VNNI, AVX512, AVX2_VNNI, AVX2, SSE42)
"""From the widest to the plainest."""

# What Linux calls features where it does not use LLVM's name.
_LINUX_NAMES = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "avxvnni": "avx_vnni",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "amx-tile": "amx_tile",
    "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8",
}


def host() -> Target:
    """The widest level that this process's processor has, with the shape of its own caches."""
    flags = _flags()
    for target in TARGETS:
        if _has_all(target, flags):
            if target.has_tiles and not request_tiles():
                continue
            return replace(
                target,
                l1_ways=_cache_fact(0, "ways_of_associativity", target.l1_ways),
                l2_bytes=min(_LARGEST_L2, _cache_fact(2, "size", target.l2_bytes)),
                last_cache=_cache_fact(3, "size", target.last_cache),
            )
    return SSE42


def refuses_tiles() -> bool:
    """Whether this processor has a matrix unit that this process may not use."""
    return _has_all(AMX, _flags()) and not request_tiles()


def _has_all(target: Target, flags: frozenset[str]) -> bool:
    return all(_LINUX_NAMES.get(feature, feature) in flags for feature in target.features)


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


def _cache_fact(cache: int, name: str, otherwise: int) -> int:
    """What Linux says of the first processor's cache 0 (L1, data), 2 or 3; bytes for a size."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{cache}/{name}").read_text().strip()
        return int(text.removesuffix("K")) << (10 if text.endswith("K") else 0)
    except (OSError, ValueError):
        return otherwise
