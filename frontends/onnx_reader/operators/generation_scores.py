"""The scores of the next token in a search of com.microsoft, and what keeps tokens from it."""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item

_LAST = """
    place_of_last = Constant <value = int64 {-1}> ()
    last = Gather <axis = 1> (logits, place_of_last)
    vocabulary_size = Constant <value = int64[1] {SIZE}> ()
    without_padding = Slice (last, none, vocabulary_size, one)
    as_float = Cast <to = 1> (without_padding)
    scores0 = START (as_float)
"""

_PENALTY = """
    seen = Cast <to = 7> (sequences)
    known = GatherElements <axis = 1> (BEFORE, seen)
    nothing = Constant <value = float[1] {0}> ()
    below = Less (known, nothing)
    multiplied = Mul (known, repetition_penalty)
    divided = Div (known, repetition_penalty)
    lowered = Where (below, multiplied, divided)
    AFTER = ScatterElements <axis = 1> (BEFORE, seen, lowered)
"""

_NO_REPEATS = """
    words = Cast <to = 7> (sequences)
    AFTER = com.microsoft.NGramRepeatBlock <ngram_size = SIZE> (words, BEFORE)
"""

_VOCABULARY = """
    vocabulary_allows = Cast <to = 9> (vocab_mask)
    AFTER = Where (vocabulary_allows, BEFORE, lowest)
"""

_PREFIX = """
    prefix_allows = Cast <to = 9> (prefix_vocab_mask)
    AFTER = Where (prefix_allows, BEFORE, lowest)
"""

_LONG_ENOUGH = """
    shape_so_far = Shape (sequences)
    length_so_far = Gather (shape_so_far, one)
    fewest = Cast <to = 7> (min_length)
    is_short = Less (length_so_far, fewest)
    shape_of_scores = Shape (BEFORE)
    token_count = Gather (shape_of_scores, unit)
    every_token = Range (zero, token_count, unit)
    is_eos = Equal (every_token, eos)
    is_too_early = And (is_short, is_eos)
    AFTER = Where (is_too_early, lowest, BEFORE)
"""


def scores_text(context: NodeContext, start: str, controls: Mapping[str, Item], first: bool) -> str:
    """Steps from `logits` and `sequences` to `scores`, f32[rows, vocabulary], of the next token.

    `start` is the operator that makes scores of the last logits; `controls` are the node's further
    inputs by name, and what is not there does nothing; `first` says that it is the first token.
    """
    ngram = context.integer("no_repeat_ngram_size", 0)
    given = {name for name, item in controls.items() if item is not None}
    parts = {
        _PENALTY: "repetition_penalty" in given,
        _NO_REPEATS.replace("SIZE", str(ngram)): ngram > 0,
        _VOCABULARY: "vocab_mask" in given,
        _PREFIX: first and "prefix_vocab_mask" in given,
        _LONG_ENOUGH: "min_length" in given,
    }
    wanted = [text for text, is_wanted in parts.items() if is_wanted]
    size = context.integer("vocab_size", -1)
    lines = [_LAST.replace("SIZE", str(size if size > 0 else 2**62)).replace("START", start)]
    for number, text in enumerate(wanted):
        named = text.replace("BEFORE", f"scores{number}").replace("AFTER", f"scores{number + 1}")
        lines.append(named)
    return "".join(lines) + f"    scores = Identity (scores{len(wanted)})\n"
