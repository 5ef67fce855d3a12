"""Sizes that a model needs to be equal although it does not say so.

`batch` of one input and `unk__12` of another meet in an addition: then they are one dimension, and
the model is read again with one name (broadcast_inputs.py says what becomes of an axis of 1). A
mask's length meets that of what a decoder has kept and the new rows together: then the length is
that sum wherever it stands. Two sizes computed differently meet, H and 2 * (H // 2): then the model
runs only where they are equal, which the compiled code checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import (
    Dim,
    Size,
    Symbol,
    as_atom,
    format_size,
    rename,
    symbol,
    symbol_names,
)
from bessemer.compiler.ir.graph import Value, axes_of_symbols

_BETWEEN = "__or__"
"""Between the dimensions in a joint size's name: these have no two underscores in a row."""


class SizesMustAgree(Exception):
    """The input dimension `name` is `size`; the model must be read again with that knowledge.

    `by_broadcast`: it may also be 1, and `size` is then the larger one; or the other way round.
    """

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(f"{name} is {size}")
        self.name = name
        self.size = size
        self.by_broadcast = False


class MustChooseError(Exception):
    """The ranks of what the node `label` gives depend on a truth that only a run knows.

    The model must be read again with that truth taken for granted, `first` at first.
    """

    def __init__(self, label: str, first: bool) -> None:
        super().__init__(label)
        self.label = label
        self.first = first


def agreed_size(builder: GraphBuilder, left: Size, right: Size) -> Size:
    """One size for two that must be equal; the simpler one.

    Raises CompileError if they cannot be equal, SizesMustAgree if the model must be read again.
    """
    if left == right:
        return left
    if isinstance(left, int) and isinstance(right, int):
        raise CompileError(f"two sizes must be equal, but they are {left} and {right}")
    # A region may not run at all: what it needs must not decide for the whole model.
    inputs = set(builder.symbols) if builder.parent is None else set()
    for one, other in ((right, left), (left, right), *_without_common(left, right)):
        name = _plain_symbol(one)
        if name in inputs and symbol_names(other) <= inputs - {name}:
            raise SizesMustAgree(name, other)
    if isinstance(left - right, int):
        raise CompileError(f"two sizes must be equal, but they are {left} and {right}")
    equation = f"{format_size(left)} = {format_size(right)}"
    require_nonnegative(builder, (left - right, right - left), equation)
    return min(left, right, key=lambda size: (isinstance(size, Dim), len(str(size)), str(size)))


def _without_common(left: Size, right: Size) -> list[tuple[Size, Size]]:
    """The two sizes without what both add up, where one of each is left; in both orders."""
    terms = {} if isinstance(difference := left - right, int) else difference.terms
    if sorted(terms.values()) != [-1, 1] or () in terms:
        return []
    one, other = (Dim({monomial: 1}) for monomial in terms)
    return [(other, one), (one, other)]


_SAMPLES = (2, 3, 5, 17)


def differ_as_a_rule(left: Size, right: Size) -> bool:
    """Whether two sizes are equal for nothing at all only, as n and 2 * n are, or are different
    functions of the same symbols, as n and (n + 1) // 2 are, for any usual numbers."""
    difference = left - right
    if isinstance(difference, int):
        return difference != 0
    atoms = [atom for monomial in difference.terms for atom, _ in monomial]
    signs = {coefficient > 0 for coefficient in difference.terms.values()}
    if len(signs) == 1 and all(isinstance(atom, Symbol) for atom in atoms):
        return True
    names = sorted(symbol_names(left))
    if not names or set(names) != symbol_names(right):
        return False
    trials = ({name: count + k for k, name in enumerate(names)} for count in _SAMPLES)
    found = [rename(difference, trial) for trial in trials]
    return all(isinstance(size, int) and size != 0 for size in found)


def _plain_symbol(size: Size) -> str:
    leaf = as_atom(size)
    return leaf.name if isinstance(leaf, Symbol) else ""


def require_nonnegative(builder: GraphBuilder, sizes: Sequence[Size], reason: str = "") -> None:
    """Makes the compiled code fail where one of the sizes is negative; `reason` says what for."""
    sizes = [size for size in sizes if not dims.is_nonnegative(size)]
    if not sizes:
        return
    names = tuple(builder.fresh_symbol("check") for _ in sizes)
    vector = builder.sizes(sizes)
    node = builder.producer(vector)
    source = node.sources[0] if node is not None and node.sources else builder.name
    reason = reason or " and ".join(f"{format_size(size)} >= 0" for size in sizes)
    where = ", ".join(_places(builder, set().union(*map(symbol_names, sizes))))
    with builder.source(f"{source} (which needs {reason}{where and f', where {where}'})"):
        builder.apply_many("bind", vector, symbols=names)


def _places(builder: GraphBuilder, names: Set[str]) -> list[str]:
    """Of which inputs these are the sizes, for a message: "seq is axis 1 of 'tokens'"."""
    while builder.parent is not None:
        builder = builder.parent
    found = axes_of_symbols(builder.inputs, names)
    return [f"{name} is {place}" for name, place in found.items()]


def require_elements(builder: GraphBuilder, there: Sequence[Size], wanted: Sequence[Size]) -> None:
    """Makes the compiled code fail where an axis that has no elements is to be one that has some:
    what would be repeated or mixed, there is nothing of."""
    pairs = [
        (size, result)
        for size, result in zip(there, wanted, strict=True)
        if not dims.is_nonnegative(size - 1) and not _are_empty_together(size, result)
    ]
    sizes = [size - dims.minimum(result, 1) for size, result in pairs]
    require_nonnegative(builder, sizes, "an axis that is not empty")


def _are_empty_together(size: Size, result: Size) -> bool:
    """Whether the second size is certain to be 0 where the first one is, as twice its size is."""
    return size == result or rename(result, {_plain_symbol(size): 0}) == 0


def broadcast_shape(builder: GraphBuilder, shapes: Sequence[tuple[Size, ...]]) -> tuple[Size, ...]:
    """The common shape of tensors that broadcast together, by NumPy's rules."""
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(_broadcast_size(builder, sizes) for sizes in zip(*padded, strict=True))


def _broadcast_size(builder: GraphBuilder, sizes: Sequence[Size]) -> Size:
    result: Size = 1
    for size in sizes:
        if result == 1:
            result = size
        elif size != 1:
            result = broadcast_size(builder, result, size)
    return result


def broadcast_size(builder: GraphBuilder, left: Size, right: Size) -> Size:
    """The size to which two broadcast that are not known to be 1."""
    if isinstance(left, int) and isinstance(right, int) and left != right:
        raise CompileError(
            f"sizes {left} and {right} do not broadcast: they must be equal, or one of them 1"
        )
    common = builder.alike.get(left)
    if common is not None and common == builder.alike.get(right):
        size = joint_size([*joint_names(left), *joint_names(right)])
        builder.alike[size] = common
        return size
    try:
        return agreed_size(builder, left, right)
    except SizesMustAgree as found:
        found.by_broadcast = _plain_symbol(left) != "" and _plain_symbol(right) != ""
        raise


def joint_size(names: Iterable[str]) -> Size:
    """A symbol for the size to which dimensions broadcast; of one dimension its own."""
    return symbol(_BETWEEN.join(sorted(set(names))))


def joint_names(size: Size) -> list[str]:
    """The dimensions of which a symbol is the joint size."""
    return _plain_symbol(size).split(_BETWEEN)


def broadcast_together(builder: GraphBuilder, values: Sequence[Value]) -> list[Value]:
    """The values as views of one shape."""
    shape = broadcast_shape(builder, [value.type.shape for value in values])
    return [broadcast_value(builder, value, shape) for value in values]


def broadcast_value(builder: GraphBuilder, value: Value, shape: tuple[Size, ...]) -> Value:
    """The value as a view of a shape that `broadcast_shape` said it broadcasts to."""
    value = with_sizes_of(builder, value, shape)
    if value.type.shape == shape:
        return value
    return builder.apply("broadcast_to", value, shape=shape)


def with_sizes_of(builder: GraphBuilder, value: Value, shape: Sequence[Size]) -> Value:
    """The value with the last sizes of a shape that it broadcasts to; its sizes of 1 stay."""
    tail = shape[len(shape) - value.type.rank :]
    wanted = tuple(1 if own == 1 else size for own, size in zip(value.type.shape, tail))
    return with_shape(builder, value, wanted)


def with_size(
    builder: GraphBuilder, value: Value, axis: int, size: Size, reason: str = ""
) -> Value:
    """The value, whose size along an axis must be another size, such as that of its weights.

    `reason` says for the error what that other size is: "the weight's axis 0".
    """
    axis %= value.type.rank
    shape = value.type.shape
    own = shape[axis]
    if isinstance(own, int) and isinstance(size, int) and own != size:
        why = f", {reason}" if reason else ""
        raise CompileError(f"axis {axis} of {value.type} must be {size}{why}, but it is {own}")
    agreed = agreed_size(builder, shape[axis], size)
    return with_shape(builder, value, (*shape[:axis], agreed, *shape[axis + 1 :]))


def with_trailing_sizes(builder: GraphBuilder, value: Value, shape: Sequence[Size]) -> Value:
    """The value, whose last axes are scaled by a tensor of this shape."""
    sizes = broadcast_shape(builder, [value.type.shape, tuple(shape)])
    return with_sizes_of(builder, value, sizes)


def with_shape(builder: GraphBuilder, value: Value, shape: tuple[Size, ...]) -> Value:
    """The value under another shape of as many elements; itself where that is its shape.

    What is itself only a view keeps its axes: to take it apart by sizes that are merely as large,
    such as min(length, 128) for a length, would cost a division for every element.
    """
    if value.type.shape == shape:
        return value
    node, rank = builder.producer(value), len(shape)
    if node is not None and node.operator.is_view and value.type.rank == rank:
        return builder.apply("slice", value, starts=(0,) * rank, shape=shape, steps=(1,) * rank)
    return builder.apply("reshape", value, shape=shape)
