"""The tuner, and what a tuning does to a compilation: it changes the speed, and nothing else."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Choice, Options, Tuning
from bessemer.compiler.schedule.lowering import choices
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.tuning import contest, tune
from bessemer.frontends.tuning.contest import Contest
from bessemer.frontends.tuning.tune import tune_model
from bessemer.frontends.tuning_file import read_tuning, write_tuning
from tests.command_line import run_command, save_net
from tests.planned import planned

RNG = np.random.default_rng(5)
X = RNG.standard_normal((1, 10, 10, 16)).astype(np.float32)
FILTERS = RNG.standard_normal((3, 3, 16, 32)).astype(np.float32)
DEPTHS = RNG.standard_normal((3, 3, 1, 32)).astype(np.float32)
WEIGHTS = RNG.standard_normal((32, 70)).astype(np.float32)
WINDOWS = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}


def _network() -> Graph:
    """A convolution, a depthwise one and a product, all with weights."""
    builder = GraphBuilder("network")
    x = builder.input("x", TensorType(f32, X.shape))
    y = builder.apply("conv", x, builder.constant(FILTERS), **WINDOWS, groups=1)
    y = builder.apply("relu", y)
    y = builder.apply("conv", y, builder.constant(DEPTHS), **WINDOWS, groups=32)
    y = builder.apply("reshape", y, shape=(100, 32))
    y = builder.apply("matmul", y, builder.constant(WEIGHTS))
    return builder.finish([y], ["y"])


def _expected() -> Array:
    """The same in float64."""
    wide = np.pad(X[0].astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    images = np.zeros((10, 10, 32))
    for i in range(3):
        for j in range(3):
            images += wide[i : i + 10, j : j + 10] @ FILTERS[i, j]
    wide = np.pad(np.maximum(images, 0), ((1, 1), (1, 1), (0, 0)))
    result = np.zeros((10, 10, 32))
    for i in range(3):
        for j in range(3):
            result += wide[i : i + 10, j : j + 10] * DEPTHS[i, j, 0]
    return np.asarray(result.reshape(100, 32) @ WEIGHTS)


def _made(choices: dict[str, dict[str, int]] | None = None) -> Compilation:
    return build(_network(), Options(tuning=Tuning(choices or {}, explore=True)))


def _decided() -> dict[str, Any]:
    return {decision.signature: decision for decision in _made().program.decisions}


def test_decisions_list_what_else_could_be_chosen() -> None:
    found = _decided()
    kinds = sorted(signature.split()[0] for signature in found)
    assert kinds in (["contraction", "depthwise", "winograd"], ["contraction"] * 2 + kinds[2:])
    for decision in found.values():
        assert decision.others
        assert decision.choice not in decision.others
    assert all(not d.others for d in planned(_network()).program.decisions)


def _each_choice() -> list[tuple[str, dict[str, int]]]:
    """Some of every kernel's choices, the first and the last among them."""
    found = []
    for signature, decision in _decided().items():
        chosen = [*decision.others[:-1:4], decision.others[-1]]
        found += [(signature, dict(other)) for other in chosen]
    return found


def test_every_choice_computes_the_same_network() -> None:
    """Forms of all kernels, with blocks and inner loops changed as well."""
    expected = _expected()
    waiting = _each_choice()
    rounds = 0
    while waiting:
        chosen: dict[str, dict[str, int]] = {}
        for signature, choice in list(waiting):
            if signature not in chosen:
                if "height" in choice:
                    choice |= {
                        "block": 1 + rounds,
                        "unroll": 1 + rounds % 8,
                        "prefetch": rounds % 2,
                    }
                chosen[signature] = choice
                waiting.remove((signature, choice))
        rounds += 1
        made = build(_network(), Options(tuning=Tuning(chosen)))
        alone, together = (
            load_code(made.code, made.weights, machine_of(made.target), threads).run([X])[0]
            for threads in (1, 2)
        )
        np.testing.assert_array_equal(alone, together)
        error = np.linalg.norm(alone - expected) / np.linalg.norm(expected)
        assert error < 1e-6, chosen
    assert rounds >= 2


def test_a_choice_changes_the_code_and_nothing_else_does() -> None:
    (name,) = (n for n in _decided() if n.startswith("contraction") and "columns 70" in n)
    plain, again = (build(_network(), Options()).code.object for _ in range(2))
    assert plain == again
    choice = {"height": 3, "vectors": 1}
    tuned = [build(_network(), Options(tuning=Tuning({name: choice}))) for _ in range(2)]
    assert tuned[0].code.object == tuned[1].code.object != plain
    stranger = Tuning({"contraction of another model": choice})
    assert build(_network(), Options(tuning=stranger)).code.object == plain


def test_what_no_tuner_writes_is_refused() -> None:
    name = next(n for n in _decided() if n.startswith("contraction"))
    for wrong in ({"height": 0}, {"vectors": 9}, {"speed": 1}, {"height": "tall"}):
        with pytest.raises(CompileError, match="tuning"):
            build(_network(), Options(tuning=Tuning({name: wrong})))  # type: ignore[dict-item]


def test_tiles_that_the_kernels_do_not_have_any_more_are_not_made() -> None:
    """Large windows once had tiles of several rows."""
    builder = GraphBuilder("large")
    x = builder.input("x", TensorType(f32, X.shape))
    filters = RNG.standard_normal((7, 7, 1, 16)).astype(np.float32)
    around = {**WINDOWS, "low": (3, 3), "high": (3, 3)}
    y = builder.apply("conv", x, builder.constant(filters), **around, groups=16)
    graph = builder.finish([y])
    plain = build(graph, Options())
    (decision,) = plain.program.decisions
    tuned = build(graph, Options(tuning=Tuning({decision.signature: {"rows": 2, "columns": 4}})))
    assert tuned.code.object == plain.code.object


def test_a_file_keeps_choices_by_target(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    target = host_target()
    write_tuning(path, Tuning({"one": {"height": 3}}), target)
    write_tuning(path, Tuning({"two": {"height": 5}}), target)
    assert dict(read_tuning(path, target).choices) == {"one": {"height": 3}, "two": {"height": 5}}
    content = json.loads(path.read_text())
    content["targets"]["elsewhere"] = content["targets"].pop(target.name)
    path.write_text(json.dumps(content))
    assert not read_tuning(path, target).choices
    for damaged in (
        "",
        "[]",
        '{"format": 9}',
        f'{{"format": 1, "targets": {{"{target.name}": 3}}}}',
    ):
        path.write_text(damaged)
        with pytest.raises(CompileError):
            read_tuning(path, target)


def test_the_tuner_keeps_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """With times that are made up: tiles of one vector take half as long as others."""
    real = tune._by_signature

    def made_up(model: Any, nanoseconds: Array) -> dict[str, float]:
        chosen = {d.signature: d.choice for d in model.compilation.program.decisions}
        return {
            name: 5e-4 if chosen[name].get("vectors") == 1 else 1e-3
            for name in real(model, nanoseconds)
        }

    monkeypatch.setattr(tune, "_by_signature", made_up)
    monkeypatch.setattr(tune, "_TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(tune, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(tune, "_holds", lambda before, after: True)
    monkeypatch.setattr(contest, "_STAGES", ())
    monkeypatch.setattr(choices, "_MOST_OTHERS", 4)
    found = tune_model(_network(), Options(threads=1), 60.0)
    assert found.trials >= 3
    product = next(n for n in found.contests if n.startswith("contraction") and "columns 70" in n)
    if any(other.get("vectors") == 1 for other in _decided()[product].others):
        assert found.tuning.choices[product]["vectors"] == 1
        assert found.contests[product].ratio == pytest.approx(0.5)
    assert all(one.get("vectors", 1) == 1 for one in found.tuning.choices.values())


def test_a_tuned_model_that_is_not_faster_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(tune, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(tune, "_holds", lambda before, after: False)
    monkeypatch.setattr(contest, "_STAGES", ())
    monkeypatch.setattr(contest, "_BETTER", 1e9)  # everything wins its trial
    monkeypatch.setattr(choices, "_MOST_OTHERS", 1)
    found = tune_model(_network(), Options(threads=1), 60.0)
    assert found.trials >= 1
    assert not found.tuning.choices
    assert found.before == found.after


def test_stages_follow_the_best_so_far() -> None:
    one = Contest({"height": 14, "vectors": 2, "block": 8, "unroll": 4, "prefetch": 0}, 0.5)
    one.waiting = [{"height": 6, "vectors": 4}]
    assert one.next() == {"height": 6, "vectors": 4}
    one.best = {"height": 6, "vectors": 4}
    blocks = [one.next() for _ in range(4)]
    assert [choice["block"] for choice in blocks if choice] == [4, 16, 2, 32]
    assert all(choice and choice["height"] == 6 for choice in blocks)
    rest = []
    while (choice := one.next()) is not None:
        rest.append(choice)
    assert {"unroll": 1, "prefetch": 0}.items() <= rest[1].items()
    assert rest[0]["prefetch"] == 1


def test_of_forms_that_are_equal_the_first_stays() -> None:
    """Whatever their times' last bits are: a tuning is the same wherever the clock is."""
    one = Contest({"height": 14}, 0.5)
    one.judge({"height": 6}, 0.5)
    one.judge({"height": 7}, 0.5 - 1e-16)
    assert one.best == {"height": 6}
    one.judge({"height": 8}, 0.4)
    assert one.best == {"height": 8}


class _OneKernel:
    """A tuner of one kernel, whose second form is faster; Ctrl-C comes with the third."""

    def __init__(self) -> None:
        self.contests = {"one": Contest({"height": 1}, 1.0, waiting=[{"height": 2}] * 2)}
        self.trials = 0

    def attempt(self, entries: Mapping[str, Choice]) -> None:
        if self.trials:
            raise KeyboardInterrupt
        self.contests["one"].judge(entries["one"], 0.5)


def test_ctrl_c_ends_the_trials_and_keeps_what_they_found() -> None:
    told: list[str] = []
    tuner, end = _OneKernel(), time.monotonic() + 60
    assert contest.run_trials(tuner, 0.0, end, True, told.append)
    assert tuner.trials == 1 and "interrupted" in told[-1]
    assert contest.winners(tuner.contests) == {"one": {"height": 2}}
    with pytest.raises(KeyboardInterrupt):
        contest.run_trials(_OneKernel(), 0.0, end, False, told.append)


def test_an_interrupted_command_writes_what_was_found_and_ends_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, interruptible: bool, **__: object) -> contest.Tuned:
        assert interruptible
        return contest.Tuned(Tuning({"one": {"height": 2}}), {}, 1, 2.0, 1.0, interrupted=True)

    net, made = save_net(tmp_path), tmp_path / "net.o"
    for module, words in (("tune", ("-o",)), ("compile", ("-o", made, "--tune", 9, "--tuning"))):
        path = tmp_path / f"{module}.json"
        monkeypatch.setattr(f"bessemer.frontends.cli.{module}.tune_model", interrupted)
        code, _, told = run_command(module, net, *words, path)
        assert code == 130 and "interrupted" in told
        assert read_tuning(path, host_target()).choices == {"one": {"height": 2}}
    assert made.exists()


def test_compile_remembers_its_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path))
    net = save_net(tmp_path)
    bessemer.compile(net, tune=0.5, threads=1)
    (kept,) = (tmp_path / "tuning").iterdir()
    before = kept.read_bytes()
    monkeypatch.setattr("bessemer.frontends.tuning.tune.tune_model", None)  # not called again
    model = bessemer.compile(net, tune=0.5, threads=1)
    assert kept.read_bytes() == before
    assert model.run([np.ones((2, 30), np.float32)])[0].shape == (2, 9)


def test_a_tuning_that_cannot_be_kept_or_read_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, count = save_net(tmp_path), 0

    def tuned(*_: object) -> contest.Tuned:
        nonlocal count
        count += 1
        return contest.Tuned(Tuning({"one": {"height": 2}}), {}, 1, 1.0, 1.0)

    monkeypatch.setattr("bessemer.frontends.tuning.tune.tune_model", tuned)
    (tmp_path / "file").write_text("")
    for place in ("file", "x" * 300):
        monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path / place))
        bessemer.compile(net, tune=0.5, threads=1)
    assert count == 2
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path / "cache"))
    bessemer.compile(net, tune=0.5, threads=1)
    (kept,) = (tmp_path / "cache" / "tuning").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-20])
    for _ in range(2):
        bessemer.compile(net, tune=0.5, threads=1)
        assert (count, kept.read_bytes()) == (4, whole)


def test_the_commands_tune_and_compile(tmp_path: Path) -> None:
    net, path = save_net(tmp_path), tmp_path / "choices.json"
    code, out, _ = run_command("tune", net, "--seconds", "1", "-o", path)
    assert code == 0
    assert "trials" in out and path.exists()
    made = tmp_path / "net.o"
    assert run_command("compile", net, "-o", made, "--tuning", path)[0] == 0
    assert made.exists()
    assert run_command("compile", net, "-o", made, "--tuning", tmp_path / "none.json")[0] == 1
    assert run_command("compile", net, "-o", made, "--tune", "1", "--target", "x86_64-sse")[0] != 0


def test_a_tuning_without_time_or_without_a_file_says_so(tmp_path: Path) -> None:
    net = save_net(tmp_path)
    code, _, told = run_command("tune", net, "--seconds", "0")
    assert code == 0 and "--seconds 0 were over before anything was tried" in told
    code, _, told = run_command("tune", net, "--seconds", "60", "-o", net)
    assert code == 1 and "is not a tuning that" in told
