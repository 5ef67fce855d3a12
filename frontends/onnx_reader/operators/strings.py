"""Operators that make strings, or something else of strings: before a run, or of constants.

The compiled code knows strings by number only: see strings.py.
"""

from __future__ import annotations

import re

from bessemer.compiler.ir.types import boolean, i64
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import broadcast_shape
from bessemer.frontends.onnx_reader.items import Item, TextItem
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.strings import made_before


def _text(context: NodeContext, position: int = 0) -> TextItem:
    found = context.text_at(position)
    if found is None:
        context.wrong(f"input {position} has to be a tensor of strings")
    return found


def _pattern(context: NodeContext, expression: str) -> str:
    """A regular expression that can be read; raises CompileError."""
    try:
        re.compile(expression, re.ASCII)
    except (re.error, ValueError) as error:
        context.wrong(f"the regular expression {expression!r} cannot be read: {error}")
    return expression


@rule("StringNormalizer")
def read_string_normalizer(context: NodeContext) -> list[Item]:
    type = _text(context).value.type
    case = context.text("case_change_action")
    if case not in ("NONE", "LOWER", "UPPER"):
        context.wrong(f"case_change_action is {case!r}")
    stopwords = list(context.texts("stopwords", ()))
    shape = (*type.shape[:-1], None) if stopwords else type.shape
    return made_before(
        context,
        "normalize",
        [(None, shape)],
        case=case,
        stopwords=stopwords,
        sensitive=bool(context.integer("is_case_sensitive")),
    )


@rule("Tokenizer", domain="com.microsoft")
def read_tokenizer(context: NodeContext) -> list[Item]:
    shape = _text(context).value.type.shape
    separators = list(context.texts("separators", ()))
    expression = context.text("tokenexp", "")
    if bool(separators) == bool(expression):
        context.wrong("one of separators and tokenexp has to be there")
    # Nearly every text has some: what is in the table is found fastest.
    context.subgraphs.strings.place(context.text("pad_value"))
    return made_before(
        context,
        "tokenize",
        [(None, (*shape, None))],
        separators=[_pattern(context, separator) for separator in separators],
        expression=_pattern(context, expression),
        least=context.integer("mincharnum"),
        mark=bool(context.integer("mark")),
        pad=context.text("pad_value"),
    )


@rule("StringSplit")
def read_string_split(context: NodeContext) -> list[Item]:
    shape = _text(context).value.type.shape
    return made_before(
        context,
        "split",
        [(None, (*shape, None)), (i64, shape)],
        delimiter=context.text("delimiter", ""),
        most=context.integer("maxsplit", -1),
    )


@rule("StringConcat")
def read_string_concat(context: NodeContext) -> list[Item]:
    shapes = [_text(context, place).value.type.shape for place in range(2)]
    return made_before(context, "join", [(None, broadcast_shape(context.builder, shapes))])


@rule("RegexFullMatch")
def read_regex_full_match(context: NodeContext) -> list[Item]:
    shape = _text(context).value.type.shape
    pattern = _pattern(context, context.text("pattern"))
    return made_before(context, "full_match", [(boolean, shape)], pattern=pattern)
