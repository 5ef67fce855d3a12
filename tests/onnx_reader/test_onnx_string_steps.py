"""Operators that make strings, or something of them, before a run, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, operators
from tests.onnx_reader.string_models import TEXTS, WORDS, one_node, string_model

_STEPS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "lower": (TensorProto.STRING, "StringNormalizer", {"case_change_action": "LOWER"}),
    "upper without stop words": (
        TensorProto.STRING,
        "StringNormalizer",
        {"case_change_action": "UPPER", "stopwords": ["the cat sat"], "is_case_sensitive": 0},
    ),
    "stop words as they are": (
        TensorProto.STRING,
        "StringNormalizer",
        {"stopwords": ["the cat sat", ""], "is_case_sensitive": 1},
    ),
    "words": (TensorProto.STRING, "Tokenizer", {"tokenexp": "[a-zA-Z0-9_]+"}),
    "characters": (TensorProto.STRING, "Tokenizer", {"tokenexp": "."}),
    "ASCII words": (TensorProto.STRING, "Tokenizer", {"tokenexp": "\\w+", "mark": 1}),
    "long words": (TensorProto.STRING, "Tokenizer", {"tokenexp": "\\w+", "mincharnum": 3}),
    "separators": (TensorProto.STRING, "Tokenizer", {"separators": [", ", "( )+"], "mark": 1}),
    "letters": (TensorProto.STRING, "Tokenizer", {"separators": [""]}),
    "full match": (TensorProto.BOOL, "RegexFullMatch", {"pattern": "[a-z]+( \\w+,?)*"}),
}


@pytest.mark.parametrize("case", _STEPS)
def test_strings_are_made_before_the_run(case: str) -> None:
    kind, operator, attributes = _STEPS[case]
    domain = ""
    if operator == "StringNormalizer":
        attributes = {"locale": "C", **attributes}
    if operator == "Tokenizer":
        domain = "com.microsoft"
        attributes = {"mark": 0, "mincharnum": 1, "pad_value": "#", **attributes}
    texts = TEXTS[:3] if operator == "StringNormalizer" else TEXTS
    model = one_node(operator, texts, kind, domain, 20, **attributes)
    graph = read_onnx(model)
    assert graph.strings is not None and len(graph.strings.steps) == 1 and not graph.nodes
    agrees(model, {"x": texts}, graph)


@pytest.mark.parametrize(
    "attributes", [{}, {"delimiter": ","}, {"delimiter": " ", "maxsplit": 1}, {"maxsplit": 1}]
)
def test_strings_are_split(attributes: dict[str, Any]) -> None:
    """Of an empty string onnxruntime gives no piece, ONNX's own evaluator an empty one."""
    texts = TEXTS if not attributes.get("delimiter") else TEXTS[[0, 1, 3]]
    node = helper.make_node("StringSplit", ["x"], ["y", "count"], **attributes)
    outputs = {"y": TensorProto.STRING, "count": TensorProto.INT64}
    agrees(string_model([node], {"x": texts}, outputs, opset=20), {"x": texts})


def test_strings_are_joined_and_looked_up() -> None:
    nodes = [
        helper.make_node("StringConcat", ["x", "dash"], ["a"]),
        helper.make_node("StringConcat", ["a", "x"], ["b"]),
        helper.make_node("Equal", ["b", "wanted"], ["same"]),
    ]
    constants = {"dash": np.array("-", object), "wanted": np.array("red-red", object)}
    outputs = {"b": TensorProto.STRING, "same": TensorProto.BOOL}
    agrees(string_model(nodes, {"x": WORDS}, outputs, constants, opset=20), {"x": WORDS})


@pytest.mark.parametrize("code", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64])
def test_strings_are_read_as_numbers(code: int) -> None:
    texts = ["1", "-3"] if code == TensorProto.INT64 else ["1", "-2.5e1", "NaN", "INF", "-INF"]
    x = np.array(texts, object)
    agrees(one_node("Cast", x, code, to=code), {"x": x})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_numbers_are_written_as_strings(dtype: type[np.generic]) -> None:
    x = np.array([0, 1, 2.5, 1 / 3, 1e20, 1e-7] if dtype in (np.float32, np.float64) else [0, 1])
    x = np.append(x, [np.nan, np.inf, -np.inf]) if np.issubdtype(dtype, np.floating) else x
    agrees(one_node("Cast", x.astype(dtype), to=TensorProto.STRING), {"x": x.astype(dtype)})


def test_what_is_constant_is_made_while_reading() -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value_strings=["x", "y"]),
        helper.make_node("Constant", [], ["b"], value_string="1"),
        helper.make_node("StringConcat", ["a", "b"], ["c"]),
        helper.make_node("Gather", ["c", "place"], ["d"]),
    ]
    place = np.array([1, 0, 1], np.int64)
    model = string_model(nodes, {"place": place}, {"d": TensorProto.STRING}, opset=20)
    graph = read_onnx(model)
    assert graph.strings is not None and not graph.strings.steps
    agrees(model, {"place": place}, graph)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 3)])
def test_n_grams_of_words(mode: str, skip: int, sizes: tuple[int, int]) -> None:
    """Rows are as long as the longest text has words: the run decides."""
    pool = ["cat", "sat", "bat", "a", "cat", "cat", "a", "the", "cat", "sat"]
    nodes = [
        helper.make_node(
            "StringNormalizer", ["x"], ["low"], case_change_action="LOWER", locale="C"
        ),
        helper.make_node(
            "Tokenizer", ["low"], ["words"], domain="com.microsoft",
            mark=0, mincharnum=1, pad_value="#", tokenexp="[a-z]+",
        ),
        helper.make_node(
            "TfIdfVectorizer", ["words"], ["y"],
            mode=mode, min_gram_length=sizes[0], max_gram_length=sizes[1], max_skip_count=skip,
            ngram_counts=[0, 3, 7], ngram_indexes=[5, 1, 0, 2, 4, 3], pool_strings=pool,
            weights=[1.0, 2.0, 0.5, 3.0, 1.5, 0.25],
        ),
    ]  # fmt: skip
    model = string_model(nodes, {"x": TEXTS}, {"y": TensorProto.FLOAT})
    for texts in (TEXTS[:3], np.array(["cat", "a", "zebra"], object)):
        agrees(model, {"x": texts})


def test_an_n_gram_that_is_listed_twice_is_refused() -> None:
    words: dict[str, Any] = {
        "ngram_counts": [0],
        "ngram_indexes": [0, 1],
        "pool_strings": ["a", "a"],
    }
    model = one_node(
        "TfIdfVectorizer", TEXTS, TensorProto.FLOAT,
        mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0, **words,
    )  # fmt: skip
    with pytest.raises(CompileError, match=r"TfIdfVectorizer 'y'.*listed twice"):
        read_onnx(model)


def test_steps_follow_moves_of_what_the_caller_gives() -> None:
    """One column of a matrix is taken and flattened before its texts are split into words."""
    nodes = [
        helper.make_node("Gather", ["x", "place"], ["column"], axis=1),
        helper.make_node("Reshape", ["column", "flat"], ["texts"]),
        helper.make_node("StringSplit", ["texts"], ["y", "count"]),
    ]
    constants = {"place": np.array([1], np.int64), "flat": np.array([-1], np.int64)}
    x = np.array([["q", "a b"], ["r", "c"]], object)
    outputs = {"y": TensorProto.STRING, "count": TensorProto.INT64}
    model = string_model(nodes, {"x": x}, outputs, constants, opset=20)
    graph = read_onnx(model)
    assert [value.name for value in graph.inputs] == ["y", "count"] and operators(graph) == []
    agrees(model, {"x": x}, graph)


def test_strings_that_the_run_finds_cannot_be_changed() -> None:
    nodes = [
        helper.make_node("Gather", ["names", "place"], ["found"]),
        helper.make_node("StringConcat", ["found", "found"], ["twice"], "doubling"),
    ]
    place = np.array([1], np.int64)
    constants = {"names": np.array(["a", "b"], object)}
    model = string_model(
        nodes, {"place": place}, {"twice": TensorProto.STRING}, constants, opset=20
    )
    with pytest.raises(UnsupportedError, match=r"StringConcat 'doubling'.*before the model"):
        read_onnx(model)


def test_an_operator_that_cannot_take_strings_says_so() -> None:
    nodes = [
        helper.make_node("StringSplit", ["x"], ["y", "count"]),
        helper.make_node("Unique", ["y"], ["z"], "once"),
    ]
    model = string_model(nodes, {"x": TEXTS}, {"z": TensorProto.STRING}, opset=20)
    with pytest.raises(UnsupportedError, match=r"Unique 'once'.*input 0 holds strings"):
        read_onnx(model)


def test_a_string_with_a_zero_byte_is_refused() -> None:
    model = one_node("OneHotEncoder", WORDS, TensorProto.FLOAT, "ai.onnx.ml", cats_strings=["a\0b"])
    with pytest.raises(CompileError, match=r"OneHotEncoder 'y'.*zero byte"):
        read_onnx(model)


@pytest.mark.parametrize("pattern", ["(a", r"(?u)\w"])
def test_a_wrong_regular_expression_is_refused(pattern: str) -> None:
    """Also one with a flag that RE2, whose syntax it is, does not know."""
    model = one_node("RegexFullMatch", TEXTS, TensorProto.BOOL, opset=20, pattern=pattern)
    with pytest.raises(CompileError, match=r"RegexFullMatch 'y'.*regular.* cannot be read") as told:
        read_onnx(model)
    assert repr(pattern) in str(told.value)
