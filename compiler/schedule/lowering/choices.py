"""Choices that affect only speed. The cost model makes them, unless a tuning has measured them.

Every choice is recorded with a signature, which contains everything that its speed depends on
except the machine. `bessemer tune` measures a choice once for all nodes with the same signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.program import Decision
from bessemer.compiler.options import Choice, Tuning
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.machine_model import promising_shapes
from bessemer.compiler.schedule.contraction.tiles import Tiling, plan
from bessemer.compiler.schedule.convolution.depthwise_plan import (
    Depthwise,
    TileSize,
    plan_depthwise,
    possible_tiles,
)
from bessemer.compiler.targets.machine import Target

_MOST_OTHERS = 8
"""What a tuner may try for a kernel: each is a compilation of the kernel and a measurement."""
_LIMITS = {
    "vectors": (1, 4),
    "height": (1, 32),
    "block": (1, 1 << 30),
    "unroll": (1, 16),
    "prefetch": (0, 1),
    "winograd": (0, 1),
    "tiles": (0, 1),
    "rows": (1, 8),
    "columns": (1, 16),
    "tile_rows": (1, 1024),
    "tile_columns": (1, 1024),
    "split": (1, 64),
    "level": (0, 2),
    "threads": (1, 1024),
    "group": (1, 1024),
    "keys": (16, 256),
}


@dataclass(eq=False)
class Choices:
    """The tuning that is in use, and the decisions made so far."""

    tuning: Tuning = field(default_factory=Tuning)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def is_tuned(self) -> bool:
        """Whether there is a tuning, or the tuner is looking for one."""
        return self.tuning.explore or bool(self.tuning.choices)

    def tiling(self, node: Node, work: Contraction, target: Target, constant: bool) -> Tiling:
        """A contraction's tiles. `constant`: its right operand is packed at compile time."""
        signature = _of_contraction(work, constant)
        wanted = self._wanted(signature)
        model = plan(work, target)
        shape = _shape(wanted, model)
        chosen = model if shape == _shape({}, model) else plan(work, target, shape=shape)
        if work.dtype.is_float and chosen.depth_block != model.depth_block:
            # Where the model cuts sums into depth blocks, a tuning may not undo that: longer chains
            # of additions have larger rounding errors.
            chosen = replace(chosen, depth_block=chosen.depth_block or model.depth_block)
        chosen = replace(
            chosen,
            block=wanted.get("block", chosen.block),
            unroll=wanted.get("unroll", chosen.unroll),
            prefetch=bool(wanted.get("prefetch", chosen.prefetch)),
        )
        others: list[Choice] = []
        if self.tuning.explore:
            shapes = promising_shapes(work, target)
            others = [{"height": h, "vectors": v} for h, v in shapes if (h, v) != shape]
        made = {
            "height": shape[0],
            "vectors": shape[1],
            "block": chosen.block,
            "unroll": chosen.unroll,
            "prefetch": int(chosen.prefetch),
        }
        self._decide(node, signature, made, others[:_MOST_OTHERS])
        return chosen

    def winograd(self, node: Node, sizes: Sequence[Size], pays: bool, possible: bool) -> bool:
        """Whether a convolution is computed by Winograd's method. `pays` is what the model says."""
        if not possible:
            return False
        kernel = "x".join(map(str, node.inputs[1].type.shape))
        signature = f"winograd {kernel} on {'x'.join(map(str, sizes))}"
        chosen = bool(self._wanted(signature).get("winograd", pays))
        self._decide(node, signature, {"winograd": int(chosen)}, [{"winograd": int(not chosen)}])
        return chosen

    def tiles(self, node: Node, work: Contraction, constant: bool, pays: bool) -> bool:
        """Whether a contraction is computed by the matrix unit. `pays` is what the model says."""
        signature = f"matrix unit {_of_contraction(work, constant)}"
        chosen = bool(self._wanted(signature).get("tiles", pays))
        self._decide(node, signature, {"tiles": int(chosen)}, [{"tiles": int(not chosen)}])
        return chosen

    def depthwise(self, node: Node, work: Depthwise, target: Target) -> TileSize:
        """A depthwise convolution's tiles."""
        sizes = "x".join(map(str, (*work.outputs, work.channels)))
        taps = "x".join(map(str, work.weights.shape[:-1]))
        steps = "x".join(map(str, (*work.strides, *work.dilations)))
        signature = f"depthwise {taps} on {sizes} steps {steps}"
        wanted = self._wanted(signature)
        model = plan_depthwise(work, target)
        rows, columns = wanted.get("rows", model.rows), wanted.get("columns", model.columns)
        chosen = replace(model, rows=rows, columns=columns)
        possible = list(possible_tiles(work, target))
        if chosen not in possible:
            chosen = model  # wanted by a tuner of other kernels
        others = [
            {"rows": tile.rows, "columns": tile.columns}
            for tile in possible
            if abs(tile.rows - model.rows) + abs(tile.columns - model.columns) in (1, 2)
        ]
        made = {"rows": chosen.rows, "columns": chosen.columns}
        self._decide(node, signature, made, others[: 2 * _MOST_OTHERS])
        return chosen

    def one_of(self, node: Node, signature: str, options: Sequence[Choice]) -> int:
        """The position of the option that the tuning asks for. Without one it is the first, which
        is the model's."""
        wanted = self._wanted(signature)
        fitting = (
            position
            for position, option in enumerate(options)
            if wanted and all(option.get(name) == number for name, number in wanted.items())
        )
        chosen = next(fitting, 0)
        others = [option for position, option in enumerate(options) if position != chosen]
        self._decide(node, signature, options[chosen], others)
        return chosen

    def _wanted(self, signature: str) -> Choice:
        found = self.tuning.choices.get(signature, {})
        check_choice(signature, found)
        return found

    def _decide(self, node: Node, signature: str, choice: Choice, others: Sequence[Choice]) -> None:
        kept = tuple(others) if self.tuning.explore else ()
        self.decisions.append(Decision(node, signature, choice, kept))


def check_choice(signature: str, choice: Mapping[str, int]) -> None:
    """Raises CompileError for names and numbers that no tuner can have written."""
    for name, number in choice.items():
        low, high = _LIMITS.get(name, (1, 0))
        if type(number) is not int or not low <= number <= high:
            raise CompileError(f"The tuning of {signature!r} says {name}={number!r}.")


def _shape(wanted: Choice, model: Tiling) -> tuple[int, int]:
    """The (rows, vectors) of a tile: what the tuning asks for, else the model's."""
    return (
        wanted.get("height", model.height),
        wanted.get("vectors", model.panel // model.lanes),
    )


def _of_contraction(work: Contraction, constant: bool) -> str:
    """The part of a signature that describes a contraction."""
    rows = " ".join(f"{axis.extent}:{axis.a_stride}:{axis.b_stride}" for axis in work.rows)
    depth = " ".join(f"{axis.extent}:{axis.a_stride}" for axis in work.depth)
    types = f"{work.dtype}={work.a.dtype}*{work.b.dtype}"
    return (
        f"contraction {types} rows {rows} depth {depth} columns {work.columns} "
        f"{'constant' if constant else 'computed'}"
    )
