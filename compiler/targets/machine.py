"""Describes a machine: everything that schedules and code generation need to know about it."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir.types import DType

CACHE_LINE = 64
"""Bytes, on all of them."""
PAGE = 4096
"""Bytes of memory whose lines all fall into different sets of a first-level cache."""
SET_STRIDE = 1024
"""Addresses that are this many bytes apart fall into few sets of the first-level cache."""


def conflicts_in_cache(distance: int) -> bool:
    """Whether lines so many bytes apart fall into few sets of a first-level cache: those written
    one after the other push each other out."""
    return distance % SET_STRIDE == 0


@dataclass(frozen=True)
class Target:
    """A machine as data.

    `cpu` is LLVM's name of an instruction set level; `features` are all optional instruction sets
    that code may use, by LLVM's names: an artifact checks them before it runs. `tune` is LLVM's
    name of the processor to schedule instructions for, if known; `hints` are instructions that do
    nothing on processors that lack them.
    `has_masks`: any vector load or store can be limited to some lanes at no cost.
    `has_half_conversion`: f16 converts from and to f32 by instructions.
    `has_lookup`: one looks 16 of 32 f32 up in two registers (vpermi2ps), one multiplies f32 by
    powers of two (vscalefps), one splits them into powers of two and significands (vgetexpps).
    `has_byte_lookup`: one looks 64 of 128 bytes up in two registers (vpermi2b).
    `has_dot_int16`: one adds two products of i16 for every lane of i32 (vpmaddwd).
    `has_dot_int8`: one adds four products of u8 by s8 to an i32, for every lane (vpdpbusd).
    `has_dot_bf16`: one adds two products of bf16 to an f32, for every lane (vdpbf16ps), and one
    rounds f32 to bf16.
    `has_tiles`: products of tiles of 16 rows x 64 bytes, of bf16 or of bytes (AMX).
    `last_cache`: bytes of the last cache; kernels that read and write more use streaming
    stores. 0 for machines where that does not pay, or was not measured.
    `l1_ways` is the number of lines in a set of the first-level cache.
    `vector_letter` is by what inline assembly names a register that barriers between the steps of a
    product hold; "" where they hold none.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    has_fma: bool
    has_masks: bool = False
    has_half_conversion: bool = False
    has_lookup: bool = False
    has_byte_lookup: bool = False
    has_dot_int16: bool = False
    has_dot_int8: bool = False
    has_dot_bf16: bool = False
    has_tiles: bool = False
    l1_ways: int = 8
    l2_bytes: int = 1 << 20
    last_cache: int = 0
    vector_letter: str = ""
    tune: str = ""
    hints: tuple[str, ...] = ()

    def lanes(self, dtype: DType) -> int:
        """How many elements one vector register holds; f16 and bf16 are computed as f32."""
        return self.vector_bits // (max(32, dtype.bits) if dtype.is_float else dtype.bits)

    @property
    def l1_bytes(self) -> int:
        """Bytes of the first-level cache: in each way, the lines of one page."""
        return self.l1_ways * PAGE

    @property
    def description(self) -> str:
        """What the code depends on and the triple and the features do not say, for people."""
        tuned = f", scheduled for {self.tune}" if self.tune else ""
        last = f", {self.last_cache >> 20} MiB of the last one" if self.last_cache else ""
        return f"{self.name}{tuned}, {self.l2_bytes >> 10} KiB of second-level cache{last}"

    @property
    def feature_text(self) -> str:
        """The features as LLVM's target machines want them: "+avx2,+fma"."""
        return ",".join(f"+{feature}" for feature in (*self.features, *self.hints))
