"""Data that training cannot use is refused by name and row; odd numbers of rows are no trouble."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder import BatchNorm, Dense, Embedding, Input, Network, Sequential, relu
from bessemer.frontends.train.batches import Augmentation
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.normalization import Normalization
from bessemer.frontends.train.optimizers import SGD, Adam
from bessemer.frontends.train.trainer import Trainer, TrainingError
from tests.command_line import run_command

Arrays = dict[str, np.ndarray[Any, Any]]
LABEL = [Input("label", ("batch",), "i64")]


def _data(rows: int = 20) -> Arrays:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((rows, 5), np.float32), "label": rng.integers(0, 3, rows)}


def _trainer(normed: bool = False, batch: int | str = "batch", **options: Any) -> Trainer:
    norm = [BatchNorm()] if normed else []
    network = Network(Sequential(Dense(8), *norm, relu, Dense(3)), Input("x", (batch, 5)))
    target = [Input("label", (batch,), "i64")]
    return Trainer(network, cross_entropy, target, optimizer=Adam(0.01), threads=1, **options)


def _with(name: str, row: int, value: float) -> Arrays:
    data = _data()
    data[name][row] = value
    return data


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a class too many": (
        _with("label", 7, 3),
        {},
        "label must lie between 0 and 2, but row 7 has 3",
    ),
    "a negative class": (_with("label", 4, -1), {}, "row 4 has -1 .1 of 20 rows"),
    "another integer": (
        _data() | {"label": _data()["label"].astype(np.uint8)},
        {},
        r"label is uint8\[20\]; it must be i64\[batch\]. Convert it with .astype",
    ),
    "labels as a column": (
        _data() | {"label": np.zeros((20, 1), int)},
        {},
        r"label is int64\[20, 1\]",
    ),
    "float64": (_data() | {"x": np.zeros((20, 5))}, {}, r"x is float64.*astype\('float32'\)"),
    "another width": (_data() | {"x": np.zeros((20, 6), np.float32)}, {}, r"x is float32\[20, 6\]"),
    "a list": (_data() | {"label": [0] * 20}, {}, "label is a list; it must be an array"),
    "a number": (_data() | {"x": np.float32(1)}, {}, "x is a float32; it must be an array"),
    "text": (_data() | {"label": np.array(["cat"] * 20)}, {}, "label is <U3"),
    "nothing": (_data(0), {}, "no rows"),
    "NaN": (_with("x", 11, np.nan), {}, "x has NaN in 1 of 20 rows, row 11 first"),
    "too much validation": (_data(), {"validation": 0.99}, "leaves none to learn from"),
    "a pair for a share": (_data(), {"validation": (1, 2)}, "share kept for validation is .1, 2."),
    "endless epochs": (_data(), {"epochs": float("inf")}, "epochs is inf; whole numbers"),
    "half an epoch": (_data(), {"epochs": 1.5}, "epochs is 1.5; whole numbers"),
    "a whole for a share": (_data(), {"validation": 1}, "share kept for validation is 1"),
    "NaN in validation": (_data(), {"validation": _with("x", 3, np.nan)}, "row 3 first"),
    "a class too many in validation": (
        _data(),
        {"validation": _with("label", 2, 9)},
        "row 2 has 9",
    ),
    "validation without labels": (_data(), {"validation": {"x": _data()["x"]}}, "no label"),
    "a batch of none": (_data(), {"batch": 0}, "one at least, not 0"),
    "a batch of a half": (_data(), {"batch": 0.5}, "one at least, not 0.5"),
    "a batch of floats": (_data(), {"batch": 4.0}, "one at least, not 4.0"),
    "patience": (_data(), {"patience": -1}, "patience is -1; whole numbers"),
    "epochs": (_data(), {"epochs": -1}, "epochs is -1; whole numbers"),
    "augmentation of nothing": (
        _data(),
        {"augmentation": Augmentation("image", noise=1)},
        "no image to augment",
    ),
    "a row as an image": (
        _data(),
        {"augmentation": Augmentation("x", shift=1)},
        "no images to shift",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_does_not_fit_is_refused_before_anything_is_compiled(name: str) -> None:
    data, options, text = REFUSED[name]
    trainer = _trainer()
    before = {each: array.copy() for each, array in trainer.state.items()}
    with pytest.raises(CompileError, match=text):
        trainer.fit(data, **{"epochs": 1, "batch": 8, **options})
    assert not trainer._models
    for each, array in trainer.state.items():
        np.testing.assert_array_equal(array, before[each])


def test_a_single_step_and_an_evaluation_refuse_wrong_classes_too() -> None:
    trainer = _trainer()
    with pytest.raises(CompileError, match="row 7 has 3"):
        trainer.step(_with("label", 7, 3))
    with pytest.raises(CompileError, match="row 4 has -1"):
        trainer.evaluate(_with("label", 4, -1))
    assert trainer.steps == 0


@pytest.mark.parametrize(
    ("x", "text"),
    [
        ([[0.0] * 5], "x is a list; it must be an array"),
        (np.zeros((4, 5)), r"x is float64\[4, 5\]; it must be f32\[batch,5\]. Convert it"),
        (np.zeros((4, 6), np.float32), r"x is float32\[4, 6\]; it must be f32\[batch,5\]"),
    ],
)
def test_what_cannot_be_predicted_from_is_refused(x: Any, text: str) -> None:
    with pytest.raises(CompileError, match=text):
        _trainer().predict({"x": x})


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(CompileError, match="The batch's x has no rows"):
        _trainer().step(_data(0))


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (Adam, "make one, such as Adam"),
        ("adam", "The optimizer is 'adam'"),
        (SGD(-0.1), "learning rate is -0.1"),
        (SGD(float("nan")), "learning rate is nan"),
    ],
)
def test_what_is_no_optimizer_is_refused(optimizer: Any, text: str) -> None:
    network = Network(Dense(3), Input("x", ("batch", 5)))
    with pytest.raises(CompileError, match=text):
        Trainer(network, cross_entropy, LABEL, optimizer=optimizer)


def test_numbers_may_be_numpy_s() -> None:
    number: Any = np.float32(0.25)
    network = Network(Dense(3), Input("x", ("batch", 5)))
    trainer = Trainer(network, cross_entropy, LABEL, optimizer=SGD(number), threads=1)
    trainer.fit(_data(), validation=number, epochs=np.int64(2), batch=np.int64(5))  # type: ignore[arg-type]
    assert trainer.steps == 6


def test_a_loss_and_a_metric_must_take_the_outputs_and_the_targets() -> None:
    network = Network(Dense(3), Input("x", ("batch", 5)))
    text = "loss is called with 1 outputs of the network and 0 targets: missing a required .*labels"
    with pytest.raises(CompileError, match=text):
        Trainer(network, cross_entropy, [])
    with pytest.raises(CompileError, match=r"metric size is called with 1 outputs .* 1 targets"):
        Trainer(network, cross_entropy, LABEL, metrics={"size": lambda y: y.mean()})


def test_metrics_are_numbers_with_names_of_their_own() -> None:
    with pytest.raises(CompileError, match=r"right is .*; it must be one number"):
        _trainer(metrics={"right": lambda y, label: y.max(-1)})
    with pytest.raises(CompileError, match="cannot take the name loss"):
        _trainer(metrics={"loss": lambda y, label: y.max()})


def test_an_epoch_goes_on_with_the_same_batches_only(tmp_path: Path) -> None:
    def stop(done: int, each: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    file = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        _trainer().fit(_data(), batch=4, checkpoint=file, progress=stop)
    for rows, batch in ((20, 5), (8, 4), (20, 20), (11, 4)):
        with pytest.raises(CompileError, match=f"3 batches of 4 rows .* {rows} rows .* of {batch}"):
            _trainer().fit(_data(rows), batch=batch, checkpoint=file)
    assert _trainer().fit(_data(), epochs=2, batch=4, checkpoint=file).epoch == 2
    assert _trainer().fit(_data(), epochs=3, batch=5, checkpoint=file).epoch == 3


def test_a_class_that_the_network_makes_up_leaves_the_state_alone() -> None:
    """What a C library does with wrong labels: no check there but that of the loss."""
    network = Network(Dense(3), Input("x", ("batch", 5)))
    trainer = Trainer(
        network, lambda y, label: cross_entropy(y, label + 1), LABEL, optimizer=SGD(0.1), threads=1
    )
    data = _data()
    before = trainer.state["weight"].copy()
    with pytest.raises(TrainingError, match="The first NaN came from operator select, in the loss"):
        trainer.step(data | {"label": np.full(20, 2)})
    np.testing.assert_array_equal(trainer.state["weight"], before)


def test_words_beyond_the_vocabulary_are_refused() -> None:
    network = Network(Sequential(Embedding(6, 4), Dense(3)), Input("tokens", ("batch", 7), "i64"))
    trainer = Trainer(network, cross_entropy, [Input("next", ("batch", 7), "i64")], threads=1)
    tokens = np.zeros((4, 7), np.int64)
    tokens[2, 5] = 6
    with pytest.raises(CompileError, match="tokens must lie between 0 and 5, but row 2 has 6"):
        trainer.fit({"tokens": tokens, "next": np.zeros((4, 7), np.int64)})


@pytest.mark.parametrize(("rows", "batch"), [(17, 8), (3, 8), (1, 8), (20, 19)])
@pytest.mark.parametrize("normed", [False, True])
def test_the_last_batch_may_be_small(rows: int, batch: int, normed: bool) -> None:
    """Also a single row behind batch norm. Every row counts once in an epoch's loss."""
    data, trainer = _data(rows), _trainer(normed)
    history = trainer.fit(data, epochs=2, batch=batch)
    assert trainer.steps == 2 * -(-rows // batch)
    assert all(np.isfinite(array).all() for array in trainer.state.values())
    sizes = [min(batch, rows - start) for start in range(0, rows, batch)]
    mean = np.dot(sizes, history.losses[: len(sizes)]) / rows
    assert history.epochs["loss"][0] == pytest.approx(mean, rel=1e-6)
    (logits,) = bessemer.compile(trainer.network).run({"x": data["x"]})
    top = logits.max(1, keepdims=True)
    shares = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    loss = -shares[np.arange(rows), data["label"]].mean()
    assert trainer.evaluate(data, batch=batch)["loss"] == pytest.approx(loss, rel=1e-5)


def test_a_single_row_says_nothing_about_the_variance() -> None:
    data, trainer = _data(), _trainer(normed=True)
    trainer.step(data)
    before = {name: array.copy() for name, array in trainer.state.items()}
    trainer.step({name: array[:1] for name, array in data.items()})
    kept, moved = (f"batchnorm1.running_{kind}" for kind in ("variance", "mean"))
    np.testing.assert_array_equal(trainer.state[kept], before[kept])
    assert (trainer.state[moved] != before[moved]).all()


def test_a_network_of_fixed_batches_says_so() -> None:
    trainer = _trainer(batch=8)
    with pytest.raises(CompileError, match=r"x is f32\[8,5\], batches of 8 rows, but 20 rows come"):
        trainer.fit(_data(), batch=8)
    trainer.fit(_data(16), batch=8)
    assert trainer.steps == 2


def _wide(rows: int = 60) -> Arrays:
    """Features of very different sizes, one of them always the same."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, 4)) * [1e-2, 1.0, 1e3, 0.0] + [5.0, -2.0, 1e4, 3.0]
    return {"x": x.astype(np.float32), "label": rng.integers(0, 3, rows)}


@pytest.mark.parametrize("kind", ["standard", "range"])
def test_normalization_is_fitted_on_the_training_rows(kind: Any, tmp_path: Path) -> None:
    data, file = _wide(), tmp_path / "state"
    layers = Sequential(hidden=Dense(6, relu), last=Dense(3))
    network = Network(layers, Input("x", ("batch", 4)), outputs=["logits"])

    def made() -> Trainer:
        given = Normalization("x", kind)
        return Trainer(network, cross_entropy, LABEL, optimizer=Adam(0.01), normalization=given)

    trainer = made()
    held = {name: array[:15] * 1 for name, array in data.items()}
    held["x"][:] = 1e6  # would spoil the fit
    rest = {name: array[15:] for name, array in data.items()}
    trainer.fit(rest, epochs=2, batch=16, validation=held, checkpoint=file)
    assert {"hidden.weight", "last.bias"} <= trainer.state.keys()  # names stay
    x = rest["x"].astype(np.float64)
    center, width = (x.mean(0), x.std(0)) if kind == "standard" else (x.min(0), np.ptp(x, 0))
    width[3] = 1.0
    np.testing.assert_allclose(trainer.state["normalization.x.center"], center, rtol=1e-5)
    np.testing.assert_allclose(trainer.state["normalization.x.scale"], 1 / width, rtol=1e-4)
    # The exported network takes raw numbers.
    weights = {name: array.astype(np.float64) for name, array in trainer.state.items()}
    hidden = np.maximum((x - center) / width @ weights["hidden.weight"] + weights["hidden.bias"], 0)
    wanted = hidden @ weights["last.weight"] + weights["last.bias"]
    (found,) = bessemer.compile(trainer.network).run({"x": rest["x"]})
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    # A checkpoint brings the numbers back, whatever the data is now.
    again = made()
    again.fit({"x": rest["x"] * 0, "label": rest["label"]}, epochs=3, batch=16, checkpoint=file)
    for part in ("center", "scale"):
        name = f"normalization.x.{part}"
        np.testing.assert_array_equal(again.state[name], trainer.state[name])


def test_images_are_normalized_by_channel() -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((30, 2, 3, 3)) * [[[[10.0]], [[1.0]]]]).astype(np.float32)
    network = Network(lambda x: x.mean((1, 2, 3)), Input("image", ("batch", 2, 3, 3)))
    around = Normalization("image").around(network)
    found = Normalization("image").fitted(around, {"image": image})
    center = found["normalization.image.center"]
    assert center.shape == (2, 1, 1)
    np.testing.assert_allclose(center[:, 0, 0], image.mean((0, 2, 3)), rtol=1e-5)
    scale = found["normalization.image.scale"][:, 0, 0]
    np.testing.assert_allclose(scale, 1 / image.std((0, 2, 3)), rtol=1e-5)


def test_a_normalization_that_cannot_be_is_refused() -> None:
    network = Network(Dense(1), Input("x", ("batch", 4)))
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("y", {}, "no input y"),
        ("x", {"kind": "unit"}, "not 'unit'"),
        ("x", {"axis": 0}, "axis 0 is none"),
    )
    for name, options, text in cases:
        with pytest.raises(CompileError, match=text):
            Normalization(name, **options).around(network)


TOML = """
[network]
python = "net.py:make"
[data]
file = "data.npz"
{data}
[training]
epochs = 2
batch = 16
{training}
[optimizer]
name = "sgd"
{more}
"""
MODULE = """
from bessemer.frontends.builder import Dense, Input, Network, Sequential
def make(seed=0):
    return Network(Sequential(last=Dense(3)), Input("x", ("batch", 4)), seed=seed)
"""
WRONG: dict[str, tuple[Arrays, dict[str, str], str]] = {
    "class": ({"label": np.full(60, 3)}, {}, "label must lie between 0 and 2, but row 0 has 3"),
    "float": ({"label": np.zeros(60, np.float32)}, {}, "cross_entropy"),
    "width": ({"x": np.zeros((60, 3), np.float32)}, {}, "x is float32[60, 3]"),
    "NaN": ({"x": np.full((60, 4), np.nan, np.float32)}, {}, "NaN in 60 of 60 rows"),
    "rows": ({"label": np.zeros(59, int)}, {}, "different numbers of rows"),
    "empty": ({"x": np.zeros((0, 4), np.float32), "label": np.zeros(0, int)}, {}, "no rows"),
    "share": ({}, {"data": "validation = 1.5"}, "lies between 0 and 1"),
    "batch": ({}, {"training": "patience = 'x'"}, "is not of type int"),
    "nested metrics": ({}, {"training": "metrics = [['accuracy']]"}, "there is no ['accuracy']"),
    "seed": ({}, {"training": "seed = -3"}, "seed is -3; whole numbers from 0 on"),
    "smoothing": ({}, {"training": "smoothing = 3.0"}, "share from 0 to 1, not 3.0"),
    "shift": ({}, {"more": "[augmentation]\ninput = 'x'\nshift = 'two'"}, "shift is 'two'; whole"),
    "momentum": ({}, {"more": "momentum = -1.0"}, "momentum is -1.0; numbers from 0 to 1"),
    "group": ({}, {"more": "groups = { '*.bais' = 'frozen' }"}, "no parameter to move"),
    "decay": ({}, {"more": "groups = { '*' = { decay = 1 } }"}, "has no decay; it takes"),
    "accumulation": ({}, {"training": "accumulation = 0"}, "accumulation is 0; whole numbers"),
    "total": ({}, {"more": "[schedule]\nname = 'cosine'\ntotal = 0"}, "total is 0; whole numbers"),
    "normalization": ({}, {"more": "[normalization]\ninput = 'image'"}, "no input image"),
    "kind": ({}, {"more": "[normalization]\ninput = 'x'\nkind = 'unit'"}, "not 'unit'"),
    "key": ({}, {"more": "[normalization]\ninputs = 'x'"}, "has no inputs; it takes input"),
    "augmentation": ({}, {"more": "[augmentation]\ninput = 'x'\nflip = true"}, "no images to"),
}


def _write(folder: Path, arrays: Arrays, texts: dict[str, str]) -> Path:
    np.savez(folder / "data.npz", **(_wide() | arrays))  # type: ignore[arg-type]
    (folder / "net.py").write_text(MODULE)
    text = TOML.format(**({"data": "", "training": "", "more": ""} | texts))
    (folder / "net.toml").write_text(text)
    return folder / "net.toml"


@pytest.mark.parametrize("name", WRONG)
def test_the_command_refuses_data_that_does_not_fit(name: str, tmp_path: Path) -> None:
    arrays, texts, expected = WRONG[name]
    code, _, err = run_command("train", _write(tmp_path, arrays, texts))
    assert code == 1
    assert expected.replace(" ", "") in err.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
def test_the_command_takes_labels_of_any_integer_type(dtype: str, tmp_path: Path) -> None:
    labels = {"label": _wide()["label"].astype(dtype)}
    code, _, err = run_command("train", _write(tmp_path, labels, {}), "-q")
    assert code == 0, err


def test_the_command_normalizes(tmp_path: Path) -> None:
    texts = {"more": "[normalization]\ninput = 'x'\n", "data": "validation = 0.25"}
    file, result = _write(tmp_path, {}, texts), tmp_path / "net.safetensors"
    code, _, err = run_command("train", file, "-o", result, "-q")
    assert code == 0, err
    center = load_file(result)["normalization.x.center"]
    whole = _wide()["x"].mean(0)
    np.testing.assert_allclose(center, whole, rtol=0.2)
    assert (np.abs(center - whole)[:3] > 0).all()  # not of all rows
