"""What the rules of lstm, gru, rnn and their gradients share: the attributes, and `statements`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import DType, f64
from bessemer.compiler.ops.recurrence.activations import Gate, gates
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell
from bessemer.compiler.ops.recurrence.recurrence_kernel import write_recurrence

_T = TypeVar("_T")

DEFAULTS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
"""The activations of each operator, and of its gradient, where the attributes name none."""


@dataclass(frozen=True)
class RecurrenceAttributes:
    """A node's attributes; the operator's `infer` says which it may have, and what they mean."""

    activations: tuple[str, ...]
    alphas: tuple[float, ...] = ()
    betas: tuple[float, ...] = ()
    reverse: bool = False
    clip: float = 0.0
    input_forget: bool = False
    linear_before_reset: bool = False
    has_lengths: bool = False
    has_peepholes: bool = False
    keeps_steps: bool = False
    has_totals: bool = False

    def gates(self, kept_as: DType = f64) -> tuple[Gate, ...]:
        """The activations; their results are kept in this type until their slopes are asked for."""
        return gates(self.activations, self.alphas, self.betas, self.clip, kept_as)

    def lengths(self, optional: Sequence[_T]) -> _T | None:
        """The sequences' lengths among the optional inputs."""
        return optional[0] if self.has_lengths else None


def attributes_of(default: tuple[str, ...], attributes: Mapping[str, Any]) -> RecurrenceAttributes:
    """The attributes, with an operator's default activations."""
    return RecurrenceAttributes(**{"activations": default, **attributes})


def statements_of(cell: Callable[..., Cell]) -> Callable[..., None]:
    """The `statements` rule of an operator whose kernels are written from these cells."""

    def statements(
        builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], **attributes: Any
    ) -> None:
        write_recurrence(builder, cell(builder, inputs, outputs, **attributes))

    return statements
