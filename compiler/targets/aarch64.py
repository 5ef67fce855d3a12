"""64-bit ARM processors."""

from __future__ import annotations

from bessemer.compiler.targets.machine import Target

NEON = Target(
    name="aarch64-neon",
    triple="aarch64-unknown-linux-gnu",
    cpu="generic",
    features=("neon",),
    vector_bits=128,
    vector_registers=32,
    has_fma=True,
    has_half_conversion=True,
    l1_ways=4,
)
