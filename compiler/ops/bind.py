"""Dimensions that depend on data: the run body reads a vector and gives symbols its entries."""

from __future__ import annotations

from bessemer.compiler.ir.op import Operator, register
from bessemer.compiler.ir.types import Array, TensorType, i64
from bessemer.compiler.ops.check import require


def _infer(vector: TensorType, *, symbols: tuple[str, ...]) -> tuple[TensorType, ...]:
    """No outputs. An entry whose symbol is "" is skipped."""
    require(
        vector == TensorType(i64, (len(symbols),)),
        f"bind wants an i64 vector with one entry for each of {len(symbols)} symbols, but got "
        f"{vector}.",
    )
    return ()


def _reference(vector: Array, *, symbols: tuple[str, ...]) -> tuple[Array, ...]:
    return ()


register(Operator("bind", _infer, _reference, gradient=None))
