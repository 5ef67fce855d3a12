"""What is wrong in a call of the Python interface is said with what would be right."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.frontends import builder as nn
from bessemer.frontends import zoo
from bessemer.frontends.byte_count import byte_count
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.random_inputs import random_arrays
from bessemer.frontends.train.batches import Augmentation
from bessemer.frontends.train.losses import mean_squared_error
from bessemer.frontends.train.optimizers import SGD, Adam
from bessemer.frontends.train.schedules import cosine, exponential, steps
from bessemer.frontends.train.step import Regularization
from bessemer.frontends.train.trainer import Trainer
from bessemer.runtime.artifact import ArrayInfo
from bessemer.runtime.errors import ArtifactError, ExecutionError, InputError
from tests.onnx_check import parsed

HALF: Any = 0.5
FOUR: Any = 4
TEXT: Any = "relu"
NOTHING: Any = None
MINUS_ONE: Any = np.int64(-1)
PAIR: Any = (1, 2)
RELU = "g (float[n] x) => (float[n] y) { y = Relu (x) }"


@pytest.mark.parametrize("size", [-3, "3", 2.5, None])
def test_a_size_is_a_number_that_is_not_negative(size: Any) -> None:
    with pytest.raises(bessemer.CompileError, match=r"dims: 'n' is .*; a size is a number"):
        bessemer.compile(parsed(RELU), dims={"n": size})


def test_a_size_may_be_one_of_numpy_s() -> None:
    model = bessemer.compile(parsed(RELU), dims={"n": np.int64(3)})  # type: ignore[dict-item]
    assert model.inputs[0].shape == (3,)


def test_an_output_that_would_have_less_than_nothing_is_told() -> None:
    text = """g (float[n] x) => (float[m] y) {
        pads = Constant <value = int64[2] {-2, -1}> ()
        y = Pad (x, pads)
    }"""
    model = bessemer.compile(parsed(text), threads=1, cache=False)
    assert model.run([np.ones(3, np.float32)])[0].shape == (0,)
    with pytest.raises(InputError, match=r"n=2.*output 'y' would have the shape \(-1,\)"):
        model.run([np.ones(2, np.float32)])


WITHIN = {
    "GatherElements": "y = GatherElements <axis = 1> (x, at)",
    "ScatterElements": "y = ScatterElements <axis = 1> (x, at, u)",
}


@pytest.mark.parametrize("name", WITHIN)
def test_indices_beyond_the_data_are_told(name: str) -> None:
    shape = "(float[n, 4] x, int64[m, 2] at, float[m, 2] u) => (float[k, l] y)"
    text = f"g {shape} {{ {WITHIN[name]} }}"
    given = parsed(text, opset=24)
    model = bessemer.compile(given, threads=1, cache=False)
    x = np.ones((3, 4), np.float32)
    for rows in (0, 3):
        model.run([x, np.zeros((rows, 2), np.int64), np.ones((rows, 2), np.float32)])
    with pytest.raises(ExecutionError, match="along all axes but 1"):
        model.run([x, np.zeros((4, 2), np.int64), np.ones((4, 2), np.float32)])
    with pytest.raises(bessemer.CompileError, match="along another axis than 1"):
        bessemer.compile(given, dims={"n": 3, "m": 4})


CONTRADICTIONS = {
    "size of Expand": ("(float[n, 4] x) <int64[2] s = {-3, 4}> { y = Expand (x, s) }", "-3 is neg"),
    "size of ConstantOfShape": (
        "(float[n, 4] x) <int64[2] s = {-2, 3}> { z = ConstantOfShape (s) y = Add (z, z) }",
        "-2 is negative",
    ),
    "counts of Tile": (
        "(float[n, 4] x) <int64[2] s = {1099511627776, 1024}> { y = Tile (x, s) }",
        "more than the 64 that are allowed",
    ),
    "depth of OneHot": (
        "(int64[n] x) <int64 d = {-3}, float[2] v = {0, 1}> { y = OneHot (x, d, v) }",
        "-3 is negative",
    ),
    "step of Range": (
        "(int64 x) <int64 a = {0}, int64 s = {0}> { y = Range (a, x, s) }",
        "the step is 0",
    ),
    "bias of Gemm": (
        """(float[n, 2] x) <float[2, 3] w = {0, 0, 0, 0, 0, 0}, float[2, 1] b = {0, 0},
            float[1, 4] c = {0, 0, 0, 0}> { z = Gemm (x, w, b) y = Gemm (x, w, c) }""",
        "sizes 3 and 4 do not broadcast",
    ),
    "axis of QuantizeLinear": (
        "(float[n, 4] x) <float[3] s = {1, 1, 1}> { y = QuantizeLinear <axis = 4> (x, s) }",
        "axis 4 is not among the 2",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_node_whose_numbers_cannot_be_is_told(name: str) -> None:
    text, told = CONTRADICTIONS[name]
    given, body = text.split(")", 1)
    with pytest.raises(bessemer.CompileError, match=told):
        read_onnx(parsed(f"g {given}) => (y) {body}"))


def test_an_update_of_other_samples_is_told() -> None:
    shapes = "(float[n, 4] x, float[m, 2] u) => (float[k, l] y)"
    given = parsed(f"g {shapes} {{ y = TensorScatter <axis = 1> (x, u) }}", opset=24)
    model = bessemer.compile(given, threads=1, cache=False)
    with pytest.raises(InputError, match="axis 0 is 2, not n, which is 3"):
        model.run([np.ones((3, 4), np.float32), np.ones((2, 2), np.float32)])
    with pytest.raises(bessemer.CompileError, match="must be equal"):
        bessemer.compile(given, dims={"n": 3, "m": 4})


@pytest.mark.parametrize("model", [3, None, ["a.onnx"]])
def test_what_is_no_model_is_told_what_one_is(model: Any) -> None:
    with pytest.raises(bessemer.CompileError, match=r"A model is a path, .* not (int|None|list)"):
        bessemer.compile(model)


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "numbers for an array": ({"values": {"x": [1.0, 2.0]}}, "'x' is a list, not a NumPy array"),
    "a folder for a cache": ({"cache": "folder"}, "BESSEMER_CACHE_DIR names a folder"),
    "choices for their file": ({"tuning": {"a": 1}}, "not the name of a file"),
    "sizes without a limit": ({"sizes": {"n": 3}}, "dims fixes sizes"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_means_something_else_is_told(name: str) -> None:
    arguments, told = ARGUMENTS[name]
    with pytest.raises(bessemer.CompileError, match=told):
        bessemer.compile(parsed(RELU), **arguments)


class _Exported:
    """What torch.onnx.export returns has its model as an attribute."""

    model_proto = None


def test_a_model_of_another_library_is_told_its_way_here() -> None:
    module = type("Module", (), {"__module__": "torch.nn.modules.module"})
    wrong: list[tuple[Any, str]] = [
        (type("Network", (module,), {})(), r"torch\.onnx\.export\(model"),
        (_Exported(), "Give its model_proto"),
        (io.BytesIO(), r"what read\(\) returns"),
    ]
    for model, advice in wrong:
        with pytest.raises(bessemer.CompileError, match=advice):
            bessemer.compile(model, cache=False)


def test_the_calls_of_other_runtimes_are_told_ours() -> None:
    """Names of outputs first, None for all of them, names as keywords, a dict to `model`."""
    model: Any = bessemer.compile(parsed(RELU), threads=1)
    x = np.ones(3, np.float32)
    with pytest.raises(InputError, match=r"NoneType.* such as run\(\{'x': array\}\)"):
        model.run(None, {"x": x})
    with pytest.raises(InputError, match=r"'x' is a str, .*run\(\{'x': array\}\)"):
        model.run(["y"], {"x": x})
    with pytest.raises(InputError, match=r"'x' is a dict, .*model\(x=array\)"):
        model({"x": x})
    with pytest.raises(TypeError, match=r"no argument 'x'; .* run\(\{'x': array\}\)"):
        model.run(x=x)
    assert model(x=x).shape == model.run(inputs=[x])[0].shape == (3,)


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_tuning_takes_seconds(seconds: float) -> None:
    with pytest.raises(bessemer.CompileError, match=r"tune=.* is not a number of seconds"):
        bessemer.compile(parsed(RELU), tune=seconds, cache=False)


def test_a_folder_is_no_artifact() -> None:
    for path in (".", "/"):
        with pytest.raises(ArtifactError, match="directory"):
            bessemer.load(path)


def test_who_copies_a_model_is_told_to_save_it() -> None:
    model = bessemer.compile(parsed(RELU))
    for copied in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match="save it, and load the file"):
            copied(model)


def test_a_node_that_cannot_be_is_told_with_what_goes_into_it(tmp_path: Path) -> None:
    weights: Array = np.zeros((64, 9), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 63])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 9])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(bessemer.CompileError) as error:
        bessemer.compile(model)
    lines = str(error.value).splitlines()
    problem = "axis 1 of f32[n,63] must be 64, the depth of what it is multiplied by, but it is 63"
    assert lines[0].endswith(f"MatMul 'product': {problem}")
    assert lines[1:] == ["  x : f32[n,63]", "  w : f32[64,9]"]


@pytest.mark.parametrize("features", [-1, "10", 2.5])
def test_a_layer_s_size_is_a_number_that_is_not_negative(features: Any) -> None:
    with pytest.raises(bessemer.CompileError, match=r"Dense\(.*: the parameter weight would have"):
        nn.Network(nn.Dense(features), nn.Input("x", ("n", 4)))
    integer: Any = np.int64(3)
    network = nn.Network(nn.Dense(integer), nn.Input("x", ("n", 4)))
    assert network.array("weight").shape == (4, 3)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.Conv(4, 0), "kernel is 0; whole numbers from 1 on"),
        (lambda: nn.Conv(4, HALF), "kernel is 0.5; whole"),
        (lambda: nn.Conv(4, 3, groups=0), "groups is 0; whole"),
        (lambda: nn.MaxPool((2, -1)), r"kernel is \(2, -1\); whole"),
        (lambda: nn.LSTM(-2), "hidden is -2; whole"),
        (lambda: nn.Dropout(1.0), "rate is 1.0; numbers from 0 to below 1"),
        (lambda: nn.BatchNorm(momentum=2), "momentum is 2; numbers from 0 to 1"),
        (lambda: nn.LayerNorm(epsilon=float("nan")), "epsilon is nan; numbers from 0 on"),
    ],
)
def test_a_layer_s_numbers_are_looked_at_where_it_is_made(make: Any, told: str) -> None:
    with pytest.raises(bessemer.CompileError, match=told):
        make()


def test_a_layer_s_numbers_may_be_numpy_s() -> None:
    two: Any = np.int64(2)
    tenth: Any = np.float32(0.1)
    layers = nn.Sequential(
        nn.Conv(two, two, stride=two, padding=two),
        nn.BatchNorm(epsilon=tenth, momentum=tenth),
        nn.AveragePool((two, two), padding=((two, 0), (0, two))),
        nn.LocalResponseNorm(two),
        nn.Dropout(tenth),
    )
    network = nn.Network(layers, nn.Input("x", ("n", 3, 16, 16)))
    assert network.graph.outputs[0].type.shape[1:] == (2, 6, 6)
    with pytest.raises(bessemer.CompileError, match=r"padding \(1, 2, 3\) does not fit 2 spatial"):
        nn.Network(nn.MaxPool(2, padding=(1, 2, 3)), nn.Input("x", ("n", 3, 8, 8)))


@pytest.mark.parametrize("size", [np.int64(1 << 20), float(1 << 20), "1M", "1024 KiB"])
def test_a_budget_is_a_whole_number_or_a_text(size: Any) -> None:
    assert byte_count(size) == 1 << 20


@pytest.mark.parametrize("threads", [-1, 100_000, 1 << 40, 2.5, "2"])
def test_threads_are_so_many_as_a_context_can_have(tmp_path: Path, threads: Any) -> None:
    told = "is not a number of threads from 1 to 1024; 0 means all processors"
    with pytest.raises(bessemer.CompileError, match=told):
        bessemer.compile(parsed(RELU), threads=threads)
    file = tmp_path / "relu.so"
    bessemer.compile(parsed(RELU)).save(file)
    with pytest.raises(InputError, match=told):
        bessemer.load(file, threads=threads)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"memory": 0}, "memory = 0 is not a number of bytes"),
        ({"memory": 2.5}, "memory = 2.5 is not a number of bytes"),
        ({"memory": "1M", "sizes": {"n": -1}}, "sizes: 'n' is -1; a size is a number"),
        ({"target": None}, "target=None is not the name of a machine"),
        ({"device": 1}, "device=1 is for GPUs"),
        ({"dims": [3]}, r"dims=\[3\] does not map names to sizes"),
        ({"dims": {3: 4}}, "dims={3: 4} does not map names to sizes"),
        ({"sizes": 3}, "sizes=3 does not map names to sizes"),
        ({"sizes": {3: 4, "n": 4}}, "sizes={3: 4, 'n': 4} does not map names to sizes"),
        ({"tune": "9 s"}, "tune='9 s' is not a number of seconds"),
        ({"tune": float("inf")}, "tune=inf is not a number of seconds"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: Any, told: str) -> None:
    with pytest.raises(bessemer.CompileError, match=told):
        bessemer.compile(parsed(RELU), cache=False, **options)


def test_a_workspace_is_asked_for_with_sizes() -> None:
    model = bessemer.compile(parsed(RELU))
    with pytest.raises(InputError, match="n=-1 is not a size"):
        model.workspace_bytes(n=-1)


@pytest.mark.parametrize("make", [zoo.resnet, zoo.vgg, zoo.densenet])
def test_a_depth_that_a_network_has_not_is_told_with_those_it_has(make: Any) -> None:
    with pytest.raises(bessemer.CompileError, match=r" has \d+, .* layers, not 17"):
        make(17)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.Network(TEXT, nn.Input("x", (2,))), "'relu' is neither a layer"),
        (lambda: nn.Sequential(nn.Dense(3), TEXT), "'relu' is neither a layer nor a function"),
        (lambda: nn.Network(nn.relu, nn.Input("x", FOUR)), "the shape is 4; write a tuple"),
        (lambda: nn.Network(nn.relu, nn.Input("x", NOTHING)), "the shape is None; write a tuple"),
        (lambda: nn.Network(nn.relu, nn.Input("x", "ab")), "the shape is 'ab'; write a tuple"),
        (lambda: nn.Network(nn.relu, nn.Input("x", (2,), "float99")), "'float99' is not an elem"),
        (lambda: nn.Network(nn.relu, nn.Input("x", (2, HALF))), "Input x: 0.5 is not a size"),
        (lambda: nn.Network(nn.relu, nn.Input("x", (MINUS_ONE, 2))), r"int64\(-1\) is not a si"),
        (lambda: nn.Network(nn.relu, nn.Input("x", (2, True))), "Input x: True is not a size"),
        (lambda: nn.Network(nn.relu, TEXT), "'relu' is not an input; write Input"),
        (lambda: Trainer(FOUR, mean_squared_error, []), "Trainer: network is 4; it must be a Net"),
        (lambda: _trainer(mean_squared_error, metrics=TEXT), "metrics is 'relu'; it must be func"),
        (lambda: _trainer(mean_squared_error, schedule=HALF), "schedule is 0.5; it must be a sch"),
        (lambda: _trainer(mean_squared_error, regularization=HALF), "regularization is 0.5; it"),
        (lambda: _trainer(mean_squared_error, normalization=FOUR), "normalization is 4; it must"),
        (lambda: Adam(beta1=1.0), "Adam: beta1 is 1.0; numbers from 0 to below 1"),
        (lambda: SGD(weight_decay=-HALF), "SGD: weight_decay is -0.5; numbers from 0 on"),
        (lambda: Regularization(clip_norm=float("nan")), "clip_norm is nan; numbers from 0 on"),
        (lambda: steps(0), "steps: every is 0; whole numbers from 1 on"),
        (lambda: steps(2, TEXT), "steps: factor is 'relu'; numbers from 0 on"),
        (lambda: exponential(TEXT), "exponential: factor is 'relu'; numbers from 0 on"),
        (lambda: cosine(2, TEXT), "cosine: lowest is 'relu'; numbers from 0 on"),
        (lambda: Augmentation("x", shift=PAIR), r"Augmentation: shift is \(1, 2\); whole numbers"),
        (lambda: _trainer(mean_squared_error, seed=PAIR), r"Trainer: seed is \(1, 2\); whole"),
        (lambda: _trainer("mse"), "The loss is 'mse'; give a function"),
        (lambda: _trainer(lambda y, t: 3), "The loss is 3; it must be one number"),
    ],
)
def test_what_describes_a_training_is_looked_at_where_it_is_made(make: Any, told: str) -> None:
    with pytest.raises(bessemer.CompileError, match=told):
        make()


def test_a_schedule_that_gives_no_rate_leaves_the_state_alone() -> None:
    for factor in (float("nan"), -1.0, "fast"):
        trainer = _trainer(mean_squared_error, schedule=lambda step, factor=factor: factor)
        before = trainer.state["weight"].copy()
        data = {"x": np.ones((4, 3), np.float32), "target": np.ones((4, 2), np.float32)}
        with pytest.raises(bessemer.CompileError, match=r"The schedule gives .* for step 0"):
            trainer.fit(data)
        np.testing.assert_array_equal(trainer.state["weight"], before)


def test_random_inputs_too_large_for_memory_are_told_by_name() -> None:
    info = ArrayInfo("image", "float32", ("n", 1 << 20))
    with pytest.raises(InputError, match=r"Input 'image' of shape .* does not fit in memory"):
        random_arrays([info], {"n": 1 << 40})


def _trainer(loss: Any, **options: Any) -> Trainer:
    network = nn.Network(nn.Dense(2), nn.Input("x", ("n", 3)), outputs=["y"])
    return Trainer(network, loss, [nn.Input("target", ("n", 2))], **options)


def test_data_to_train_on_has_names() -> None:
    trainer = _trainer(mean_squared_error)
    rows: list[Array] = [np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32)]
    for validation in (None, 0.5):
        with pytest.raises(bessemer.CompileError, match=r"is a list; .* with x, target\."):
            trainer.fit(rows, validation=validation)  # type: ignore[arg-type]


def test_a_size_of_1_may_always_be_one() -> None:
    text = "g (float[n] x, float[n] y) => (float[n] z) { z = Mul (x, y) }"
    model = bessemer.compile(parsed(text), threads=1, cache=False)
    remedy = r" Where a dimension of the model is always 1, compile with dims=\{'its name': 1\}\."
    for given, says in (((1, 3), remedy), ((3, 1), remedy), ((2, 3), "$")):
        x, y = (np.ones(size, np.float32) for size in given)
        with pytest.raises(InputError, match=rf"axis 0 is {given[1]}, not .* in 'x'\.{says}"):
            model.run([x, y])
