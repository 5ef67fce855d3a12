"""The words of texts, which are found in all texts at once where they are runs of letters."""

import re

import numpy as np
import pytest

from bessemer.runtime.artifact import ArrayInfo, Step
from bessemer.runtime.errors import InputError
from bessemer.runtime.preparation import prepare, strings_of
from bessemer.runtime.strings import Words

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


@pytest.mark.parametrize("texts", [(), ("aB", ""), TEXTS, ("A\0B", "c")])
def test_letters_change_as_one_by_one(texts: tuple[str, ...]) -> None:
    """A letter that becomes several letters stays."""
    texts = (*texts, "Stra\u00dfe") if texts == TEXTS else texts
    step = Step(
        "normalize", ("x",), ("y",), {"case": "UPPER", "stopwords": [], "sensitive": True}, "node"
    )
    found = prepare([step], {"x": strings_of(texts, (len(texts),))})["y"].tolist()
    assert found == ["STRA\u00dfE" if text == "Stra\u00dfe" else text.upper() for text in texts]


def test_strings_that_the_table_has_not_are_numbered_behind_it() -> None:
    info = ArrayInfo("x", "string", (5,))
    words = Words({"red": 0, "blue": 1}, strings_of(["red", "blue"], (2,)))
    given = strings_of(["green", "blue", "green", "", "red"], (5,))
    assert words.places(info, given).tolist() == [2, 1, 2, 3, 0]
    assert words.places(info, np.array([b"green", "sea"], object)).tolist() == [2, 4]
    assert words.texts(np.array([4, 2, 0])).tolist() == ["sea", "green", "red"]
    with pytest.raises(InputError, match="holds 3, a int"):
        words.places(info, np.array(["green", 3], object))
