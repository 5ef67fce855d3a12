"""The zoo's networks have the literature's sizes, and compute the same compiled and exported."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends import zoo
from bessemer.frontends.builder import Network
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.network_runs import numbers
from tests.onnxruntime_sessions import session_of

Feed = dict[str, Array]

COUNTS: dict[str, tuple[Callable[[], Network], int]] = {
    "perceptron": (zoo.perceptron, 3),
    "mlp": (zoo.mlp, 784 * 512 + 512 + 512 * 512 + 512 + 5130),
    "lenet": (zoo.lenet, 61_706),
    "alexnet": (zoo.alexnet, 61_100_840),
    "vgg11": (lambda: zoo.vgg(11), 132_863_336),
    "vgg13": (lambda: zoo.vgg(13), 133_047_848),
    "vgg16": (lambda: zoo.vgg(16), 138_357_544),
    "vgg19": (lambda: zoo.vgg(19), 143_667_240),
    "vgg16_bn": (lambda: zoo.vgg(16, batch_norm=True), 138_365_992),
    "resnet18": (lambda: zoo.resnet(18), 11_689_512),
    "resnet34": (lambda: zoo.resnet(34), 21_797_672),
    "resnet50": (lambda: zoo.resnet(50), 25_557_032),
    "resnet101": (lambda: zoo.resnet(101), 44_549_160),
    "resnet152": (lambda: zoo.resnet(152), 60_192_808),
    "mobilenet_v2": (zoo.mobilenet_v2, 3_504_872),
    "densenet121": (lambda: zoo.densenet(121), 7_978_856),
    "densenet169": (lambda: zoo.densenet(169), 14_149_480),
    "densenet201": (lambda: zoo.densenet(201), 20_013_928),
    "unet": (zoo.unet, 31_037_698),
    "gpt2": (zoo.causal_transformer, 124_439_808),
    "bert": (zoo.transformer_encoder, 108_891_648),
    "vit_b16": (zoo.vision_transformer, 86_567_656),
    "dcgan_generator": (zoo.dcgan_generator, 3_576_704),
    "dcgan_discriminator": (zoo.dcgan_discriminator, 2_765_568),
    "dense_gan": (zoo.dense_gan, 16 * 128 + 128 * 128 + 128 * 64 + 64 + 6 * 128
                  + 64 * 128 + 128 * 128 + 3 * 128 + 1),
    "boltzmann_machine": (zoo.boltzmann_machine, 784 * 256 + 784 + 256),
    "autoencoder": (
        lambda: zoo.autoencoder(10, (6, 3)),
        (10 * 6 + 6) + (6 * 3 + 3) + (3 * 6 + 6) + (6 * 10 + 10),
    ),
    # 4 gates of inputs, states and a bias, then the classes.
    "lstm_text": (
        lambda: zoo.lstm_text(50, 7, features=8, hidden=16, layers=2),
        50 * 8 + 4 * 16 * (8 + 16 + 1) + 4 * 16 * (16 + 16 + 1) + 16 * 7 + 7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_the_number_of_parameters_is_the_literature_s(name: str) -> None:
    make, expected = COUNTS[name]
    assert make().parameter_count == expected


def _images(channels: int, *sizes: int) -> list[Feed]:
    """Batches of one and of two."""
    sides = (sizes[0], sizes[-1])
    return [
        {"image": numbers(batch, channels, side, side, seed=batch)}
        for batch, side in zip((1, 2), sides)
    ]


def _vectors(name: str, *shape: int) -> list[Feed]:
    return [{name: numbers(batch, *shape, seed=batch)} for batch in (1, 3)]


def _texts() -> list[Feed]:
    random = np.random.default_rng(0)
    return [{"tokens": random.integers(0, 50, shape)} for shape in ((1, 5), (3, 8))]


def _masked_texts() -> list[Feed]:
    feeds: list[Feed] = []
    for feed in _texts():
        tokens = feed["tokens"]
        lengths = np.arange(3, 3 + len(tokens))
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        feeds.append({"tokens": tokens, "mask": mask, "kinds": tokens % 2})
    return feeds


SMALL: dict[str, tuple[Callable[[], Network], list[Feed]]] = {
    "perceptron": (zoo.perceptron, _vectors("x", 2)),
    "mlp": (lambda: zoo.mlp(20, (16, 12), 5), _vectors("x", 20)),
    "autoencoder": (lambda: zoo.autoencoder(20, (8, 4)), _vectors("x", 20)),
    "lenet": (zoo.lenet, _images(1, 28)),
    "alexnet": (lambda: zoo.alexnet(10, size=64, width=8, hidden=16), _images(3, 64)),
    "vgg": (
        lambda: zoo.vgg(11, 10, size=32, width=8, hidden=16, batch_norm=True), _images(3, 32)
    ),
    "resnet18": (lambda: zoo.resnet(18, 10, size=32, width=8), _images(3, 32)),
    "resnet50": (
        lambda: zoo.resnet(50, 10, size=16, width=8, small_images=True), _images(3, 16)
    ),
    "mobilenet_v2": (lambda: zoo.mobilenet_v2(10, size=32, width=0.25), _images(3, 32)),
    "densenet": (lambda: zoo.densenet(121, 10, size=32, growth=4, stages=(2, 2)), _images(3, 32)),
    "unet": (lambda: zoo.unet(width=4, depth=2), _images(3, 16, 13)),
    "lstm_text": (lambda: zoo.lstm_text(50, 7, features=8, hidden=8), _texts()),
    "lstm_classifier": (
        lambda: zoo.lstm_text(50, 7, features=8, hidden=8, bidirectional=True, whole=True), _texts()
    ),
    "causal_transformer": (
        lambda: zoo.causal_transformer(50, positions=16, features=16, heads=2, layers=2), _texts()
    ),
    "transformer_encoder": (
        lambda: zoo.transformer_encoder(50, positions=16, features=16, heads=2, layers=2),
        _masked_texts(),
    ),
    "vision_transformer": (
        lambda: zoo.vision_transformer(10, size=32, patch=8, features=16, heads=2, layers=2),
        _images(3, 32),
    ),
    "dcgan_generator": (
        lambda: zoo.dcgan_generator(8, width=4, doublings=3), _vectors("noise", 8, 1, 1)
    ),
    "dcgan_discriminator": (lambda: zoo.dcgan_discriminator(32, width=4), _images(3, 32)),
    "dense_gan": (
        lambda: zoo.dense_gan(20, noise=5, hidden=12),
        [image | noise for image, noise in zip(_vectors("image", 20), _vectors("noise", 5))],
    ),
    "boltzmann_machine": (lambda: zoo.boltzmann_machine(20, 12), _vectors("x", 20)),
}  # fmt: skip


def _assert_near(actual: Array, expected: Array) -> None:
    """Within 1e-5 of the 2-norm."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    distance = np.linalg.norm((actual.astype(np.float64) - expected).ravel())
    assert distance <= 1e-5 * np.linalg.norm(expected.astype(np.float64).ravel())


@pytest.fixture(scope="module", params=SMALL)
def case(request: pytest.FixtureRequest) -> tuple[Network, list[Feed], list[list[Array]]]:
    """A small network, inputs of two sizes, and what it makes of them."""
    make, feeds = SMALL[request.param]
    network = _lively(make())
    return network, feeds, [run_graph(network.graph, feed) for feed in feeds]


def _lively(network: Network) -> Network:
    """With other running statistics than zeros and ones, so that normalization matters."""
    return network.with_arrays(
        {
            name: np.abs(numbers(*parameter.type.static_shape, seed=5)) + 0.5
            for name, parameter in network.parameters.items()
            if not parameter.trainable
        }
    )


def test_the_export_computes_the_same_in_onnxruntime(
    case: tuple[Network, list[Feed], list[list[Array]]],
) -> None:
    network, feeds, expected = case
    model = write_onnx(network.graph)
    onnx.checker.check_model(model, full_check=True)
    session = session_of(model)
    for feed, wanted in zip(feeds, expected):
        for actual, array in zip(session.run(None, feed), wanted, strict=True):
            _assert_near(actual, array)


LONG = ("mobilenet_v2", "resnet50")
"""Networks of many kernels, whose blocks tests/schedule/test_chain_launches.py compiles."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in SMALL],
    indirect=True,
)
def test_the_compiled_network_computes_the_same(
    case: tuple[Network, list[Feed], list[list[Array]]],
) -> None:
    network, feeds, expected = case
    model = bessemer.compile(network, cache=False)
    for feed, wanted in zip(feeds, expected):
        for actual, array in zip(model.run(feed), wanted, strict=True):
            _assert_near(actual, array)


def test_every_network_of_the_zoo_is_here() -> None:
    covered = {name.rstrip("0123456789") for name in SMALL} | {
        name.split("_bn")[0] for name in SMALL
    }
    assert {name for name in zoo.__all__ if name not in covered} == set()


def test_a_perceptron_says_on_which_side_of_a_line_a_point_is() -> None:
    network = zoo.perceptron().with_arrays({"weight": np.ones((2, 1)), "bias": -np.ones(1)})
    points = np.array([[0, 0], [1, 1], [1, 0], [0.4, 0.5]], np.float32)
    assert run_graph(network.graph, {"x": points})[0].ravel().tolist() == [0, 1, 1, 0]
