"""BeamSearch of com.microsoft: the likeliest sequences, several of them pursued at a time.

Each batch has `width` beams; a step takes the 2 * width likeliest ways to go on. Those that end are
hypotheses, of which the best `width` are kept (-inf where there are fewer), with `kept` sequences
and `kept_scores`; the first `width` others are the next beams. A sequence's score is the sum of
its tokens' log-probabilities by its length to the power of the length penalty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.generation import (
    MASKS,
    Started,
    compute,
    controls,
    search_loop,
)
from bessemer.frontends.onnx_reader.operators.generation_scores import scores_text
from bessemer.frontends.onnx_reader.operators.generation_starts import start_search
from bessemer.frontends.onnx_reader.registry import rule

_BEFORE = """
    longest = Cast <to = 7> (max_length)
    prompt_shape = Shape (prompt)
    prompt_length = Gather (prompt_shape, one)
    left = Sub (longest, prompt_length)
    left_after = Sub (left, one)
    trips = Reshape (left_after, scalar)
    width = Cast <to = 7> (num_beams)
    batch = Gather (prompt_shape, none)
    row_count = Mul (batch, width)
    scalar_count = Reshape (row_count, scalar)
    every_row = Range (zero, scalar_count, unit)
    origin = Div (every_row, width)
    sequences = Gather (prompt, origin)
    scalar_width = Reshape (width, scalar)
    places = Range (zero, scalar_width, unit)
    is_first = Equal (places, none)
    of_first = Constant <value = float[1] {0}> ()
    of_others = Constant <value = float[1] {-1e9}> ()
    one_batch = Where (is_first, of_first, of_others)
    beams_shape = Concat <axis = 0> (batch, width)
    beam_scores = Expand (one_batch, beams_shape)
    no_score = Constant <value = float[1] {-inf}> ()
    kept_scores = Expand (no_score, beams_shape)
    finished_shape = Concat <axis = 0> (batch, one)
    is_finished = Less (one, none)
    finished = Expand (is_finished, finished_shape)
    kept_shape = Concat <axis = 0> (beams_shape, prompt_length)
    kept = Expand (pad, kept_shape)
"""

_LENGTH = """
    no_score = Constant <value = float[1] {-inf}> ()
    width = Cast <to = 7> (num_beams)
    sequences_shape = Shape (sequences)
    length = Gather (sequences_shape, one)
    float_length = Cast <to = 1> (length)
    divisor = Pow (float_length, length_penalty)
    finished_shape = Shape (finished)
    batch = Gather (finished_shape, none)
    scalar_batch = Reshape (batch, scalar)
    every_batch = Range (zero, scalar_batch, unit)
    column_shape = Constant <value = int64[2] {-1, 1}> ()
    batch_column = Reshape (every_batch, column_shape)
    first_rows = Mul (batch_column, width)
    is_open = Not (finished)
"""

_CHOICE = (
    _LENGTH
    + """
    shape_of_all = Shape (scores)
    vocabulary = Gather (shape_of_all, one)
    score_column = Reshape (beam_scores, column_shape)
    sums = Add (scores, score_column)
    flat_width = Mul (width, vocabulary)
    flat_shape = Concat <axis = 0> (last_place, flat_width)
    flat = Reshape (sums, flat_shape)
    two = Constant <value = int64[1] {2}> ()
    twice = Mul (width, two)
    best, best_place = TopK <axis = 1> (flat, twice)
    best_beam = Div (best_place, vocabulary)
    before_beam = Mul (best_beam, vocabulary)
    best_token = Sub (best_place, before_beam)
    best_row = Add (best_beam, first_rows)

    ends = Equal (best_token, eos)
    scalar_twice = Reshape (twice, scalar)
    rank = Range (zero, scalar_twice, unit)
    is_near = Less (rank, width)
    ends_near = And (ends, is_near)
    becomes_one = And (ends_near, is_open)
    by_length = Div (best, divisor)
    new_scores = Where (becomes_one, by_length, no_score)
    all_scores = Concat <axis = 1> (kept_scores, new_scores)
    kept_scores_then, kept_place = TopK <axis = 1> (all_scores, width)
    new_ones = Gather (sequences, best_row)
    all_ones = Concat <axis = 1> (kept, new_ones)
    joined_shape = Concat <axis = 0> (last_place, length)
    joined = Reshape (all_ones, joined_shape)
    thrice = Add (twice, width)
    first_joined = Mul (batch_column, thrice)
    kept_row = Add (kept_place, first_joined)
    kept_now = Gather (joined, kept_row)
    pads_shape = Concat <axis = 0> (batch, width, one)
    pads = Expand (pad, pads_shape)
    kept_then = Concat <axis = 2> (kept_now, pads)

    after = Where (ends, twice, none)
    order = Add (rank, after)
    unused, next_place = TopK <axis = 1, largest = 0> (order, width)
    next_scores = GatherElements <axis = 1> (best, next_place)
    no_more = Constant <value = float[1] {0}> ()
    beam_scores_then = Where (finished, no_more, next_scores)
    next_tokens = GatherElements <axis = 1> (best_token, next_place)
    small_tokens = Cast <to = 6> (next_tokens)
    tokens_of_batch = Where (finished, pad, small_tokens)
    tokens_then = Reshape (tokens_of_batch, column_shape)
    next_rows = GatherElements <axis = 1> (best_row, next_place)
    rows = Reshape (next_rows, last_place)
    pursued = Gather (sequences, rows)
    sequences_then = Concat <axis = 1> (pursued, tokens_then)

    worst = Gather <axis = 1> (kept_scores_then, last_place)
    is_full = Greater (worst, no_score)
    top = Gather <axis = 1> (best, none)
    best_possible = Div (top, divisor)
    can_improve = Less (worst, best_possible)
    stops_early = Constant <value = bool[1] {EARLY}> ()
    cannot_improve = Not (can_improve)
    is_enough = Or (cannot_improve, stops_early)
    is_done = And (is_full, is_enough)
    finished_then = Or (finished, is_done)
    as_numbers = Cast <to = 6> (finished_then)
    least = ReduceMin <keepdims = 0> (as_numbers)
    all_finished = Cast <to = 9> (least)
    goes_on_then = Not (all_finished)
"""
)

_AFTER = (
    _LENGTH
    + """
    by_length = Div (beam_scores, divisor)
    open_scores = Where (is_open, by_length, no_score)
    all_scores = Concat <axis = 1> (kept_scores, open_scores)
    wanted = Cast <to = 7> (num_return_sequences)
    sequence_scores, chosen_place = TopK <axis = 1> (all_scores, wanted)
    by_batch_shape = Concat <axis = 0> (batch, width, length)
    by_batch = Reshape (sequences, by_batch_shape)
    all_ones = Concat <axis = 1> (kept, by_batch)
    joined_shape = Concat <axis = 0> (last_place, length)
    joined = Reshape (all_ones, joined_shape)
    twice = Add (width, width)
    first_joined = Mul (batch_column, twice)
    chosen_row = Add (chosen_place, first_joined)
    chosen = Gather (joined, chosen_row)
    longest = Cast <to = 7> (max_length)
    left = Sub (longest, length)
    padding_shape = Concat <axis = 0> (batch, wanted, left)
    padding = Expand (pad, padding_shape)
    whole = Concat <axis = 2> (chosen, padding)
"""
)

_NUMBERS = (
    "max_length", "min_length", "num_beams", "num_return_sequences", "length_penalty",
    "repetition_penalty",
)  # fmt: skip
_STATE = ("beam_scores", "sequences", "kept", "kept_scores", "finished")


@rule("BeamSearch", domain="com.microsoft")
def read_beam_search(context: NodeContext) -> list[Item]:
    """Tokens i32[batch, returned, max_length], and scores of the sequences f32[batch, returned]."""
    if len(context.node.output) > 2:
        context.unsupported("the scores of all tokens as an output")
    if context.item(11) is not None and context.array(11) != 0:
        context.unsupported("rules for tokens of time")
    given = controls(context, _NUMBERS, MASKS)
    if given["length_penalty"] is None:
        given["length_penalty"] = context.builder.constant(np.ones(1, np.float32))
    started = start_search(context, context.item(9), context.item(10))
    prompt = {**given, "prompt": started.sequences}
    trips, origin, *begun = compute(context, _BEFORE, prompt, ("trips", "origin", *_STATE))
    started = _by_beams(context, started, origin)
    given["prefix_vocab_mask"] = _gathered(context, given["prefix_vocab_mask"], origin, 0)
    choice = _CHOICE.replace("EARLY", str(context.integer("early_stopping", 0)))
    text = scores_text(context, "LogSoftmax", given, first=True) + choice
    first = {**given, **dict(zip(_STATE, begun)), "logits": started.logits}
    wanted = ("goes_on", "tokens", *_STATE)
    goes_on, *chosen = compute(context, text, first, [f"{name}_then" for name in wanted])
    state = {**dict(zip(wanted[1:], chosen)), **started.state}
    text = scores_text(context, "LogSoftmax", given, first=False) + choice + started.next
    for name in started.decoder.caches:
        text += f"{name}_then = Gather <axis = {started.decoder.axis}> ({name}_new, rows)\n"
    around = {**given, **started.around, "trips": trips, "goes_on": goes_on}
    found = search_loop(context, started, text, state, around)
    return compute(context, _AFTER, {**given, **found}, ["whole", "sequence_scores"])


def _by_beams(context: NodeContext, started: Started, origin: Item) -> Started:
    """What a decoder starts with, with rows for beams; `origin` has the batch of each."""

    def expanded(items: Mapping[str, Item]) -> dict[str, Item]:
        caches = started.decoder.caches
        axes = {name: started.decoder.axis if name in caches else 0 for name in items}
        return {name: _gathered(context, item, origin, axes[name]) for name, item in items.items()}

    return replace(
        started,
        logits=_gathered(context, started.logits, origin, 0),
        state=expanded(started.state),
        around=expanded(started.around),
    )


def _gathered(context: NodeContext, item: Item, rows: Item, axis: int) -> Item:
    if item is None:
        return None
    text = f"found = Gather <axis = {axis}> (item, rows)"
    return compute(context, text, {"item": item, "rows": rows}, ["found"])[0]
