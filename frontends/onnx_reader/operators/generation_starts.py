"""How a search of com.microsoft starts: a prompt for a decoder, or what an encoder gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.generation import Decoder, Started, compute

_PROMPT = """
    is_pad = Equal (tokens, pad)
    is_token = Not (is_pad)
    counted = Cast <to = 6> (is_token)
    counts = CumSum (counted, unit)
    before = Sub (counts, counted)
    positions = Mul (before, counted)
    mask = Identity (MASK)
    length = Gather <axis = 1> (counts, last_place)
    itself = Equal (length, length)
    is_seen = Cast <to = 6> (itself)
    mask_then = Concat <axis = 1> (mask, is_seen)
"""

_NEXT = """
    another = Constant <value = int32[1] {1}> ()
    positions_then = Add (positions, another)
    itself = Equal (tokens_then, tokens_then)
    is_seen = Cast <to = 6> (itself)
    mask_then = Concat <axis = 1> (mask, is_seen)
"""


_SOURCE_MASK = """
    is_pad = Equal (source, pad)
    is_token = Not (is_pad)
    counted = Cast <to = 6> (is_token)
    counts = CumSum (counted, unit)
    no_count = Constant <value = int32[1] {0}> ()
    has_begun = Greater (counts, no_count)
    mask = Cast <to = 6> (has_begun)
"""

_INPUTS = {
    "input_ids": "tokens",
    "decoder_input_ids": "tokens",
    "encoder_input_ids": "source",
    "encoder_attention_mask": "mask",
    "encoder_hidden_states": "hidden",
}
"""What exporters call the inputs, and what a search calls them."""

_START_TOKEN = """
    shape = Shape (source)
    batch = Gather (shape, none)
    shape_of_one = Concat <axis = 0> (batch, one)
    start = Constant <value = int32[1] {START}> ()
    tokens = Expand (start, shape_of_one)
"""


def start_search(context: NodeContext, mask: Item, prompt: Item = None) -> Started:
    """What a search's decoder starts with; the node's `model_type` says of which kind it is. The
    mask says what of the node's first input is no padding; an encoder's decoder may be given a
    prompt."""
    if context.integer("model_type", 0) == 0:
        return _start_decoder(context, mask)
    return _start_encoder(context, mask, prompt)


def _start_decoder(context: NodeContext, given_mask: Item) -> Started:
    """A decoder like GPT-2's that has seen the prompt, i32[batch, tokens], the node's first input.

    Its inputs are tokens, positions, a mask of what is no padding, and a cache of keys and values
    for each layer, [2, batch, heads, tokens, size].
    """
    decoder = _decoder(context, "decoder")
    first = _decoder(context, "init_decoder") if context.has("init_decoder") else decoder
    prompt = context.input(0)
    text = _PROMPT.replace("MASK", "counted" if given_mask is None else "given_mask")
    wanted = ("positions", "length", "mask", "mask_then")
    given = {"tokens": prompt, "given_mask": given_mask}
    positions, length, mask, mask_then = compute(context, text, given, wanted)
    empty = first.empty_caches(context, prompt.type.shape[0])
    inputs = [prompt, positions, mask, *empty]
    logits, *caches = context.subgraphs.read_inline(first.graph, inputs)
    state = {"positions": length, "mask": mask_then, **dict(zip(decoder.caches, caches))}
    feeds = ["tokens", "positions", "mask", *decoder.caches]
    return Started(decoder, prompt, logits, state, {}, feeds, _NEXT)


def _decoder(context: NodeContext, name: str) -> Decoder:
    graph = context.graph(name)
    count = len(graph.output) - 1
    if len(graph.input) != 3 + count:
        context.unsupported(f"a decoder with {len(graph.input)} inputs and {1 + count} outputs")
    return Decoder(graph, 3, count, 1)


def _start_encoder(context: NodeContext, given_mask: Item, prompt: Item) -> Started:
    """A decoder like T5's or Whisper's, and what an encoder makes of the node's first input.

    The encoder gives the source's keys and values. Those of older exporters begin to decode, too,
    and give logits, hidden states and the decoder's own caches first. The decoder has tokens, maybe
    the mask and the hidden states, its own caches [batch, heads, tokens, size], and the source's.
    """
    source, encoder, graph = context.input(0), context.graph("encoder"), context.graph("decoder")
    count = len(graph.output) - 1
    if graph.input[0].type.tensor_type.shape.dim[-1].dim_value != 1:
        context.unsupported("a decoder of whole sequences")
    decoder = Decoder(graph, len(graph.input) - 2 * count, count, 0)
    if prompt is None:
        start = str(context.integer("decoder_start_token_id", -1))
        text = _START_TOKEN.replace("START", start)
        prompt = compute(context, text, {"source": source}, ["tokens"])[0]
    known: dict[str, Item] = {"source": source, "tokens": prompt, "mask": given_mask}
    if given_mask is None and source.type.dtype.is_integer:
        known["mask"] = compute(context, _SOURCE_MASK, {"source": source}, ["mask"])[0]
    found = _called(context, encoder, _feeds(context, encoder.input), known)
    sources = [f"source{place}" for place in range(count)]
    known.update(zip(sources, found[-count:]))
    feeds = [*_feeds(context, graph.input[: decoder.first]), *decoder.caches, *sources]
    if len(found) == count:
        rows = context.values([prompt])[0].type.shape[0]
        empty = dict(zip(decoder.caches, decoder.empty_caches(context, rows)))
        logits, *caches = _called(context, graph, feeds, {**known, **empty})
    else:
        logits, known["hidden"], *caches = found[: 2 + count]
    state = dict(zip(decoder.caches, caches))
    around = {name: known[name] for name in (*feeds[1 : decoder.first], *sources)}
    return Started(decoder, prompt, logits, state, around, feeds, "")


def _feeds(context: NodeContext, inputs: Iterable[onnx.ValueInfoProto]) -> list[str]:
    """What a search gives to inputs that are no caches."""
    others = [value.name for value in inputs if value.name not in _INPUTS]
    if others:
        context.unsupported(f"a search in whose graphs an input is called '{others[0]}'")
    return [_INPUTS[value.name] for value in inputs]


def _called(
    context: NodeContext, graph: onnx.GraphProto, feeds: Sequence[str], known: Mapping[str, Item]
) -> list[Item]:
    return context.subgraphs.read_inline(graph, [known[name] for name in feeds])
