"""The words of texts, which are found in all texts at once where they are runs of letters."""

import re

import pytest

from bessemer.runtime.artifact import Step
from bessemer.runtime.preparation import prepare, strings_of

TEXTS = ("one, two_3\n4", "", "\u00e4b\x85c\xa0d \u6f22e", " + a]b^c-d\\e", "x")
EXPRESSIONS = (
    r"[a-zA-Z0-9_]+", r"[\w.]+", r"[\d,]+", r"[a b]+", r"[a-]+", r"[^a]+", r"[a-z]+b", ".", r"\w+",
    "[\u00e4b]+", "[+*]+", r"[]b]+",
)  # fmt: skip


@pytest.mark.parametrize("texts", [(), TEXTS, ("a\0b", "c")], ids=["none", "some", "with a 0"])
def test_words_are_what_the_expression_finds(texts: tuple[str, ...]) -> None:
    given = {"x": strings_of(texts, (len(texts),))}
    for expression in EXPRESSIONS:
        attributes = {
            "expression": expression, "separators": [], "least": 1, "mark": False, "pad": "",
        }  # fmt: skip
        step = Step("tokenize", ("x",), ("y",), attributes, "node")
        found = prepare([step], given)["y"].tolist()
        wanted = [re.findall(expression, text, re.ASCII) for text in texts]
        assert [[*filter(None, row)] for row in found] == wanted, expression
