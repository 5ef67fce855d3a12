"""Recurrent layers over [batch, time, features], in several layers and both directions.

Gates are in ONNX's order (LSTM: input, output, forget, cell; GRU: update, reset, new). The input's
share of all gates and steps is one product; the steps themselves are one operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.functions import concat, full
from bessemer.frontends.builder.initializers import (
    ONES,
    ZEROS,
    Initializer,
    Orthogonal,
    Parts,
    Xavier,
)
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.layers_dense import dropped
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.settings import require_counts, require_share

States = tuple[tuple[Tensor, ...], ...]
"""For each layer, and each direction in it, the states at the end: (h,), or (h, c) of an LSTM."""


@dataclass(frozen=True, eq=False, repr=False)
class Recurrent(Layer):
    """What RNN, LSTM and GRU share.

    `outputs`: "sequence" gives h of all steps [batch, time, directions · hidden]; "last" the last
    layer's h at the end [batch, directions · hidden]. Parameters of layer k: input_k.weight
    [features, gates · hidden], recurrent_k.weight [hidden, gates · hidden], bias_k; those of the
    way back end in _back. While training, the share `dropout` of what each layer but the last gives
    is set to zero.
    """

    hidden: int
    layers: int = 1
    bidirectional: bool = False
    outputs: Literal["sequence", "last"] = "sequence"
    dropout: float = field(default=0.0, kw_only=True)

    operator: ClassVar[str]
    gates: ClassVar[int]
    states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_counts(self, 1, "hidden", "layers")
        require_share(self, "dropout", below_one=True)

    def forward(
        self, x: Tensor, states: States | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """`lengths`: how many steps of each sequence count, integers [batch]; all if missing."""
        sequence, ends = self._run(x, states, lengths)
        if self.outputs == "sequence":
            return sequence
        directions = 2 if self.bidirectional else 1
        return concat([end[0] for end in ends[-directions:]], axis=-1)

    def run(
        self, x: Tensor, states: States | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, States]:
        """h of all steps, and the states at the end, from which the next call can go on."""
        return self.within((x,), lambda: self._run(x, states, lengths))

    def _run(
        self, x: Tensor, states: States | None, lengths: Tensor | None
    ) -> tuple[Tensor, States]:
        if x.rank != 3:
            raise CompileError(f"the input is {x.type}; it must be [batch, time, features].")
        directions = ("", "_back") if self.bidirectional else ("",)
        if states is not None and len(states) != self.layers * len(directions):
            raise CompileError(f"{len(states)} states for {self.layers * len(directions)} cells.")
        steps = x.transpose(1, 0, 2)
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(self.layers):
            if layer:
                steps = dropped(steps, self.dropout)
            outputs: list[Tensor] = []
            for direction in directions:
                start = self._start(steps) if states is None else states[len(ends)]
                sequence, *end = self._cell(steps, f"{layer}{direction}", start, lengths)
                outputs.append(sequence)
                ends.append(tuple(end))
            steps = concat(outputs, axis=-1)
        return steps.transpose(1, 0, 2), tuple(ends)

    def _start(self, steps: Tensor) -> tuple[Tensor, ...]:
        zeros = full(steps, (steps.shape[1], self.hidden), 0.0, steps.dtype)
        return (zeros,) * self.states

    def _cell(
        self, steps: Tensor, suffix: str, start: Sequence[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, ...]:
        """One layer in one direction: h of all steps [time, batch, hidden], and the last states."""
        width = self.gates * self.hidden
        inputs = steps.parameter(
            f"input_{suffix}.weight", (steps.shape[-1], width), self._each_gate(Xavier())
        )
        recurrent = steps.parameter(
            f"recurrent_{suffix}.weight", (self.hidden, width), self._each_gate(Orthogonal())
        )
        bias = steps.parameter(f"bias_{suffix}", (width,), self._bias())
        operands = [steps @ inputs + bias, recurrent, *start]
        if lengths is not None:
            operands.append(lengths)
        operands.extend(self._last_operands(steps, suffix))
        results = steps.builder.apply_many(
            self.operator,
            *(operand.value for operand in operands),
            reverse=suffix.endswith("_back"),
            has_lengths=lengths is not None,
            **self._settings(),
        )
        return tuple(steps.with_value(result) for result in results)

    def _each_gate(self, initializer: Initializer) -> Initializer:
        return Parts((initializer,) * self.gates)

    def _bias(self) -> Initializer:
        return ZEROS

    def _last_operands(self, steps: Tensor, suffix: str) -> list[Tensor]:
        return []

    def _settings(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, eq=False, repr=False)
class RNN(Recurrent):
    """h = tanh(x @ input + h @ recurrent + bias), or with relu."""

    activation: Literal["tanh", "relu"] = field(default="tanh", kw_only=True)

    operator: ClassVar[str] = "rnn"
    gates: ClassVar[int] = 1

    def _settings(self) -> dict[str, Any]:
        return {"activations": (self.activation,)}


@dataclass(frozen=True, eq=False, repr=False)
class LSTM(Recurrent):
    """Long short-term memory; the forget gates begin open (their biases are 1)."""

    operator: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def _bias(self) -> Initializer:
        return Parts((ZEROS, ZEROS, ONES, ZEROS))


@dataclass(frozen=True, eq=False, repr=False)
class GRU(Recurrent):
    """Gated recurrent unit; the reset gate acts after the product, which has its own bias."""

    operator: ClassVar[str] = "gru"
    gates: ClassVar[int] = 3

    def _last_operands(self, steps: Tensor, suffix: str) -> list[Tensor]:
        return [steps.parameter(f"bias_new_{suffix}", (self.hidden,), ZEROS)]

    def _settings(self) -> dict[str, Any]:
        return {"linear_before_reset": True}
