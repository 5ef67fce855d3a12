"""What the compiler knows of a machine: all that schedules and code generation ask about it."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir.types import DType


@dataclass(frozen=True)
class Target:
    """A machine as data.

    `cpu` is LLVM's name of an instruction set level; `features` are all optional instruction sets
    that code may use, by LLVM's names: an artifact checks them before it runs. `tune` is LLVM's
    name of the processor to schedule instructions for, if known.
    `has_masks`: any vector load or store can be limited to some lanes at no cost.
    `has_half_conversion`: f16 converts from and to f32 by instructions.
    `has_fast_gather`: one instruction loads lanes from different addresses.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    has_fma: bool
    has_masks: bool = False
    has_fast_gather: bool = False
    has_half_conversion: bool = False
    l2_bytes: int = 1 << 20
    tune: str = ""

    def lanes(self, dtype: DType) -> int:
        """How many elements one vector register holds; f16 and bf16 are computed as f32."""
        return self.vector_bits // (max(32, dtype.bits) if dtype.is_float else dtype.bits)

    @property
    def feature_text(self) -> str:
        """The features as LLVM's target machines want them: "+avx2,+fma"."""
        return ",".join(f"+{feature}" for feature in self.features)
