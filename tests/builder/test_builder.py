"""Networks written in Python: names, parameters, arithmetic, errors, compiling."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder import (
    LSTM,
    ONES,
    BatchNorm,
    Conv,
    Dense,
    Embedding,
    Flatten,
    Given,
    He,
    Input,
    Layer,
    MultiHeadAttention,
    Network,
    Normal,
    Orthogonal,
    ReLU,
    Residual,
    Sequential,
    Tensor,
    TransformerBlock,
    Uniform,
    Xavier,
    relu,
)
from bessemer.frontends.fingerprint import fingerprint
from tests.network_runs import network_of, numbers, run_network

IMAGE = numbers(2, 3, 8, 8)


class Block(Layer):
    """A layer as a user writes one."""

    def __init__(self, channels: int) -> None:
        self.conv = Conv(channels, 3, padding=1)
        self.norms = [BatchNorm(), BatchNorm()]

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.norms[1](self.norms[0](self.conv(x))) + x)


# Names and parameters


def test_parameters_are_named_by_the_path_to_their_layer() -> None:
    layers = Sequential(Conv(3, 1, bias=False), ReLU(), Block(3), head=Dense(2, bias=False))
    names = list(network_of(layers, IMAGE).parameters)
    assert [name for name in names if "norm" not in name] == [
        "conv1.weight", "block1.conv.weight", "block1.conv.bias", "head.weight",
    ]  # fmt: skip
    assert "block1.norms.1.running_mean" in names


def test_layers_made_in_a_function_are_numbered_by_kind() -> None:
    def forward(x: Tensor) -> Tensor:
        return relu(Dense(4)(x)) + Dense(4, name="shortcut")(x) + Dense(1)(x)

    names = list(network_of(forward, numbers(2, 3)).parameters)
    assert [name for name in names if name.endswith("weight")] == [
        "dense1.weight", "shortcut.weight", "dense2.weight",
    ]  # fmt: skip


def test_a_layer_applied_twice_has_one_set_of_parameters() -> None:
    layer = Dense(3)
    network = network_of(lambda x: layer(layer(x)), numbers(2, 3))
    weight, bias = network.array("dense1.weight"), network.array("dense1.bias")
    x = numbers(2, 3)
    np.testing.assert_allclose(
        run_network(network, x)[0], (x @ weight + bias) @ weight + bias, rtol=1e-5
    )
    assert list(network.parameters) == ["dense1.weight", "dense1.bias"]


def test_a_layer_applied_to_another_size_says_where_it_was_made() -> None:
    layer = Dense(3, name="tied")
    with pytest.raises(CompileError, match=r"tied, Dense.*f32\[5,3\], from where .* first"):
        network_of(lambda x: layer(layer(x)), numbers(2, 5))


def test_two_layers_of_one_name_are_an_error() -> None:
    with pytest.raises(CompileError, match="Two different layers are called same"):
        network_of(Sequential(Dense(2, name="same"), Dense(2, name="same")), numbers(2, 2))


def test_a_layer_under_another_name_has_parameters_of_its_own() -> None:
    layer = Dense(4, bias=False)
    stage = Sequential(layer.named("inner")).named("stage")
    network = network_of(Sequential(layer.named("stem"), relu, layer, stage), numbers(1, 4))
    assert list(network.parameters) == ["stem.weight", "dense1.weight", "stage.inner.weight"]
    assert layer.name == ""
    assert not np.array_equal(network.array("stem.weight"), network.array("dense1.weight"))


def test_one_network_can_be_traced_again_from_the_same_layers() -> None:
    layers = Sequential(Dense(3), relu, Dense(2))
    first, second = (network_of(layers, numbers(2, size)) for size in (4, 5))
    assert first.parameters["dense1.weight"].type.shape == (4, 3)
    assert second.parameters["dense1.weight"].type.shape == (5, 3)


def test_statistics_are_not_trainable() -> None:
    network = network_of(Sequential(Conv(4, 3), BatchNorm()), IMAGE)
    fixed = [name for name, each in network.parameters.items() if not each.trainable]
    assert fixed == ["batchnorm1.running_mean", "batchnorm1.running_variance"]
    assert network.parameter_count == 4 * 3 * 9 + 4 + 4 + 4


def test_arrays_can_be_replaced_and_must_fit() -> None:
    network = network_of(Dense(2), numbers(1, 3))
    other = network.with_arrays({"weight": np.ones((3, 2))})
    assert other.array("weight").dtype == np.float32
    assert run_network(other, np.ones((1, 3), np.float32))[0].tolist() == [[3, 3]]
    assert not np.array_equal(network.array("weight"), other.array("weight"))
    with pytest.raises(CompileError, match=r"Parameter weight is f32\[3,2\].*\(2, 3\)"):
        network.with_arrays({"weight": np.ones((2, 3))})
    with pytest.raises(CompileError, match=r"no parameter weights\. It has weight, bias"):
        network.with_arrays({"weights": np.ones((2, 3))})


# First values


def test_first_values_depend_on_seed_and_name_only() -> None:
    alone = network_of(Sequential(Dense(4, name="a")), numbers(1, 8))
    beside = network_of(Sequential(Dense(8, name="b"), Dense(4, name="a")), numbers(1, 8))
    other = network_of(Sequential(Dense(4, name="a")), numbers(1, 8), seed=1)
    assert np.array_equal(alone.array("a.weight"), beside.array("a.weight"))
    assert not np.array_equal(alone.array("a.weight"), other.array("a.weight"))


@pytest.mark.parametrize(
    ("initializer", "mean", "deviation"),
    [
        (Normal(0.5, mean=2.0), 2.0, 0.5),
        (Uniform(-1.0, 3.0), 1.0, 4 / np.sqrt(12)),
        (Xavier(), 0.0, np.sqrt(2 / (200 + 300))),
        (Xavier(uniform=False, gain=2.0), 0.0, 2 * np.sqrt(2 / (200 + 300))),
        (He(), 0.0, np.sqrt(2 / 200)),
        (He(uniform=True, slope=1.0), 0.0, np.sqrt(1 / 200)),
        (He(fan="outputs"), 0.0, np.sqrt(2 / 300)),
        (Orthogonal(gain=2.0), 0.0, 2 / np.sqrt(300)),
    ],
)
def test_an_initializer_has_its_mean_and_deviation(
    initializer: Any, mean: float, deviation: float
) -> None:
    weight = network_of(Dense(300, weights=initializer), numbers(1, 200)).array("weight")
    assert abs(weight.mean() - mean) < 5 * deviation / np.sqrt(weight.size)
    assert abs(weight.std() / deviation - 1) < 0.02


@pytest.mark.parametrize(
    ("initializer", "settings", "message"),
    [
        (Normal, {"deviation": -1}, "Normal: deviation is -1; numbers from 0 on are possible"),
        (Normal, {"mean": np.nan}, "Normal: mean is nan; finite numbers are possible"),
        (Uniform, {"low": 3, "high": 1}, "Uniform: low is 3, above high, 1"),
        (Uniform, {"high": np.inf}, "Uniform: high is inf; finite numbers are possible"),
        (Xavier, {"gain": "relu"}, "Xavier: gain is 'relu'; finite numbers are possible"),
        (He, {"fan": "fan_in"}, "'inputs' or 'outputs', not 'fan_in'"),
    ],
)
def test_an_initializer_that_cannot_be_is_refused(
    initializer: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        initializer(**settings)


def test_the_fans_of_convolutions_count_their_kernels() -> None:
    network = network_of(Conv(64, 5, weights=He()), numbers(1, 32, 9, 9))
    assert abs(network.array("weight").std() / np.sqrt(2 / (25 * 32)) - 1) < 0.02


@pytest.mark.parametrize("inputs", [5, 40])
def test_orthogonal_weights_are_orthogonal(inputs: int) -> None:
    weight = network_of(Dense(12, weights=Orthogonal()), numbers(1, inputs)).array("weight")
    product = weight.T @ weight if inputs > 12 else weight @ weight.T
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)


def test_forget_gates_begin_open() -> None:
    network = network_of(LSTM(3), numbers(1, 2, 4), symbolic=(0, 1))
    assert network.array("bias_0").tolist() == [0] * 6 + [1] * 3 + [0] * 3


def test_given_numbers_must_have_the_parameter_s_shape() -> None:
    array = numbers(3, 2)
    assert np.array_equal(
        network_of(Dense(2, weights=Given(array)), array.T).array("weight"), array
    )
    with pytest.raises(CompileError, match=r"\(3, 2\), not \(4, 2\)"):
        network_of(Dense(2, weights=Given(array)), numbers(1, 4)).array("weight")


# Errors name the layer


def test_an_error_names_the_path_of_the_innermost_layer() -> None:
    class Encoder(Layer):
        def __init__(self) -> None:
            self.blocks = [TransformerBlock(32, 4), TransformerBlock(32, 5)]

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks[1](self.blocks[0](x))

    with pytest.raises(CompileError) as caught:
        network_of(Sequential(encoder=Encoder()), numbers(2, 7, 32))
    path, rest = str(caught.value).split(",", 1)
    assert path == "encoder.blocks.1.attention"
    assert "5 heads cannot share 32 features" in rest
    assert "f32[d0_2,7,32]" in rest


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (Sequential(Conv(4, 5), Conv(4, 5)), r"^conv2, Conv\(features=4, kernel=5\) of f32.*fit"),
        (Sequential(Conv(4, 3, groups=2)), "conv1.*2 groups cannot share 3 channels"),
        (Sequential(Conv(4, (3, 3, 3))), r"conv1.*kernel \(3, 3, 3\) does not fit 2 spatial axes"),
        (Sequential(Flatten(), Conv(4, 3)), "conv1.*must have axes for the batch, the channels"),
        (Sequential(Embedding(5, 2)), r"embedding1.*must be integers"),
        (Sequential(LSTM(3)), r"lstm1.*must be \[batch, time, features\]"),
        (Sequential(MultiHeadAttention(2)), "multiheadattention1.*must be"),
        (Sequential(Residual(Conv(4, 3))), r"residual1, Residual.*do not broadcast: 4 meets 3"),
        (lambda x: x + np.ones((7,), np.float32), "do not broadcast: 8 meets 7"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(layers: Any, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        network_of(layers, IMAGE)


def test_features_must_be_known() -> None:
    with pytest.raises(CompileError, match=r"dense1.*weight would have the shape \[d1_3, 2\]"):
        network_of(Sequential(Dense(2)), numbers(4, 3), symbolic=(0, 1))


def test_inputs_and_outputs_are_checked() -> None:
    x = Input("x", ("n", 3))
    with pytest.raises(CompileError, match="Two inputs have one name"):
        Network(lambda a, b: a + b, x, x)
    with pytest.raises(CompileError, match=r"names \['a', 'b'\] do not fit 1 outputs"):
        Network(relu, x, outputs=["a", "b"])
    with pytest.raises(CompileError, match="output output0 is a int"):
        Network(lambda x: (1, x), x)
    with pytest.raises(CompileError, match="cannot name a dimension"):
        Network(relu, Input("x", ("2n", 3)))
    with pytest.raises(CompileError, match="-1 is not a size"):
        Network(relu, Input("x", (-1, 3)))


def test_outputs_take_the_names_of_a_mapping() -> None:
    network = network_of(lambda x: {"double": x * 2, "same": x}, numbers(4, 3))
    assert network.graph.output_names == ("double", "same")
    assert (
        str(network)
        == "network(x0: f32[d0_4,3]) -> (double: f32[d0_4,3], same: f32[d0_4,3]), 0 parameters"
    )


# Compiling


def _affine(seed: int = 0, width: int = 3) -> Network:
    return Network(Sequential(Dense(width), relu), Input("x", ("n", 4)), seed=seed)


def test_a_network_compiles_as_it_is() -> None:
    network = Network(
        Sequential(Conv(4, 3, padding=1), Block(4), Flatten(), Dense(5)),
        Input("image", ("batch", 3, 8, 8)),
        outputs=["logits"],
    )
    model = bessemer.compile(network, cache=False)
    for batch in (1, 3):
        x = numbers(batch, 3, 8, 8, seed=batch)
        np.testing.assert_allclose(
            model.run({"image": x})[0], run_network(network, x)[0], rtol=1e-4, atol=1e-5
        )


def test_dimensions_can_be_fixed_when_compiling() -> None:
    network = _affine().with_arrays({"dense1.bias": np.ones(3)})
    model = bessemer.compile(network, dims={"n": 2}, cache=False)
    x = numbers(2, 4)
    np.testing.assert_allclose(model.run({"x": x})[0], run_network(network, x)[0], rtol=1e-5)
    assert network.with_dims({"n": 2}).structure.inputs[0].type.shape == (2, 4)
    with pytest.raises(CompileError, match=r"no dimension m\. It has \['n'\]"):
        bessemer.compile(network, dims={"m": 2}, cache=False)


def test_the_cache_tells_networks_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path))
    x = numbers(2, 4)
    for network in (_affine(0), _affine(1), _affine(0), _affine(0, width=5)):
        model = bessemer.compile(network)
        np.testing.assert_allclose(
            model.run({"x": x})[0], run_network(network, x)[0], rtol=1e-5, atol=1e-6
        )


def test_a_fingerprint_is_of_the_content() -> None:
    def digest(network: Network) -> bytes:
        return fingerprint(network.graph)

    one = _affine()
    assert digest(one) == digest(_affine())
    bias = np.zeros(3, np.float32)
    changed: Array = np.array([0, 0, 1e-7], np.float32)
    assert digest(one) == digest(one.with_arrays({"dense1.bias": bias}))
    others = [
        one.with_arrays({"dense1.bias": changed}),
        _affine(seed=1),
        Network(Sequential(Dense(3), ReLU()), Input("y", ("n", 4))),
        Network(Sequential(Dense(3, weights=ONES), relu), Input("x", ("n", 4))),
        Network(Sequential(Dense(3)), Input("x", ("n", 4))),
    ]
    assert len({digest(network) for network in [one, *others]}) == 1 + len(others)
