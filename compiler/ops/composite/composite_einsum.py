"""einsum: products and sums written with one letter an axis.

The operands are contracted two at a time from left to right, each pair as one matmul if they share
letters that are summed, else as a broadcast product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import (
    binary,
    broadcast_shape,
    broadcast_to,
    reshape,
    transpose,
)

Label = str
"""A letter, or "...k" for the k-th axis, counted from the last, that an ellipsis stands for."""

_COLUMNS = 16
"""Numbers in the widest vector: a product of fewer columns leaves lanes of it unused."""


@dataclass(frozen=True, eq=False)
class _Term:
    """A value with one label an axis, all different."""

    value: Value
    labels: tuple[Label, ...]


def einsum(b: GraphBuilder, equation: str, *values: Value) -> Value:
    """The sum of products that the equation says, with NumPy's rules for `...` and repetition."""
    inputs, output = _parse(equation, values)
    sizes = _sizes(values, inputs)
    terms = [_diagonal(b, value, labels) for value, labels in zip(values, inputs)]
    while len(terms) > 1:
        later = {label for term in terms[2:] for label in term.labels}
        first, second = _in_order(terms[0], terms[1], output, sizes)
        pair = _contract(b, first, second, later | set(output), sizes)
        terms = [pair, *terms[2:]]
    term = _summed(b, terms[0], set(output))
    result = transpose(b, term.value, [term.labels.index(label) for label in output])
    return broadcast_to(b, result, [sizes[label] for label in output])


def operand_labels(equation: str, values: Sequence[Value]) -> list[tuple[Label, ...]]:
    """One label for each axis of each operand; axes of one label have one size."""
    return _parse(equation, values)[0]


def _parse(
    equation: str, values: Sequence[Value]
) -> tuple[list[tuple[Label, ...]], tuple[Label, ...]]:
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(values):
        raise CompileError(
            f"einsum '{equation}' is about {len(parts)} tensors, but got {len(values)}."
        )
    inputs = [_labels(equation, part, value.type.rank) for part, value in zip(parts, values)]
    seen = [label for labels in inputs for label in labels]
    dots = sorted({label for label in seen if label.startswith("...")}, key=_place, reverse=True)
    if arrow:
        letters = _letters(equation, right)
        output = tuple(x for part in letters for x in (dots if part == "..." else [part]))
    else:
        once = sorted(x for x in set(seen) if seen.count(x) == 1 and not x.startswith("..."))
        output = (*dots, *once)
    if len(set(output)) != len(output) or not set(output) <= set(seen):
        raise CompileError(f"einsum '{equation}': the result's letters must be different ones, "
                           f"each of some operand.")  # fmt: skip
    return inputs, output


def _place(label: Label) -> int:
    return int(label[3:])


def _letters(equation: str, part: str) -> list[str]:
    before, dots, after = part.partition("...")
    if not all(letter.isalpha() for letter in before + after):
        raise CompileError(f"einsum '{equation}': '{part}' is not made of letters and '...'.")
    return [*before, *([dots] if dots else []), *after]


def _labels(equation: str, part: str, rank: int) -> tuple[Label, ...]:
    letters = _letters(equation, part)
    hidden = rank - (len(letters) - ("..." in letters))
    if hidden < 0 or (hidden > 0 and "..." not in letters):
        raise CompileError(f"einsum '{equation}': '{part}' does not fit a tensor of {rank} axes.")
    dots = [f"...{k}" for k in reversed(range(hidden))]
    return tuple(x for letter in letters for x in (dots if letter == "..." else [letter]))


def _sizes(values: Sequence[Value], inputs: Sequence[tuple[Label, ...]]) -> dict[Label, Size]:
    sizes: dict[Label, Size] = {}
    for value, labels in zip(values, inputs):
        for label, size in zip(labels, value.type.shape):
            (sizes[label],) = broadcast_shape((sizes.get(label, 1),), (size,))
    return sizes


def _diagonal(b: GraphBuilder, value: Value, labels: tuple[Label, ...]) -> _Term:
    """Reads, of axes with one label, the diagonal: one of these axes is left."""
    for axis, label in enumerate(labels):
        if label not in labels[:axis]:
            continue
        first, shape = labels.index(label), value.type.shape
        column = tuple(1 if other == axis else size for other, size in enumerate(shape))
        places = b.apply("iota", shape=column, axis=first, dtype=i64)
        found = b.apply("gather_elements", value, places, axis=axis)
        rest = reshape(b, found, (*shape[:axis], *shape[axis + 1 :]))
        return _diagonal(b, rest, (*labels[:axis], *labels[axis + 1 :]))
    return _Term(value, labels)


def _summed(b: GraphBuilder, term: _Term, needed: set[Label]) -> _Term:
    """The term without the labels that nobody needs any more."""
    axes = tuple(axis for axis, label in enumerate(term.labels) if label not in needed)
    if not axes:
        return term
    value = b.apply("reduce_sum", term.value, axes=axes)
    return _Term(value, tuple(label for label in term.labels if label in needed))


def _in_order(
    x: _Term, y: _Term, output: tuple[Label, ...], sizes: dict[Label, Size]
) -> tuple[_Term, _Term]:
    """Two operands such that the second has the product's columns.

    "oi,bi->bo" is a product of b's rows by o's columns, as the result is written, where b by itself
    would be too few columns, or an unknown number of them. A vector stays the second operand.
    """
    columns = product([sizes[label] for label in y.labels if label not in x.labels])
    is_narrow = not isinstance(columns, int) or 1 < columns < _COLUMNS
    is_first = bool(output) and output[-1] in x.labels and output[-1] not in y.labels
    return (y, x) if is_narrow and is_first else (x, y)


def _contract(
    b: GraphBuilder, x: _Term, y: _Term, needed: set[Label], sizes: dict[Label, Size]
) -> _Term:
    x = _summed(b, x, needed | set(y.labels))
    y = _summed(b, y, needed | set(x.labels))
    shared = [label for label in x.labels if label in y.labels]
    batch = [label for label in shared if label in needed]
    inner = [label for label in shared if label not in needed]
    rows = [label for label in x.labels if label not in shared]
    columns = [label for label in y.labels if label not in shared]
    if not inner:
        labels = (*batch, *rows, *columns)
        return _Term(binary(b, "mul", _aligned(b, x, labels), _aligned(b, y, labels)), labels)
    left = _matrix(b, x, batch, rows, inner, sizes)
    right = _matrix(b, y, batch, inner, columns, sizes)
    result = b.apply("matmul", left, right)
    shape = [*result.type.shape[:-2], *(sizes[label] for label in (*rows, *columns))]
    return _Term(reshape(b, result, shape), (*batch, *rows, *columns))


def _aligned(b: GraphBuilder, term: _Term, labels: Sequence[Label]) -> Value:
    """The term with these labels as axes, of size 1 where it has no such label."""
    order = [term.labels.index(label) for label in labels if label in term.labels]
    ordered = transpose(b, term.value, order)
    sizes = iter(ordered.type.shape)
    return reshape(b, ordered, [next(sizes) if label in term.labels else 1 for label in labels])


def _matrix(
    b: GraphBuilder, term: _Term, batch: list[Label], rows: list[Label], columns: list[Label],
    sizes: dict[Label, Size],
) -> Value:  # fmt: skip
    """The term as matrices: one axis for all rows, one for all columns, after the batch's axes."""
    ordered = _aligned(b, term, (*batch, *rows, *columns))
    front = ordered.type.shape[: len(batch)]
    # Inside a matrix nothing broadcasts: an axis of size 1 is repeated first.
    full = [sizes[label] for label in (*rows, *columns)]
    wide = broadcast_to(b, ordered, (*front, *full))
    height, width = product(full[: len(rows)]), product(full[len(rows) :])
    return reshape(b, wide, (*front, height, width))
