"""Recurrences store what products read in panels themselves, if no near cache would hold it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.targets.choose import host_target, parse_target
from bessemer.compiler.targets.machine import Target
from tests.planned import planned

STEPS, BATCH, HIDDEN = 100, 16, 64
AVX512 = parse_target("x86_64-avx512")


def _weight_gradients() -> Graph:
    """The way back through an rnn, and two gradients of weights: one is a sum of depth blocks,
    the other of halves."""
    b = GraphBuilder("step")
    steps = TensorType(f32, (STEPS, BATCH, HIDDEN))
    dy, y = (b.input(name, steps) for name in ("dy", "y"))
    w, dh = (
        b.input("w", TensorType(f32, (HIDDEN, HIDDEN))),
        b.input("dh", steps.with_shape(steps.shape[1:])),
    )
    dgates, _ = b.apply_many("rnn_gradient", dy, w, dh, y)
    rows = b.apply("reshape", dgates, shape=(STEPS * BATCH, HIDDEN))
    found = []
    for name, features in (("x", 256), ("z", 170)):
        x = b.input(name, TensorType(f32, (STEPS * BATCH, features)))
        found.append(b.apply("matmul", b.apply("transpose", x, permutation=(1, 0)), rows))
    return b.finish(found)


def _on(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has compilers see this machine."""
    for module in ("bessemer.compiler.driver", "tests.planned"):
        monkeypatch.setattr(f"{module}.processor_of", lambda _: target)


@pytest.mark.parametrize("last_cache", [1 << 20, 16 << 20])
def test_only_what_is_large_is_stored_twice(
    last_cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(replace(AVX512, last_cache=last_cache), monkeypatch)
    names = [step.kernel.name for step in launches(planned(_weight_gradients()).program.steps)]
    packs = [name for name in names if name.startswith("pack")]
    if last_cache == 1 << 20:
        assert "rnn_gradient_panels_panels_panels_panels" in names and not packs
    else:
        assert "rnn_gradient" in names and len(packs) == 4


def test_gradients_of_stored_panels_are_what_numpy_computes(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(replace(host_target(), last_cache=1 << 20), monkeypatch)
    graph = _weight_gradients()
    given = {
        v.name: 0.1 * rng.standard_normal(v.type.static_shape).astype(np.float32)
        for v in graph.inputs
    }
    compiled = build(graph, Options())
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 2)
    rows = _gates_gradient(
        **{name: given[name].astype(np.float64) for name in ("dy", "y", "w", "dh")}
    )
    for found, x in zip(model.run(given), ("x", "z"), strict=True):
        exact = given[x].T.astype(np.float64) @ rows
        assert np.linalg.norm(found - exact) <= 1e-6 * np.linalg.norm(exact)


def _gates_gradient(dy: Array, y: Array, w: Array, dh: Array) -> Array:
    """What comes to the sums in front of tanh, [steps * sequences, hidden], step by step back."""
    found = np.empty_like(dy)
    for time in range(STEPS - 1, -1, -1):
        found[time] = (dy[time] + dh) * (1 - y[time] ** 2)
        dh = found[time] @ w
    return found.reshape(-1, HIDDEN)
