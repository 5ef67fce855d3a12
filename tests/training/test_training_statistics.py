"""Statistics inside the step, sweeps, searches and pictures: against NumPy and by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder import Dense, Input, Network, Sequential
from bessemer.frontends.builder.layers_activation import ReLU
from bessemer.frontends.train import search
from bessemer.frontends.train.diagnostics import Sweep, overfitting_gap, sweep_rates
from bessemer.frontends.train.history import History
from bessemer.frontends.train.losses import ADVERSARIAL, mean_squared_error
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.pictures import (
    draw_gradients,
    draw_history,
    draw_sweep,
    draw_trials,
)
from bessemer.frontends.train.schedules import Schedule
from bessemer.frontends.train.search import Choice, Point, Range, Trial
from bessemer.frontends.train.trainer import Trainer, TrainingError
from bessemer.frontends.zoo import dense_gan

ROOT = Path(__file__).resolve().parents[2]
TARGET = [Input("t", ("batch", 2))]


def _trainer(schedule: Schedule | None = None, statistics: bool = False) -> Trainer:
    layers = Sequential(Dense(7), ReLU(), Dense(2))
    return Trainer(
        Network(layers, Input("x", ("batch", 4))), mean_squared_error, TARGET, optimizer=SGD(0.1),
        schedule=schedule, statistics=statistics, threads=1,
    )  # fmt: skip


def _data(rng: np.random.Generator) -> dict[str, Any]:
    x = rng.standard_normal((64, 4), np.float32)
    return {"x": x, "t": x[:, :2] * 2}


def test_statistics_are_those_of_the_step_and_change_no_bit(rng: np.random.Generator) -> None:
    data = _data(rng)
    plain, watched = _trainer(), _trainer(statistics=True)
    start = {name: array.copy() for name, array in watched.state.items()}
    assert watched.step(data)["loss"] == pytest.approx(plain.step(data)["loss"], rel=1e-6)
    found = watched.statistics
    assert found is not None
    for name, size in found.gradients.items():
        gradient = (start[name] - watched.state[name]) / 0.1
        assert size == pytest.approx(float(np.sqrt((gradient**2).mean())), rel=1e-3)
        np.testing.assert_allclose(watched.state[name], plain.state[name], rtol=1e-5, atol=1e-7)
    hidden = data["x"] @ start["dense1.weight"] + start["dense1.bias"]
    unit = found.activations["relu1"]
    assert unit.mean == pytest.approx(float(np.maximum(hidden, 0).mean()), rel=1e-4)
    assert unit.deviation == pytest.approx(float(np.maximum(hidden, 0).std()), rel=1e-4)
    assert unit.zeros == pytest.approx(float((hidden <= 0).mean()), rel=1e-5)
    assert [row[0] for row in found.rows()] == list(start)
    assert [row[0] for row in found.activation_rows()] == [n or "(all)" for n in found.activations]


def test_two_losses_move_a_layer_each(rng: np.random.Generator) -> None:
    network = dense_gan(4, noise=3, hidden=5)
    given = {"image": rng.random((8, 4), np.float32), "noise": rng.random((8, 3), np.float32)}
    both = Trainer(network, ADVERSARIAL, [], optimizer=SGD(0.1), threads=1)
    start = {name: array.copy() for name, array in both.state.items()}
    both.step(given)
    for part in ("generator", "discriminator"):
        losses = {f"{part}.*": ADVERSARIAL[f"{part}.*"]}
        alone = Trainer(network, losses, [], optimizer=SGD(0.1), threads=1)
        alone.step(given)
        for name in network.parameters:
            if name.startswith(part):
                np.testing.assert_allclose(alone.state[name], both.state[name], atol=1e-6)
            elif network.parameters[name].trainable:
                np.testing.assert_array_equal(alone.state[name], start[name])
    with pytest.raises(CompileError, match=r"loss for decoder\.\*"):
        Trainer(network, {"decoder.*": ADVERSARIAL["generator.*"]}, [])


def test_a_sweep_finds_where_the_loss_falls_and_ends_where_it_explodes(
    rng: np.random.Generator,
) -> None:
    sweep = sweep_rates(_trainer, _data(rng), low=1e-4, high=1e3, steps=200, batch=16)
    assert len(sweep.rates) < 200
    assert 1e-3 < sweep.steepest < 1
    np.testing.assert_allclose(np.diff(np.log(sweep.rates)), math.log(1e7) / 199, rtol=1e-6)


def test_a_first_batch_that_is_worse_than_others_is_no_fall() -> None:
    rates = tuple(np.geomspace(1e-4, 1, 40))
    losses = (9.0, 5.0, *[4.0] * 18, *np.linspace(4, 1, 10), *[1.0] * 10)
    assert 1e-2 < Sweep(rates, losses).steepest < 1


def test_the_gap_is_what_is_worse_on_data_never_seen() -> None:
    history = History({"loss": [3, 1], "validation loss": [3, 2]})
    history.epochs |= {"accuracy": [0.5, 0.9], "validation accuracy": [0.5, 0.6]}
    assert overfitting_gap(history) == [0, 1]
    assert overfitting_gap(history, "accuracy") == pytest.approx([0, 0.3])
    with pytest.raises(CompileError, match="no error"):
        overfitting_gap(history, "error")


SPACE: search.Space = {
    "rate": Range(1e-4, 1e-1, log=True),
    "width": Choice((8, 16)),
    "decay": Range(0, 1),
}


def test_a_grid_has_every_combination_and_random_points_spread() -> None:
    points = search.grid_points(SPACE, 4)
    assert len(points) == 4 * 2 * 4
    np.testing.assert_allclose(sorted({p["rate"] for p in points}), [1e-4, 1e-3, 1e-2, 1e-1])
    drawn = search.random_points(SPACE, 2000, seed=1)
    assert drawn[:5] == search.random_points(SPACE, 5, seed=1)
    logs = [math.log10(float(p["rate"])) for p in drawn]
    np.testing.assert_allclose(np.histogram(logs, 3, (-4, -1))[0] / 2000, 1 / 3, atol=0.05)
    assert {p["width"] for p in drawn} == {8, 16}


def _hill(tried: list[Point]) -> search.Measure:
    def measure(point: Point) -> float:
        tried.append(point)
        if len(tried) == 3:
            raise TrainingError("no number")
        return (math.log10(float(point["rate"])) + 2) ** 2 + float(point["decay"])

    return measure


def test_a_search_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    file, tried = tmp_path / "trials.jsonl", list[Point]()
    points = search.random_points(SPACE, 6)
    search.search(_hill(tried), points[:4], file)
    with file.open("a") as lines:
        lines.write('{"point": {"ra')  # as a process that is killed leaves it
    trials = search.search(_hill(tried), points, file)
    assert len(tried) == 6
    assert [trial.point for trial in trials] == points
    assert trials[2].loss == math.inf
    assert search.read_trials(file) == trials
    least = min((t for t in trials), key=lambda t: t.loss)
    assert search.best(trials) == least
    assert search.trial_rows(trials)[0][0] == f"{least.loss:.4g}"
    for other in (json.dumps(["nothing"]).encode() + b"\n", b"\xff\n"):
        file.write_bytes(other)
        with pytest.raises(CompileError, match="holds no trials"):
            search.read_trials(file)
    with pytest.raises(CompileError, match="Cannot read"):
        search.search(_hill(tried), points, tmp_path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from bessemer.frontends.train import search
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
file = Path(sys.argv[1])
print(len(search.read_trials(file)))
try:
    search.search(lambda point: 1.0, [{"rate": 0.5}, {"rate": 0.25}], file)
except search.CompileError as error:
    print(error)
"""


def test_a_full_disk_takes_no_trial_away(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    whole = '{"point": {"rate": 0.5}, "loss": 0.5}\n' * 3
    file.write_text(whole + '{"point": {"ra')
    command = [sys.executable, "-c", FULL_DISK, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"3\nCannot write {file}: File too large\n", done.stderr
    assert file.read_text().startswith(whole)
    assert search.search(_hill([]), [{"rate": 0.5}], file) == search.read_trials(file)[:1]


def test_a_search_that_cannot_be_kept_is_told_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tried = list[Point]()
    with pytest.raises(CompileError, match="Cannot write"):
        search.search(_hill(tried), [{"rate": 0.5, "decay": 0.0}], tmp_path / "file" / "trials")
    search.search(_hill(tried), [{"rate": 0.5, "decay": 0.0}], tmp_path / "folder" / "trials")
    assert len(tried) == 1


def test_equal_points_are_tried_once_and_what_is_no_number_is_infinite() -> None:
    tried = list[Point]()

    def measure(point: Point) -> float:
        tried.append(point)
        return math.nan

    trials = search.search(measure, [{"rate": 0.5}] * 3)
    assert [trial.loss for trial in trials] == [math.inf] * 3 and len(tried) == 1


def test_numpy_s_numbers_are_kept_in_a_search_s_file(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    points = search.grid_points({"rate": Choice(tuple(np.linspace(0, 1, 3, dtype=np.float32)))}, 3)

    def measure(point: Point) -> Any:
        return np.float32(point["rate"])

    trials = search.search(measure, points, str(file))
    assert [trial.loss for trial in search.read_trials(file)] == [0, 0.5, 1]
    assert search.search(_hill([]), points, file) == trials


def test_what_is_no_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="positive numbers from low to high"):
        Range(0, 1, log=True)
    with pytest.raises(CompileError, match="one number of each range"):
        search.grid_points(SPACE, 0)
    with pytest.raises(CompileError, match="Nothing has been tried"):
        search.best([])
    pytest.importorskip("optuna")
    file = tmp_path / "trials.jsonl"
    search.search(lambda point: 1.0, search.random_points({"width": Range(0, 1)}, 1), file)
    with pytest.raises(CompileError, match="not of this search's space, rate, width"):
        search.search_with_optuna(_hill([]), SPACE, 3, file)


def test_optuna_chooses_points_and_learns_from_the_file(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file, tried = tmp_path / "trials.jsonl", list[Point]()
    first = search.search_with_optuna(_hill(tried), SPACE, 10, file)
    trials = search.search_with_optuna(_hill(tried), SPACE, 30, file)
    assert trials[:10] == first
    assert len(tried) == 30
    assert search.best(trials).loss < 0.5
    assert search.search_with_optuna(_hill([]), SPACE, 14) == trials[:14]  # as if never interrupted


def test_pictures_are_drawn_whole_or_not_at_all(tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("matplotlib")
    trainer, data = _trainer(statistics=True), _data(rng)
    history = trainer.fit(data, epochs=2, validation=0.2)
    assert trainer.statistics is not None
    draw_history(history, tmp_path / "history.png")
    draw_gradients({"small": trainer.statistics}, tmp_path / "gradients.svg")
    draw_sweep(sweep_rates(_trainer, data, steps=10), tmp_path / "sweep.png")
    draw_trials([Trial({"rate": 0.1}, 1.0)], "rate", tmp_path / "trials.png", log=True)
    with pytest.raises(CompileError, match="nothing"):
        draw_history(history, tmp_path / "history.nothing")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["gradients.svg", "history.png", "sweep.png", "trials.png"]
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_are_the_network_s(rng: np.random.Generator) -> None:
    trainer, data = _trainer(), _data(rng)
    trainer.fit(data, epochs=1)
    (found,) = trainer.predict({"x": data["x"]}, batch=24)
    (expected,) = bessemer.compile(trainer.network).run({"x": data["x"]})
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_early_stopping_is_the_same_after_an_interruption(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """Targets without sense: the validation loss soon grows."""
    data = _data(rng) | {"t": rng.standard_normal((64, 2)).astype(np.float32)}
    options: Any = {"batch": 8, "validation": 0.4, "patience": 3}
    whole = _trainer(lambda step: 3.0)
    expected = whole.fit(data, epochs=200, **options)
    losses = expected.epochs["validation loss"]
    assert len(losses) < 200
    assert losses.index(min(losses)) == len(losses) - 4
    file = tmp_path / "state.safetensors"
    _trainer(lambda step: 3.0).fit(data, epochs=len(losses) - 2, checkpoint=file, **options)
    again = _trainer(lambda step: 3.0)
    assert again.fit(data, epochs=200, checkpoint=file, **options).losses == expected.losses
    for name, array in whole.state.items():
        assert array.tobytes() == again.state[name].tobytes()
    assert again.evaluate(data)["loss"] == whole.evaluate(data)["loss"]
