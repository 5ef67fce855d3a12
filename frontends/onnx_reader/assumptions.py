"""What a reading of a model takes for granted of the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bessemer.compiler.ir.dims import Size


@dataclass(frozen=True)
class Assumptions:
    """By the inputs' dimensions, under our names (see signature.py).

    `merged`: those that are another size, found while reading (see equal_sizes.py). `alike`: those
    that may be 1, and the size to which they then broadcast. `broadcasting`: those of the merged
    that an input's own shape keeps, because the input may be 1 along them (see
    broadcast_inputs.py). `common`: symbols that are no input's, and the dimensions that broadcast
    to them.
    """

    merged: Mapping[str, Size] = field(default_factory=dict)
    alike: Mapping[Size, Size] = field(default_factory=dict)
    broadcasting: frozenset[str] = frozenset()
    common: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
