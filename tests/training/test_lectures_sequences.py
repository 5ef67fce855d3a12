"""The lectures' networks of sequences, trained: waves, and the text of a licence."""

from pathlib import Path

import numpy as np
import pytest

from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder import GRU, LSTM, RNN, Dense, Input, Network, Sequential
from bessemer.frontends.builder.layers_recurrent import Recurrent
from bessemer.frontends.train.losses import cross_entropy, mean_squared_error
from bessemer.frontends.train.optimizers import Adam, AdamW
from bessemer.frontends.train.schedules import cosine, warm_up
from bessemer.frontends.train.step import Regularization
from bessemer.frontends.train.trainer import Trainer
from bessemer.frontends.zoo import causal_transformer, lstm_text
from tests.training.lecture_runs import Arrays

pytestmark = pytest.mark.lectures

TIME = 48


def _text() -> tuple[Array, int]:
    """The licence as numbers of characters, and how many characters there are."""
    text = (Path(__file__).resolve().parents[2] / "LICENSE").read_text()
    alphabet = sorted(set(text))
    return np.array([alphabet.index(letter) for letter in text], np.int64), len(alphabet)


def _windows(text: Array) -> Arrays:
    starts = np.arange(0, len(text) - TIME - 1, 7)
    tokens = np.stack([text[start : start + TIME] for start in starts])
    following = np.stack([text[start + 1 : start + TIME + 1] for start in starts])
    return {"tokens": tokens, "next": following}


def _pair_entropy(text: Array) -> float:
    """How sure one is of the next letter, in nats, who knows how often it follows this one."""
    counts = np.zeros((text.max() + 1,) * 2)
    np.add.at(counts, (text[:-1], text[1:]), 1)
    share = counts / counts.sum()
    given = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return float(-(share[counts > 0] * np.log(given[counts > 0])).sum())


def test_a_transformer_learns_more_of_a_text_than_pairs_of_letters() -> None:
    text, letters = _text()
    network = causal_transformer(letters, positions=TIME, features=64, heads=4, layers=2)
    trainer = Trainer(
        network, cross_entropy, [Input("next", ("batch", "time"), "i64")], optimizer=AdamW(0.003),
        schedule=warm_up(50, cosine(1000, 0.1)), regularization=Regularization(clip_norm=1.0),
        threads=2,
    )  # fmt: skip
    history = trainer.fit(_windows(text), epochs=8, batch=32)
    assert history.epochs["loss"][-1] < 0.8 * _pair_entropy(text)


def _waves(rng: np.random.Generator, count: int) -> Arrays:
    """Sine waves of any period and phase, 24 steps, and what comes next."""
    period, phase = rng.uniform(6, 20, (count, 1)), rng.uniform(0, 2 * np.pi, (count, 1))
    wave = np.sin(2 * np.pi * np.arange(25) / period + phase).astype(np.float32)
    return {"x": wave[:, :24, None], "next": wave[:, 24:]}


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_a_recurrent_network_sees_where_a_wave_goes(
    kind: type[Recurrent], rng: np.random.Generator
) -> None:
    layers = Sequential(kind(24, outputs="last"), Dense(1))
    trainer = Trainer(
        Network(layers, Input("x", ("batch", 24, 1))), mean_squared_error,
        [Input("next", ("batch", 1))], optimizer=Adam(0.01), schedule=cosine(960),
        regularization=Regularization(clip_norm=1.0), threads=2,
    )  # fmt: skip
    trainer.fit(_waves(rng, 1024), epochs=30, batch=32)
    test = _waves(rng, 256)
    # A straight line through the last two points, and the last point itself, are the rivals.
    line = 2 * test["x"][:, -1] - test["x"][:, -2]
    assert trainer.evaluate(test)["loss"] < 0.1 * float(((line - test["next"]) ** 2).mean())


def test_an_lstm_learns_more_of_a_text_than_pairs_of_letters() -> None:
    text, letters = _text()
    network = lstm_text(letters, letters, features=24, hidden=96, layers=1)
    trainer = Trainer(
        network, cross_entropy, [Input("next", ("batch", "time"), "i64")], optimizer=Adam(0.005),
        regularization=Regularization(clip_norm=1.0), threads=2,
    )  # fmt: skip
    history = trainer.fit(_windows(text), epochs=8, batch=32)
    assert history.epochs["loss"][-1] < 0.9 * _pair_entropy(text)
