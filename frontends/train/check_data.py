"""Checks data before training starts: an error names the array and the row that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.frontends.train.batches import Batches
from bessemer.frontends.train.history import History

Limits = Mapping[str, tuple[int, int]]
"""For integer inputs by name: the least, and the number behind the greatest."""


def check_batches(inputs: Sequence[Value], rows: int, size: int) -> None:
    """Raises CompileError where the inputs' first axis is a number and batches do not have it."""
    for value in inputs:
        first = value.type.shape[0]
        if isinstance(first, int) and (first != size or rows % size):
            raise CompileError(
                f"{value.name} is {value.type}, batches of {first} rows, but {rows} rows come in "
                f"batches of {size}. Give the first axis a name in place of a number, such as "
                f'"batch", or choose batches and data that fit.'
            )


def check_place(history: History, batches: Batches) -> None:
    """Raises CompileError where training cannot go on in the middle of an epoch: what is left of it
    is only known for batches of the same size of the same data."""
    sizes = [count for count, _ in history.rows]
    left = [batches.rows - place * batches.size for place in range(history.place)]
    if sizes != [min(batches.size, rows) for rows in left]:
        raise CompileError(
            f"Training was left after {history.place} batches of {sizes[0]} rows of an epoch, "
            f"which cannot go on with {batches.rows} rows in batches of {batches.size}. Go on with "
            f"the same data and batch, at least up to the end of the epoch."
        )


def check_batch(batch: Mapping[str, Array], names: Sequence[str], limits: Limits) -> None:
    """Raises CompileError for a batch that lacks arrays, has no rows, or integers outside."""
    if missing := [name for name in names if name not in batch]:
        raise CompileError(
            f"The data has no {', '.join(missing)}; it must have {', '.join(names)}."
        )
    if empty := [name for name in names if np.ndim(batch[name]) and not len(batch[name])]:
        raise CompileError(f"The batch's {empty[0]} has no rows.")
    check_limits(batch, limits)


def check_limits(data: Mapping[str, Array], limits: Limits) -> None:
    """Raises CompileError where integers are outside."""
    for name, (low, high) in limits.items():
        array = np.asarray(data[name])
        if array.dtype.kind in "iu" and array.ndim and array.size:
            _check_limits(name, array, low, high)


def check_data(data: Mapping[str, Array], inputs: Sequence[Value], limits: Limits) -> None:
    """Raises CompileError where the data has not what these inputs want: arrays of their types,
    shapes and numbers of rows, floats without NaN, labels within limits."""
    check_arrays(data, inputs)
    names = [value.name for value in inputs]
    for name in names:
        if data[name].dtype.kind == "f":
            _check_numbers(name, data[name])
    check_limits(data, {name: limit for name, limit in limits.items() if name in names})


def check_arrays(data: Mapping[str, Array], inputs: Sequence[Value]) -> None:
    """Raises CompileError where the data has not arrays of these inputs' types and shapes, with the
    same number of rows."""
    names = [value.name for value in inputs]
    check_names(data, names)
    for value in inputs:
        _check_type(value, data[value.name])
    counts = {name: len(data[name]) for name in names}
    if len(set(counts.values())) != 1:
        raise CompileError(f"The data's arrays have different numbers of rows: {counts}.")


def check_names(data: object, names: Sequence[str]) -> None:
    """Raises CompileError for what is not a mapping that has these names."""
    if not isinstance(data, Mapping):
        raise CompileError(
            f"The data is a {type(data).__name__}; it must be a mapping from names to arrays, "
            f"with {', '.join(names)}."
        )
    if missing := [name for name in names if name not in data]:
        raise CompileError(
            f"The data has no {', '.join(missing)}; it must have {', '.join(names)}."
        )


def _check_type(value: Value, array: object) -> None:
    name, type = value.name, value.type
    if not isinstance(array, np.ndarray) or not array.ndim:
        raise CompileError(
            f"The data's {name} is a {array.__class__.__name__}; it must be an array with a row "
            f"for each sample."
        )
    wanted, sizes = type.dtype.numpy, type.shape[1:]
    same = array.ndim == type.rank and all(
        not isinstance(size, int) or size == actual for size, actual in zip(sizes, array.shape[1:])
    )
    if array.dtype != wanted or not same:
        found = f"{array.dtype}{list(array.shape)}"
        is_number = array.dtype.kind in "fiub"
        hint = f" Convert it with .astype('{wanted}')." if same and is_number else ""
        raise CompileError(f"The data's {name} is {found}; it must be {type}.{hint}")


def _check_limits(name: str, array: Array, low: int, high: int) -> None:
    if low <= array.min() and array.max() < high:
        return
    bad = _rows((array < low) | (array >= high))
    worst = array[bad[0]].reshape(-1)
    worst = worst[(worst < low) | (worst >= high)][0]
    raise CompileError(
        f"The data's {name} must lie between {low} and {high - 1}, but row {bad[0]} has "
        f"{worst} ({len(bad)} of {len(array)} rows are outside)."
    )


def _check_numbers(name: str, array: Array) -> None:
    bad = _rows(np.isnan(array))
    if len(bad):
        raise CompileError(
            f"The data's {name} has NaN in {len(bad)} of {len(array)} rows, row {bad[0]} first. "
            f"Leave them out, or put a number there."
        )


def _rows(wrong: Array) -> Array:
    """Which rows have something that is true."""
    return np.flatnonzero(wrong.any(axis=tuple(range(1, wrong.ndim))))
