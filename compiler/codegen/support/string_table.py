"""Writes the table of the strings that a model knows, and PREFIX_string and PREFIX_string_id, which
read it.

The texts lie one after the other, each ended by a zero. `starts` has the begin of each; `order`
lists their numbers sorted by bytes, for binary search.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate

from bessemer.compiler.codegen.support.constants import byte_string, number_table
from bessemer.runtime.artifact import Strings

EXPORTS = ("string", "string_id")

_TEXT = """
declare i32 @strcmp(ptr, ptr)

define ptr @${prefix}_string(i32 %place) $baseline {
  %inside = icmp ult i32 %place, COUNT
  br i1 %inside, label %found, label %outside
found:
  %wide = zext i32 %place to i64
  %text = call ptr @bessemer_string_at(i64 %wide)
  ret ptr %text
outside:
  ret ptr null
}

define internal ptr @bessemer_string_at(i64 %place) $baseline {
  %at = getelementptr i64, ptr @bessemer_string_starts, i64 %place
  %start = load i64, ptr %at
  %text = getelementptr i8, ptr @bessemer_string_texts, i64 %start
  ret ptr %text
}

define i32 @${prefix}_string_id(ptr %wanted) $baseline {
entry:
  br label %look
look:
  %low = phi i64 [ 0, %entry ], [ %next_low, %go_on ]
  %high = phi i64 [ COUNT, %entry ], [ %next_high, %go_on ]
  %any = icmp ult i64 %low, %high
  br i1 %any, label %compare, label %unknown
compare:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
  %entry_at = getelementptr i64, ptr @bessemer_string_order, i64 %middle
  %place = load i64, ptr %entry_at
  %text = call ptr @bessemer_string_at(i64 %place)
  %difference = call i32 @strcmp(ptr %wanted, ptr %text)
  %same = icmp eq i32 %difference, 0
  br i1 %same, label %here, label %go_on
go_on:
  %is_before = icmp slt i32 %difference, 0
  %behind = add i64 %middle, 1
  %next_low = select i1 %is_before, i64 %low, i64 %behind
  %next_high = select i1 %is_before, i64 %middle, i64 %high
  br label %look
here:
  %found = trunc i64 %place to i32
  ret i32 %found
unknown:
  ret i32 COUNT
}
"""

HEADER = """\
/* Strings are numbers to this model, int32_t: an element of an input or output that is said to hold
 * strings is the place of one in the model's table, which has ${prefix}_STRING_COUNT.
 * A string that is not there has any number from that count on; equal ones have equal numbers, and
 * an output may hold those that came in. */
int32_t ${prefix}_string_id(const char *text); /* of UTF-8; ${prefix}_STRING_COUNT if not there */
const char *${prefix}_string(int32_t id);      /* NULL where the table has no such */

"""


def string_table(strings: Strings) -> str:
    """A template of the table and its two functions."""
    texts = [text.encode() for text in strings.table]
    starts = list(accumulate((len(text) + 1 for text in texts), initial=0))[:-1]
    data = (
        byte_string("bessemer_string_texts", b"".join(text + b"\0" for text in texts) or b"\0")
        + number_table("bessemer_string_starts", starts)
        + number_table("bessemer_string_order", _by_bytes(texts))
    )
    return data + _TEXT.replace("COUNT", str(len(texts)))


def _by_bytes(texts: Sequence[bytes]) -> list[int]:
    return sorted(range(len(texts)), key=lambda place: texts[place])


def step_texts(strings: Strings) -> list[tuple[str, str, str]]:
    """For each step before a run: a line "results = operator(inputs)", its attributes as JSON, and
    the node that it comes from.

    The JSON contains no slash, which could begin or end a C comment.
    """
    return [
        (
            f"{', '.join(step.outputs)} = {step.operator}({', '.join(step.inputs)})",
            json.dumps(dict(step.attributes)).replace("/", "\\u002f"),
            step.source,
        )
        for step in strings.steps
    ]
