"""Which target a processor gets, by what Linux says of it."""

from __future__ import annotations

import pytest

from bessemer.compiler.targets import x86

_OLDEST = "cx16 pni popcnt sse4_1 sse4_2 ssse3"
_AVX2 = f"{_OLDEST} abm avx avx2 bmi1 bmi2 f16c fma movbe"
_AVX512 = f"{_AVX2} avx512bw avx512cd avx512dq avx512f avx512vl"
PROCESSORS = {
    "Nehalem": (_OLDEST, "x86_64-sse4.2"),
    "Ivy Bridge": (f"{_OLDEST} avx f16c", "x86_64-sse4.2"),
    "Haswell, Zen 2 and 3": (_AVX2, "x86_64-avx2"),
    "Alder Lake": (f"{_AVX2} avx_vnni", "x86_64-avx2-vnni"),
    "Skylake-X": (_AVX512, "x86_64-avx512"),
    "Cascade Lake": (f"{_AVX512} avx512_vnni", "x86_64-avx512-vnni"),
    "Cooper Lake": (f"{_AVX512} avx512_vnni avx512_bf16", "x86_64-avx512-vnni"),
    "Ice Lake": (f"{_AVX512} avx512_vnni avx512vbmi", "x86_64-avx512-vnni"),
    "Zen 4": (f"{_AVX512} avx512_vnni avx512_bf16 avx512vbmi", "x86_64-avx512-bf16"),
    "Zen 5": (f"{_AVX512} avx512_vnni avx512_bf16 avx512vbmi avx_vnni", "x86_64-avx512-bf16"),
    "Sapphire Rapids": (
        f"{_AVX512} avx512_vnni avx512_bf16 avx512vbmi avx_vnni amx_tile amx_bf16 amx_int8",
        "x86_64-amx",
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_gets_the_widest_level_that_it_has(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, expected = PROCESSORS[name]
    monkeypatch.setattr(x86, "_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(x86, "request_tiles", lambda: True)
    assert x86.host().name == expected


def test_a_virtual_machine_that_claims_a_large_cache_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = frozenset(PROCESSORS["Sapphire Rapids"][0].split())
    monkeypatch.setattr(x86, "_flags", lambda: flags)
    monkeypatch.setattr(x86, "request_tiles", lambda: True)
    for claimed, taken in ((1 << 20, 1 << 20), (2 << 20, 2 << 20), (4 << 20, 2 << 20)):
        facts = {(2, "size"): claimed}
        monkeypatch.setattr(x86, "_cache_fact", lambda c, n, o, facts=facts: facts.get((c, n), o))
        assert x86.host().l2_bytes == taken
