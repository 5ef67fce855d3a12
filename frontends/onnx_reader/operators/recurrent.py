"""LSTM, GRU and RNN: the input's products for all steps at once, then the recurrence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.compiler.ops.recurrence.activations import ACTIVATIONS
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.registry import rule

_DEFAULTS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_TAKES_ALPHA = ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
_TAKES_BETA = ("affine", "scaledtanh", "hardsigmoid")


@dataclass(frozen=True, eq=False)
class _Direction:
    """The parameters of one direction; x is [T, B, I]."""

    number: int
    reverse: bool
    x: Value
    activations: tuple[str, ...]
    alphas: tuple[float, ...]
    betas: tuple[float, ...]


@rule("LSTM", "GRU", "RNN")
def read_recurrent(context: NodeContext) -> list[Value]:
    return recurrent(context, context.node.op_type.lower(), _plain_products)


Products = Callable[[NodeContext, int, Value], tuple[Value, ...]]
"""For one direction: the input's products [T, B, gates * H], and the recurrent weights
[H, gates * H]; of i8 with a third value, their scales [gates * H]."""


def _plain_products(context: NodeContext, number: int, x: Value) -> tuple[Value, ...]:
    weight, across = _part(context, 1, number), _part(context, 2, number)
    if weight is None or across is None or weight.type.rank != 2 or across.type.rank != 2:
        context.wrong("the weights W and R are wanted as [directions, gates * hidden, ...]")
    gates_x = product(context, x, context.transpose(weight, (1, 0)))
    return gates_x, context.transpose(across, (1, 0))


def recurrent(context: NodeContext, kind: str, products: Products) -> list[Value]:
    """A whole layer; the inputs after the weights are those of LSTM, in its order."""
    x = context.input(0)
    batch_first = bool(context.integer("layout", 0))
    if x.type.rank != 3:
        context.wrong(f"the input is {x.type}, sequences [steps, batch, features] are wanted")
    if batch_first:
        x = context.transpose(x, (1, 0, 2))
    directions = _directions(context, kind, x)
    results = [_run(context, kind, direction, products) for direction in directions]
    stacked = [_stacked(context, list(parts)) for parts in zip(*results)]
    y, *states = stacked
    y = context.transpose(y, (1, 0, 2, 3))  # [directions, T, B, H] to [T, directions, B, H]
    if batch_first:
        y = context.transpose(y, (2, 0, 1, 3))
        states = [context.transpose(state, (1, 0, 2)) for state in states]
    return [y, *states]


def _stacked(context: NodeContext, parts: list[Value]) -> Value:
    """Along a new first axis."""
    with_axis = [context.reshape(part, (1, *part.type.shape)) for part in parts]
    return with_axis[0] if len(parts) == 1 else context.apply("concat", *with_axis, axis=0)


def _directions(context: NodeContext, kind: str, x: Value) -> list[_Direction]:
    word = context.text("direction", "forward")
    reverses = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(word)
    if reverses is None:
        context.wrong(f"the direction is {word!r}")
    count = len(_DEFAULTS[kind])
    names = [name.lower() for name in context.texts("activations", ())]
    names = names or list(_DEFAULTS[kind]) * len(reverses)
    names = names[: count * len(reverses)]  # RNN's default lists those of two directions
    if len(names) != count * len(reverses):
        context.wrong(f"{len(names)} activations for {len(reverses)} directions")
    unknown = [name for name in names if name not in ACTIVATIONS]
    if unknown:
        context.unsupported(f"activations = {', '.join(unknown)}")
    alphas = _parameters(context, "activation_alpha", names, _TAKES_ALPHA)
    betas = _parameters(context, "activation_beta", names, _TAKES_BETA)
    found = []
    for number, reverse in enumerate(reverses):
        mine = slice(number * count, (number + 1) * count)
        found.append(
            _Direction(
                number, reverse, x, tuple(names[mine]), tuple(alphas[mine]), tuple(betas[mine])
            )
        )
    return found


def _parameters(
    context: NodeContext, attribute: str, names: list[str], takers: tuple[str, ...]
) -> list[float]:
    """One number for each activation; the node gives them to those that take one, in order."""
    given = list(context.numbers(attribute, ()))
    if not given:
        defaults = "alpha" if attribute.endswith("alpha") else "beta"
        return [float(getattr(ACTIVATIONS[name], defaults)) for name in names]
    left = iter(given)
    return [next(left, 0.0) if name in takers else 0.0 for name in names]


def _run(
    context: NodeContext, kind: str, direction: _Direction, products: Products
) -> tuple[Value, ...]:
    """(y [T, B, H], h [B, H] [, c [B, H]]) of one direction."""
    b = context.builder
    count = _GATES[kind]
    gates_x, across, *scales = products(context, direction.number, direction.x)
    hidden = across.type.shape[0]
    linear = kind == "gru" and bool(context.integer("linear_before_reset", 0))
    bias, late = _biases(context, direction.number, count, hidden, linear, gates_x)
    if bias is not None:
        gates_x = binary(b, "add", gates_x, bias)
    batch = direction.x.type.shape[1]
    states = [_state(context, 5, direction.number, gates_x, (batch, hidden))]
    if kind == "lstm":
        states.append(_state(context, 6, direction.number, gates_x, (batch, hidden)))
    optional: list[Value] = []
    attributes: dict[str, Any] = {
        "activations": direction.activations,
        "alphas": direction.alphas,
        "betas": direction.betas,
        "reverse": direction.reverse,
        "clip": context.number("clip", 0.0),
    }
    if scales:
        attributes["input_forget"] = bool(context.integer("input_forget", 0))
        return b.apply_many(f"byte_{kind}", gates_x, across, *scales, *states, **attributes)
    lengths = context.optional(4)
    attributes["has_lengths"] = lengths is not None
    if lengths is not None:
        optional.append(with_size(b, lengths, 0, batch))
    if kind == "lstm":
        peepholes = _part(context, 7, direction.number)
        attributes["has_peepholes"] = peepholes is not None
        attributes["input_forget"] = bool(context.integer("input_forget", 0))
        if peepholes is not None:
            optional.append(peepholes)
    if kind == "gru":
        attributes["linear_before_reset"] = linear
        if linear:
            optional.append(late if late is not None else _zeros(context, gates_x, (hidden,)))
    return b.apply_many(kind, gates_x, across, *states, *optional, **attributes)


def _part(context: NodeContext, position: int, number: int) -> Value | None:
    """One direction's share of an input whose first axis is the directions."""
    value = context.optional(position)
    if value is None:
        return None
    one = slice_axis(context.builder, value, 0, number, 1)
    return context.reshape(one, value.type.shape[1:])


def _biases(
    context: NodeContext, number: int, count: int, hidden: Size, linear: bool, gates: Value
) -> tuple[Value | None, Value | None]:
    """The bias to add to the input's products, and the one that GRU may add after the reset."""
    both = _part(context, 3, number)
    if both is None:
        return None, None
    width = hidden * count
    own = slice_axis(context.builder, both, 0, 0, width)
    other = slice_axis(context.builder, both, 0, width, width)
    if not linear:
        return context.apply("add", own, other), None
    early = slice_axis(context.builder, other, 0, 0, hidden * 2)
    late = slice_axis(context.builder, other, 0, hidden * 2, hidden)
    padded = context.apply("concat", early, _zeros(context, gates, (hidden,)), axis=0)
    return context.apply("add", own, padded), late


def _zeros(context: NodeContext, like: Value, shape: tuple[Size, ...]) -> Value:
    return context.full(like.type.with_shape(shape), 0.0)


def _state(
    context: NodeContext, position: int, number: int, like: Value, shape: tuple[Size, ...]
) -> Value:
    """A direction's initial state [B, H]; zeros where the model gives none."""
    value = context.optional(position)
    if value is None:
        return _zeros(context, like, shape)
    if context.integer("layout", 0):
        value = context.transpose(value, (1, 0, 2))
    one = slice_axis(context.builder, value, 0, number, 1)
    return context.reshape(one, shape)
