"""The tuner for GPUs, on the emulator: its clock is made up, or counts instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.options import Options, Tuning
from bessemer.compiler.targets.nvptx import SM80, SM90A
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.tuning.contest import Tuned
from bessemer.frontends.tuning.device_key import device_key
from bessemer.frontends.tuning.tune_device import MOST_TRIALS, tune_for_device
from bessemer.frontends.tuning_file import (
    read_choices,
    read_tuning,
    write_choices,
)
from bessemer.runtime.cuda.driver import DeviceError, Triple
from bessemer.runtime.cuda.model import DeviceModel
from bessemer.runtime.cuda.program_file import read_forms
from bessemer.runtime.cuda.timed import Effort, TimedModel
from emulator.driver import EmulatedDevice, EmulatedDriver
from emulator.state.machine import LaunchShape
from tests.command_line import run_command, save_net
from tests.device_runs import assert_close, graph_of

QUICK = Effort(0.0, 1)
RNG = np.random.default_rng(7)
X = RNG.standard_normal((40, 64)).astype(np.float32)
W = RNG.standard_normal((64, 512)).astype(np.float32)


def _network() -> Graph:
    """A product and the largest of its rows."""
    builder = GraphBuilder("network")
    x = builder.input("x", TensorType(f32, X.shape))
    y = builder.apply("matmul", x, builder.constant(W))
    return builder.finish([builder.apply("reduce_max", y, axes=(1,)), y], ["most", "y"])


@dataclass
class ClockedDriver(EmulatedDriver):
    """Nothing is computed, and a launch takes what `cost` says; what is in `refused`, a kernel's
    name and its threads, is not launched."""

    refused: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tick = 1e-6
        self.seen: list[tuple[str, int, int]] = []

    def launch(
        self,
        function: int,
        grid: Triple,
        block: Triple,
        shared: int,
        stream: int,
        parameters: Sequence[bytes],
    ) -> None:
        name = self._things[function].name
        if (name, block[0]) in self.refused:
            raise DeviceError(f"{name}: too many resources", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
        super().launch(function, grid, block, shared, stream, parameters)

    def _run(self, function: Any, shape: LaunchShape) -> None:
        self.launches += 1
        self.seen.append((function.name, shape.block[0], shape.grid[0]))
        self.instructions += self.cost(shape)

    def cost(self, shape: LaunchShape) -> int:
        """Ticks of a launch: 256 threads are best, and of those kernels that with fewest blocks."""
        return 100 + 8 * abs(shape.block[0] - 257) + shape.blocks


def _tuned(driver: EmulatedDriver, seconds: float = 60.0) -> Tuned:
    return tune_for_device(_network(), Options(), seconds, SM80, driver, effort=QUICK)


def _choices(tuned: Tuned) -> dict[str, dict[str, int]]:
    return {name.split()[0]: dict(one) for name, one in tuned.tuning.choices.items()}


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    return _tuned(ClockedDriver())


def test_the_fastest_form_of_every_kernel_is_taken(tuned: Tuned) -> None:
    found = _choices(tuned)
    assert found["rows"] == {"threads": 256, "group": 256}
    assert found["contraction"]["tile_columns"] == 128
    assert found["contraction"]["split"] == 1
    assert tuned.after < tuned.before
    assert all(one.tried < MOST_TRIALS for one in tuned.contests.values())
    model = build_for_device(_network(), Options(), SM80)
    assert all(k.threads != 256 for k in model.artifact.kernels)


def test_a_tuned_model_computes_the_same(tuned: Tuned) -> None:
    made = build_for_device(_network(), Options(tuning=tuned.tuning), SM80)
    assert {kernel.threads for kernel in made.artifact.kernels} == {256}
    largest, y = DeviceModel(made.artifact, made.weights, EmulatedDriver()).run([X])
    expected = X.astype(np.float64) @ W
    assert_close(y, expected)
    assert_close(largest, expected.max(axis=1))


def test_a_form_that_the_device_refuses_has_lost(tuned: Tuned) -> None:
    made = build_for_device(_network(), Options(), SM80)
    rows = made.artifact.kernels[1].name
    found = _choices(_tuned(ClockedDriver(refused=((rows, 256),))))
    assert found["contraction"] == _choices(tuned)["contraction"]
    assert found["rows"]["threads"] == 128


def test_a_device_that_fails_with_the_model_as_it_is_says_so() -> None:
    made = build_for_device(_network(), Options(), SM80)
    every = tuple((kernel.name, kernel.threads) for kernel in made.artifact.kernels)
    with pytest.raises(DeviceError, match="resources"):
        _tuned(ClockedDriver(refused=every))


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan"), "9 s"])
def test_tuning_takes_seconds(seconds: Any) -> None:
    with pytest.raises(CompileError, match=r"tune=.* is not a number of seconds"):
        _tuned(ClockedDriver(), seconds)


def test_without_time_the_model_decides() -> None:
    found = _tuned(ClockedDriver(), seconds=0.0)
    assert not found.tuning.choices
    assert found.trials == 0


@pytest.mark.slow
def test_what_was_found_is_kept_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path))

    def made(driver: ClockedDriver, seconds: float = 60.0) -> list[int]:
        model = bessemer.compile(_network(), target="cuda", driver=driver, tune=seconds)
        driver.seen.clear()
        model.run([X])
        return [threads for _, threads, _ in driver.seen]

    device = EmulatedDevice("a device", (8, 0), memory=1 << 26)
    first, again = ClockedDriver(device=device), ClockedDriver(device=device)
    assert made(first) == [256, 256]
    (kept,) = (tmp_path / "tuning").iterdir()
    assert made(again) == [256, 256]
    assert again.launches < first.launches / 4
    assert list((tmp_path / "tuning").iterdir()) == [kept]
    made(ClockedDriver(device=replace(device, name="another")), 0.001)
    assert len(list((tmp_path / "tuning").iterdir())) == 2


def test_files_keep_choices_by_device(tmp_path: Path, tuned: Tuned) -> None:
    path = tmp_path / "choices.json"
    driver = EmulatedDriver(device=EmulatedDevice("NVIDIA H200"))
    key = device_key(driver, 0, SM90A)
    assert key == "NVIDIA H200, 9.0, nvptx:sm_90a, PTX 8.0"
    write_choices(path, tuned.tuning, key)
    assert dict(read_tuning(path, SM90A).choices) == dict(tuned.tuning.choices)
    assert not read_tuning(path, SM80).choices
    write_choices(path, Tuning({"one": {"split": 2}}), "Other, 9.0, nvptx:sm_90a, PTX 8.0")
    assert dict(read_choices(path, key).choices) == dict(tuned.tuning.choices)
    with pytest.raises(CompileError, match=r"several devices: NVIDIA H200, .*; Other"):
        read_tuning(path, SM90A)


def test_kernels_are_timed_one_by_one() -> None:
    """On the clock that counts instructions, twice the rows take about twice as long."""

    def seconds(rows: int) -> float:
        x = np.zeros((rows, 256), np.float32)
        graph = graph_of(lambda b, v: b.apply("reduce_sum", v, axes=(1,)), [x])
        made = build_for_device(graph, Options(), SM80)
        driver = EmulatedDriver(tick=1e-9)
        model = TimedModel(made.artifact, made.weights, driver)
        found = model.measure([x], {0}, Effort(0.0, 3))
        assert not found.errors
        launches = driver.launches
        whole = model.whole([model.place(x)], [model.place(np.zeros(rows, np.float32))], QUICK)
        assert driver.launches == launches + 3
        assert whole == pytest.approx(found.seconds[0])
        return found.seconds[0]

    assert seconds(512) == pytest.approx(2 * seconds(256), rel=0.05)


def test_a_tuning_is_the_same_code_wherever_it_is_used(tuned: Tuned) -> None:
    texts = [
        build_for_device(_network(), Options(tuning=one), SM80).artifact.ptx
        for one in (tuned.tuning, tuned.tuning, Tuning())
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_the_command_line_takes_the_file_of_a_device(tmp_path: Path) -> None:
    net, file = save_net(tmp_path), tmp_path / "choices.json"
    plain = bessemer.compile(net, target="nvptx:sm_80", driver=ClockedDriver()).program.ptx
    best = bessemer.compile(net, target="nvptx:sm_80", driver=ClockedDriver(), tune=60.0).program
    assert best.ptx != plain
    graph = as_graph(net)
    found = tune_for_device(graph, Options(), 60.0, SM80, ClockedDriver(), effort=QUICK)
    write_choices(file, found.tuning, "some device, 8.6, nvptx:sm_80, PTX 7.0")
    made = tmp_path / "net.bessemer"
    words = ("compile", net, "-o", made, "--target", "nvptx:sm_80", "--tuning", file, "-q")
    assert run_command(*words)[0] == 0
    assert [form.program.ptx for form in read_forms(made)] == [best.ptx]
