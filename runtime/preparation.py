"""Operators on strings and encoded pictures, which run in Python before the compiled code.

A model's Strings list the steps; each applies one of STEPS to arrays by name. Arrays of strings are
NumPy arrays of objects, every one a str. Regular expressions are those of Python's re, with ASCII
classes as RE2 has them, whose syntax models use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from bessemer.runtime.arrays import Array, numpy_dtype
from bessemer.runtime.artifact import Step
from bessemer.runtime.errors import InputError
from bessemer.runtime.images import decode_image

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Array], Attributes], list[Array]]
_ONE_CLASS = re.compile(r"\[(?:[^\]\\^[-]|\\[wd]|[a-zA-Z0-9]-[a-zA-Z0-9])+\]\+")
"""One or more of the letters that are listed."""


def prepare(steps: Sequence[Step], given: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that are given and all that the steps make of them, by name.

    Raises InputError, naming the user's node, where a step cannot take what it is given.
    """
    known = dict(given)
    for step in steps:
        try:
            made = STEPS[step.operator]([known[name] for name in step.inputs], step.attributes)
        except (ValueError, OverflowError, IndexError) as error:
            raise InputError(f"{step.source}: {error}.") from None
        known.update(zip(step.outputs, made, strict=True))
    return known


def strings_of(texts: Sequence[str], shape: Sequence[int]) -> Array:
    """An array of objects, also where NumPy would make something else of a list of strings."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(tuple(shape))


def _each(x: Array, change: Callable[[str], str]) -> Array:
    """Each string changed; all at once where they are ASCII, whose letters change one by one."""
    texts: list[str] = x.reshape(-1).tolist()
    joined = "\0".join(texts)
    if joined.isascii():
        changed = change(joined).split("\0")
        if len(changed) == len(texts):
            return strings_of(changed, x.shape)
    return strings_of([change(text) for text in texts], x.shape)


def _constant(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    return [strings_of(attributes["values"], attributes["shape"])]


def _reshape(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """To a `shape` with one -1 at most, for what is left."""
    return [inputs[0].reshape(attributes["shape"])]


def _take(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """The entries at `indices`, which have a `shape` of their own, along an axis."""
    indices = np.array(attributes["indices"], np.int64).reshape(attributes["shape"])
    return [np.take(inputs[0], indices, attributes["axis"])]


def _concat(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    return [np.concatenate(inputs, attributes["axis"])]


def _in_case(change: Callable[[str], str]) -> Callable[[str], str]:
    """A letter that becomes several letters stays as it is, as with C's towlower and towupper."""

    def changed(text: str) -> str:
        if text.isascii():
            return change(text)
        return "".join(new if len(new := change(old)) == 1 else old for old in text)

    return changed


_CASES: dict[str, Callable[[str], str]] = {
    "NONE": lambda text: text,
    "LOWER": _in_case(str.lower),
    "UPPER": _in_case(str.upper),
}


def _normalize(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """StringNormalizer: without the stop words among the elements, in one case."""
    (x,) = inputs
    change, stops = _CASES[attributes["case"]], attributes["stopwords"]
    if not stops:
        return [_each(x, change)]
    if x.ndim != 1 and x.shape[:-1] != (1,):
        raise ValueError(f"strings of shape {list(x.shape)} where stop words want [C] or [1, C]")
    compared = (lambda text: text) if attributes["sensitive"] else _CASES["LOWER"]
    left_out = {compared(stop) for stop in stops}
    kept = [change(text) for text in x.reshape(-1).tolist() if compared(text) not in left_out]
    kept = kept or [""]
    return [strings_of(kept, (*x.shape[:-1], len(kept)))]


def _tokenize(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """com.microsoft's Tokenizer: each string becomes a row of its words, filled up with pads."""
    (x,) = inputs
    words, least = _words(x.reshape(-1).tolist(), attributes), attributes["least"]
    if least > 1:
        words = [[word for word in row if len(word) >= least] for row in words]
    if any(words) and attributes["mark"]:
        words = [["\x02", *row, "\x03"] for row in words]
    return [_filled_up(words, x.shape, attributes["pad"])]


def _filled_up(words: Sequence[list[str]], shape: tuple[int, ...], pad: str) -> Array:
    """[*shape, most words]: each row of words, filled up."""
    width = max(map(len, words), default=0)
    pads = [[pad] * count for count in range(width + 1)]
    flat = chain.from_iterable(row + pads[width - len(row)] for row in words)
    return strings_of([*flat], (*shape, width))


def _words(texts: Sequence[str], attributes: Attributes) -> list[list[str]]:
    """The words of each text, too short ones among them."""
    expression = attributes["expression"]
    if not attributes["separators"]:
        if expression == ".":
            return [list(text.replace("\n", "")) for text in texts]
        found = _runs_of_letters(texts, expression)
        if found is not None:
            return found
    find = _finder(attributes)
    return [list(filter(None, find(text))) for text in texts]


def _runs_of_letters(texts: Sequence[str], expression: str) -> list[list[str]] | None:
    """What an expression as [a-z0-9]+ finds, of all texts at once, which is several times as fast;
    None where it is another."""
    letters = _letters(expression)
    if letters is None:
        return None
    rows = "\0".join(texts).translate(letters).split("\0")
    return [row.split() for row in rows] if len(rows) == len(texts) else None


class _Letters(dict[int, str]):
    """For str.translate: letters and the end of a text stay, everything else becomes a space."""

    def __missing__(self, code: int) -> str:
        self[code] = " "
        return " "


@cache
def _letters(expression: str) -> _Letters | None:
    if not expression.isascii() or _ONE_CLASS.fullmatch(expression) is None:
        return None
    is_letter = re.compile(expression, re.ASCII).fullmatch
    found = [letter for letter in map(chr, range(1, 128)) if is_letter(letter)]
    if any(letter.isspace() for letter in found):
        return None
    return _Letters({ord(letter): letter for letter in ["\0", *found]})


def _finder(attributes: Attributes) -> Callable[[str], Sequence[str]]:
    """What gives the words of a text, among them too short and empty ones."""
    if attributes["separators"] == [""]:
        return list
    if not attributes["separators"]:
        pattern = re.compile(attributes["expression"], re.ASCII)
        if not pattern.groups:
            return pattern.findall
        return lambda text: [found[0] for found in pattern.finditer(text)]
    separators = [re.compile(one, re.ASCII) for one in attributes["separators"]]

    def split(text: str) -> list[str]:
        parts = [text]
        for separator in separators:
            parts = [piece for part in parts for piece in _between(separator, part)]
        return parts

    return split


def _between(pattern: re.Pattern[str], text: str) -> list[str]:
    """What lies between the matches (re.split would give the groups as well)."""
    pieces, start = [], 0
    for found in pattern.finditer(text):
        pieces.append(text[start : found.start()])
        start = found.end()
    return [*pieces, text[start:]]


def _split(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """StringSplit: rows of pieces, filled up with empty strings, and how many there are."""
    (x,) = inputs
    most = attributes["most"]
    words = [text.split(attributes["delimiter"] or None, most) for text in x.reshape(-1).tolist()]
    counts = np.array([len(row) for row in words], np.int64).reshape(x.shape)
    return [_filled_up(words, x.shape, ""), counts]


def _join(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """StringConcat."""
    one, other = np.broadcast_arrays(*inputs)
    joined = [a + b for a, b in zip(one.reshape(-1).tolist(), other.reshape(-1).tolist())]
    return [strings_of(joined, one.shape)]


def _full_match(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    pattern = re.compile(attributes["pattern"], re.ASCII)
    (x,) = inputs
    found = [pattern.fullmatch(text) is not None for text in x.reshape(-1).tolist()]
    return [np.array(found, np.bool_).reshape(x.shape)]


def _read_numbers(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """Cast from strings. Integers are cut off behind the point."""
    dtype = numpy_dtype(attributes["dtype"])
    (x,) = inputs
    read = float if dtype.kind == "f" or attributes["dtype"] == "bfloat16" else _integer
    numbers = np.array([read(text) for text in x.reshape(-1).tolist()])
    return [numbers.astype(dtype).reshape(x.shape)]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def _write_numbers(inputs: Sequence[Array], attributes: Attributes) -> list[Array]:
    """Cast to strings, as onnxruntime writes them: up to eight digits, NaN, INF."""
    (x,) = inputs
    return [strings_of([_written(number) for number in x.reshape(-1).tolist()], x.shape)]


def _written(number: float) -> str:
    if isinstance(number, int):  # truths as well
        return str(int(number))
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "INF" if number > 0 else "-INF"
    return f"{number:.8g}"


STEPS: dict[str, Operator] = {
    "constant": _constant,
    "reshape": _reshape,
    "take": _take,
    "concat": _concat,
    "normalize": _normalize,
    "tokenize": _tokenize,
    "split": _split,
    "join": _join,
    "full_match": _full_match,
    "read_numbers": _read_numbers,
    "write_numbers": _write_numbers,
    "decode_image": decode_image,
}
"""The operators of steps, by name."""
