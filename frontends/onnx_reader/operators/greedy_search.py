"""GreedySearch of com.microsoft: the likeliest token again and again, by a decoder like GPT-2's."""

from __future__ import annotations

from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.generation import (
    MASKS,
    compute,
    controls,
    search_loop,
)
from bessemer.frontends.onnx_reader.operators.generation_scores import scores_text
from bessemer.frontends.onnx_reader.operators.generation_starts import start_search
from bessemer.frontends.onnx_reader.registry import rule

_BEFORE = """
    longest = Cast <to = 7> (max_length)
    shape = Shape (sequences)
    length = Gather (shape, one)
    left = Sub (longest, length)
    left_after = Sub (left, one)
    trips = Reshape (left_after, scalar)
    first_column = Slice (sequences, none, one, one)
    finished = Less (first_column, first_column)
"""

_CHOICE = """
    likeliest = ArgMax <axis = 1, keepdims = 1> (scores)
    ends = Equal (likeliest, eos)
    finished_then = Or (finished, ends)
    found = Cast <to = 6> (likeliest)
    tokens_then = Where (finished_then, pad, found)
    sequences_then = Concat <axis = 1> (sequences, tokens_then)
    as_numbers = Cast <to = 6> (finished_then)
    least = ReduceMin <keepdims = 0> (as_numbers)
    all_finished = Cast <to = 9> (least)
    goes_on_then = Not (all_finished)
"""

_AFTER = """
    longest = Cast <to = 7> (max_length)
    shape = Shape (sequences)
    rows = Gather (shape, none)
    length = Gather (shape, one)
    left = Sub (longest, length)
    padding_shape = Concat <axis = 0> (rows, left)
    padding = Expand (pad, padding_shape)
    whole = Concat <axis = 1> (sequences, padding)
"""


@rule("GreedySearch", domain="com.microsoft")
def read_greedy_search(context: NodeContext) -> Item:
    """Tokens i32[batch, max_length] that begin with the prompt i32[batch, length]."""
    numbers = ("max_length", "min_length", "repetition_penalty")
    given = controls(context, numbers, MASKS)
    started = start_search(context, context.item(6))
    begun = {**given, "sequences": started.sequences, "logits": started.logits}
    trips, finished = compute(context, _BEFORE, begun, ("trips", "finished"))
    wanted = ("tokens", "sequences", "finished", "goes_on")
    text = scores_text(context, "Identity", given, first=True) + _CHOICE
    start = {**begun, "finished": finished}
    chosen = compute(context, text, start, [f"{name}_then" for name in wanted])
    state = dict(zip(wanted, chosen))
    around = {**given, **started.around, "trips": trips, "goes_on": state.pop("goes_on")}
    text = scores_text(context, "Identity", given, first=False) + _CHOICE + started.next
    for name in started.decoder.caches:
        text += f"{name}_then = Identity ({name}_new)\n"
    found = search_loop(context, started, text, {**state, **started.state}, around)
    return compute(context, _AFTER, {**given, "sequences": found["sequences"]}, ["whole"])[0]
