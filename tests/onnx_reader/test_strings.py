"""Compiled models that take or give strings: called, saved, loaded, from C, and from the shell."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import SM80
from bessemer.frontends.compile_device import build_model_for_device
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.frontends.train.from_onnx import network_from_onnx
from bessemer.runtime.errors import ExecutionError, InputError
from bessemer.runtime.model import CompiledModel
from tests.command_line import run_command

_KEYS = ["zebra", "apple", "größe", "a", "b", ""]
_VALUES = ["animal", "fruit", "size", "letter", "letter", "nothing"]


_LABELS = helper.make_node(
    "LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml",
    keys_strings=_KEYS, values_strings=_VALUES, default_string="unknown",
)  # fmt: skip


def _save(folder: Path, nodes: list[onnx.NodeProto], x: Any, outputs: Mapping[str, int]) -> Path:
    graph = helper.make_graph(
        nodes,
        "labels",
        [helper.make_tensor_value_info("x", TensorProto.STRING, x)],
        [helper.make_tensor_value_info(name, code, None) for name, code in outputs.items()],
    )
    domains = (("", 18), ("ai.onnx.ml", 2), ("com.microsoft", 1))
    opsets = [helper.make_opsetid(*domain) for domain in domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "labels.onnx")
    return folder / "labels.onnx"


def _encoder(folder: Path) -> Path:
    """y: what kind of thing each word of x is; same: the words."""
    same = helper.make_node("Identity", ["x"], ["same"])
    return _save(
        folder, [_LABELS, same], ["n"], {"y": TensorProto.STRING, "same": TensorProto.STRING}
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    return bessemer.compile(_encoder(tmp_path_factory.mktemp("encoder")), threads=1, cache=False)


_ASKED = ["größe", "rock", "", "apple", "rock"]
_TOLD = ["size", "unknown", "nothing", "fruit", "unknown"]


def test_a_model_says_which_arrays_hold_strings(encoder: CompiledModel) -> None:
    assert "(x: string[n]) -> (y: string[n], same: string[n])" in repr(encoder)


@pytest.mark.parametrize("kind", [object, str, "utf-8", list])
def test_strings_go_in_in_any_form_and_come_out_as_str(encoder: CompiledModel, kind: Any) -> None:
    asked: Any = np.array(_ASKED, object if kind == "utf-8" else kind) if kind is not list else None
    if kind == "utf-8":
        asked = np.char.encode(np.array(_ASKED), "utf-8")
    labels, same = encoder.run({"x": _ASKED if asked is None else asked})
    assert labels.dtype == object and labels.tolist() == _TOLD
    assert same.tolist() == _ASKED and {type(text) for text in same} == {str}


def test_outputs_go_where_the_caller_wants(encoder: CompiledModel) -> None:
    out = np.empty(2, object)
    labels, _ = encoder.run([["a", "?"]], out={"y": out})
    assert labels is out and out.tolist() == ["letter", "unknown"]
    with pytest.raises(InputError, match="output 'y' is not an array of objects of shape"):
        encoder.run([["a", "?"]], out={"y": np.empty(3, object)})


def test_numbers_beside_strings_go_where_the_caller_wants(tmp_path: Path) -> None:
    nodes = [_LABELS, helper.make_node("Shape", ["x"], ["count"])]
    outputs = {"y": TensorProto.STRING, "count": TensorProto.INT64}
    model = bessemer.compile(_save(tmp_path, nodes, ["n"], outputs), threads=1, cache=False)
    out = {"y": np.empty(2, object), "count": np.zeros(1, np.int64)}
    found = model.run([["a", "?"]], out=out)
    assert all(one is other for one, other in zip(found, out.values(), strict=True))
    assert found[0].tolist() == ["letter", "unknown"] and found[1].tolist() == [2]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(2), "Input 'x' has dtype float64, expected strings"),
        (np.array(["a", None], object), "Input 'x' holds None, a NoneType; expected strings"),
        (np.array([b"\xff"], object), "which is not UTF-8"),
        ([["a"]], r"Input 'x' has shape \[1, 1\] of rank 2"),
    ],
)
def test_what_is_no_string_is_refused(encoder: CompiledModel, x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.run({"x": x})


def test_a_saved_model_takes_strings(encoder: CompiledModel, tmp_path: Path) -> None:
    encoder.save(tmp_path / "labels.so")
    loaded = bessemer.load(tmp_path / "labels.so")
    assert loaded.signature == encoder.signature
    assert loaded.run({"x": _ASKED})[0].tolist() == _TOLD


def test_the_cache_keeps_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path / "cache"))
    model = _encoder(tmp_path)
    for _ in range(2):
        assert bessemer.compile(model, threads=1).run([_ASKED])[0].tolist() == _TOLD


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_c_program_looks_strings_up(encoder: CompiledModel, tmp_path: Path) -> None:
    encoder.save(tmp_path / "labels.o")
    header = (tmp_path / "labels.h").read_text()
    assert "x: string [n] (int32_t, see string_id below)" in header
    source = Path(__file__).parents[1] / "programs" / "strings.c"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{tmp_path}"]
    libraries = ["-lm", "-lpthread"]
    program = tmp_path / "labels"
    subprocess.run(
        ["cc", *flags, source, tmp_path / "labels.o", "-o", program, *libraries], check=True
    )
    done = subprocess.run([program, *_ASKED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == _TOLD


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_what_a_header_says_of_strings_ends_no_comment(tmp_path: Path) -> None:
    node = helper.make_node(
        "Tokenizer", ["x"], ["y"], domain="com.microsoft",
        mark=0, mincharnum=1, pad_value="*/ ??/\n#error \\", tokenexp="[/*]+",
    )  # fmt: skip
    model = bessemer.compile(_save(tmp_path, [node], ["n"], {"y": TensorProto.STRING}), cache=False)
    model.save(tmp_path / "labels.o")
    assert model.run([["a/*b", "//"]])[0].tolist() == [["/*"], ["//"]]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
    subprocess.run(["cc", *flags, "-x", "c", tmp_path / "labels.h"], check=True)


def test_the_command_line_shows_strings(tmp_path: Path) -> None:
    model = _encoder(tmp_path)
    np.savez(tmp_path / "x.npz", x=np.array(["a", "b", "?"]))
    code, out, _ = run_command(
        "run", model, "--inputs", tmp_path / "x.npz", "--outputs", tmp_path / "y.npz"
    )
    assert code == 0 and "letter (2), unknown (1)" in out
    with np.load(tmp_path / "y.npz") as found:
        assert found["y"].tolist() == ["letter", "letter", "unknown"]
    code, out, _ = run_command("inspect", model)
    assert code == 0 and "x: string[n]" in out and "strings   12" in out
    code, out, _ = run_command("verify", model, "--quiet")
    assert code == 0 and "differs" not in out


_TEXTS = ["The cat sat on the cat", "a dog barked", "cats and dogs", "The dog sat", "birds sing"]
_KINDS = ["cat", "dog", "both", "dog", "bird"]


def _text_classifier(folder: Path) -> tuple[Path, CountVectorizer, LogisticRegression]:
    """scikit-learn's words, pairs of them and logistic regression, as its converter writes them."""
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"[a-zA-Z0-9_]+")
    counts = counter.fit_transform(_TEXTS)
    regression = LogisticRegression().fit(counts, _KINDS)
    grams = sorted(counter.vocabulary_, key=lambda gram: (gram.count(" "), gram))
    words = [gram for gram in grams if " " not in gram]
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["low"], case_change_action="LOWER"),
        helper.make_node(
            "Tokenizer", ["low"], ["words"], domain="com.microsoft",
            mark=0, mincharnum=1, pad_value="#", tokenexp="[a-zA-Z0-9_]+",
        ),
        helper.make_node(
            "TfIdfVectorizer", ["words"], ["counts"],
            mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=0,
            ngram_counts=[0, len(words)],
            ngram_indexes=[int(counter.vocabulary_[gram]) for gram in grams],
            pool_strings=[word for gram in grams for word in gram.split()],
        ),
        helper.make_node(
            "LinearClassifier", ["counts"], ["label", "scores"], domain="ai.onnx.ml",
            classlabels_strings=regression.classes_.tolist(), post_transform="SOFTMAX",
            coefficients=regression.coef_.reshape(-1).tolist(),
            intercepts=regression.intercept_.tolist(),
        ),
    ]  # fmt: skip
    outputs = {"label": TensorProto.STRING, "scores": TensorProto.FLOAT}
    return _save(folder, nodes, ["n"], outputs), counter, regression


def test_texts_are_classified_as_scikit_learn_does(tmp_path: Path) -> None:
    path, counter, regression = _text_classifier(tmp_path)
    model = bessemer.compile(path, threads=1, cache=False)
    model.save(tmp_path / "labels.so")
    texts = [*_TEXTS, "nothing of that", "THE CAT, the bird; the DOG"]
    counts: Array = counter.transform(texts)
    for one in (model, bessemer.load(tmp_path / "labels.so")):
        assert [info.name for info in one.inputs] == ["x"]
        label, scores = one.run({"x": texts})
        assert label.tolist() == regression.predict(counts).tolist()
        np.testing.assert_allclose(scores, regression.predict_proba(counts), rtol=1e-5, atol=1e-6)
    header = (tmp_path / "labels.h").read_text()
    assert "words = tokenize(low)" in header and "low = normalize(x)" in header
    assert '"expression": "[a-zA-Z0-9_]+", "least": 1, "mark": false, "pad": "#"' in header
    with pytest.raises(InputError, match=r"Input 'x' has shape \[1, 1\], expected \[n\]"):
        model.run([[["a"]]])


def test_the_run_decides_how_many_strings_there_are(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["numbers"], "reading", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["numbers"], ["are_not_zero"], to=TensorProto.BOOL),
        helper.make_node("Compress", ["x", "are_not_zero"], ["y"], axis=0),
    ]
    path = _save(tmp_path, nodes, ["n"], {"y": TensorProto.STRING})
    model = bessemer.compile(path, threads=1, cache=False)
    assert model.run([["1", "0", "-2.5", "0.0", "1e3"]])[0].tolist() == ["1", "-2.5", "1e3"]
    with pytest.raises(InputError, match=r"Cast 'reading': could not convert string to float: 'a'"):
        model.run([["1", "a"]])


@pytest.mark.parametrize("zeros", [0, 1])
def test_an_unknown_category_is_nothing_or_an_error(tmp_path: Path, zeros: int) -> None:
    node = helper.make_node(
        "OneHotEncoder", ["x"], ["y"], "encoder", domain="ai.onnx.ml",
        cats_strings=["a", "b"], zeros=zeros,
    )  # fmt: skip
    path = _save(tmp_path, [node], ["n"], {"y": TensorProto.FLOAT})
    model = bessemer.compile(path, threads=1, cache=False)
    np.testing.assert_array_equal(model.run([["b", "a"]])[0], [[0, 1], [1, 0]])
    assert model.run([[]])[0].shape == (0, 2)
    if zeros:
        np.testing.assert_array_equal(model.run([["b", "c"]])[0], [[0, 1], [0, 0]])
        return
    with pytest.raises(ExecutionError, match=r"OneHotEncoder 'encoder' \(which knows other"):
        model.run([["b", "c"]])


def test_what_cannot_be_done_with_strings_is_said(tmp_path: Path) -> None:
    model = _encoder(tmp_path)
    with pytest.raises(CompileError, match="takes or gives strings, which cannot be trained"):
        network_from_onnx(model)
    with pytest.raises(CompileError, match="labels takes or gives strings: such models are not"):
        write_onnx(as_graph(model))
    with pytest.raises(CompileError, match="labels: models with strings are not compiled for GPUs"):
        build_model_for_device(model, Options(), SM80)
