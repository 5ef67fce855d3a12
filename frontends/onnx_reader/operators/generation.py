"""What the searches of com.microsoft have in common: decoders that are called token by token.

A search is written in ONNX's own text form and becomes a Loop whose body is the decoder and a step
of the search, so that loops, caches that grow and all else are read as in any other model. Only
what all operator sets since 12 have alike is used. What a search means is what onnxruntime does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper, parser

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import TensorType
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.tensors import DTYPE_OF

MASKS = ("vocab_mask", "prefix_vocab_mask")
"""Inputs that say which tokens there may be at all, and first."""

_CONSTANTS = """
    none = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    last_place = Constant <value = int64[1] {-1}> ()
    scalar = Constant <value = int64[0] {}> ()
    zero = Constant <value = int64 {0}> ()
    unit = Constant <value = int64 {1}> ()
    lowest = Constant <value = float[1] {-3.4028234663852886e38}> ()
    eos = Constant <value = int64[1] {EOS}> ()
    pad = Constant <value = int32[1] {PAD}> ()
"""


@dataclass(frozen=True)
class Decoder:
    """A graph that is given tokens and caches, and gives logits [rows, tokens, vocabulary] and the
    caches with the tokens in them.

    The inputs from `first` on are the caches, `count` of them, each with its rows along `axis`.
    """

    graph: onnx.GraphProto
    first: int
    count: int
    axis: int

    @property
    def caches(self) -> list[str]:
        """What a search calls the caches."""
        return [f"cache{place}" for place in range(self.count)]

    def empty_caches(self, context: NodeContext, rows: Size) -> list[Item]:
        """Caches of no tokens."""
        caches = self.graph.input[self.first : self.first + self.count]
        return [self._empty_cache(context, value, rows) for value in caches]

    def _empty_cache(self, context: NodeContext, value: onnx.ValueInfoProto, rows: Size) -> Item:
        tensor = value.type.tensor_type
        shape: list[Size] = [entry.dim_value for entry in tensor.shape.dim]
        if len(shape) != self.axis + 4 or not (shape[self.axis + 1] and shape[-1]):
            context.unsupported(f"a decoder whose input '{value.name}' declares no heads")
        shape[self.axis], shape[-2] = rows, 0
        return context.full(TensorType(DTYPE_OF[tensor.elem_type], tuple(shape)), 0)


@dataclass(frozen=True)
class Started:
    """A decoder that has seen what it begins with: `sequences`, i32[batch, tokens].

    `state` is what it has to be given with the next token, which changes, and `around` what does
    not change; `feeds` are the names of its inputs in their order, the tokens' is "tokens". `next`
    are steps that make `NAME_then` of the state's entries, but of the caches.
    """

    decoder: Decoder
    sequences: Item
    logits: Item
    state: Mapping[str, Item]
    around: Mapping[str, Item]
    feeds: Sequence[str]
    next: str


def own(name: str) -> str:
    """A name of the search, which no name of a decoder is."""
    return f"search/{name}" if name else ""


def controls(context: NodeContext, numbers: Sequence[str], masks: Sequence[str]) -> dict[str, Item]:
    """The node's inputs behind the first, by name: vectors of one number, then masks."""
    found: dict[str, Item] = {}
    for place, name in enumerate(numbers, 1):
        number = context.optional(place)
        found[name] = None if number is None else context.reshape(number, (1,))
    behind = enumerate(masks, 1 + len(numbers))
    return {**found, **{name: context.item(place) for place, name in behind}}


def _steps(context: NodeContext, text: str) -> list[onnx.NodeProto]:
    """Nodes in ONNX's text form, with names of their own and some constants before them."""
    whole = _CONSTANTS + text
    for name, attribute in (("EOS", "eos_token_id"), ("PAD", "pad_token_id")):
        whole = whole.replace(name, str(context.integer(attribute)))
    graph = parser.parse_graph(f"search () => () {{ {whole} }}")
    return [_owned(node) for node in graph.node]


def compute(
    context: NodeContext, text: str, given: Mapping[str, Item], wanted: Sequence[str]
) -> list[Item]:
    """What some steps give."""
    graph = onnx.GraphProto(name="part of a search", node=_steps(context, text))
    graph.input.extend(_values(*given))
    graph.output.extend(_values(*wanted))
    return context.subgraphs.read_inline(graph, list(given.values()))


def search_loop(
    context: NodeContext,
    started: Started,
    text: str,
    state: Mapping[str, Item],
    around: Mapping[str, Item],
) -> dict[str, Item]:
    """The loop of a search: the decoder, then the steps of `text`; what it carries at its end.

    `state` is what it carries at first, by name; the steps make `NAME_then` of each. They see
    `logits`, `NAME_new` of each of the decoder's caches, and what is `around`: of that, `trips` and
    `goes_on` are the loop's limits. Their `goes_on_then` says whether there is another iteration.
    """
    decoder = started.decoder
    body = onnx.GraphProto(name="step of a search")
    body.input.extend(_values("iteration", "going", *state))
    body.output.extend(_values("goes_on_then", *(f"{name}_then" for name in state)))
    body.initializer.extend(decoder.graph.initializer)
    given = zip(started.feeds, decoder.graph.input)
    body.node.extend(_same(own(feed), value.name) for feed, value in given)
    body.node.extend(decoder.graph.node)
    outputs = zip(decoder.graph.output, ["logits", *(f"{name}_new" for name in decoder.caches)])
    body.node.extend(_same(value.name, own(name)) for value, name in outputs)
    body.node.extend(_steps(context, text))
    begun = [f"{name}_first" for name in state]
    ends = [f"{name}_last" for name in state]
    inputs = map(own, ("trips", "goes_on", *begun))
    loop = helper.make_node("Loop", list(inputs), list(map(own, ends)), body=body)
    whole = onnx.GraphProto(name="search", node=[loop])
    whole.input.extend(_values(*around, *begun))
    whole.output.extend(_values(*ends))
    found = context.subgraphs.read_inline(whole, [*around.values(), *state.values()])
    return dict(zip(state, found))


def _owned(node: onnx.NodeProto) -> onnx.NodeProto:
    node.input[:] = map(own, node.input)
    node.output[:] = map(own, node.output)
    return node


def _values(*names: str) -> list[onnx.ValueInfoProto]:
    return [onnx.ValueInfoProto(name=own(name)) for name in names]


def _same(name: str, other: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [name], [other])
