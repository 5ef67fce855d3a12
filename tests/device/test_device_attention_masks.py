"""Attention with masks that hide keys from rows: tiles that nobody sees are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.ir import expr, walk_loops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Symbol, atom
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.loops import Attend
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, boolean, f32
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.device import attention as schedule
from bessemer.compiler.schedule.device.attention_mask import farthest_key
from bessemer.compiler.targets.nvptx import SM80
from bessemer.frontends.builder import Input, MultiHeadAttention, Network
from bessemer.runtime.cuda.model import DeviceModel
from emulator.driver import EmulatedDriver
from tests.device.test_device_attention import (
    F32,
    Case,
    attend_of,
    attention,
    constant_of,
    softmax_of,
)
from tests.device_runs import run_compiled, run_device_graph


def _seen_until(graph: Graph) -> Any:
    """Where the keys end that the first rows of a graph's attention see."""
    found = attend_of(graph, SM80)
    assert found is not None
    kernel, attend = found
    verify_kernel(parse_kernel(print_kernel(kernel)))
    return attend.key_end


def test_keys_behind_a_row_are_left_out(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for skipped in (True, False):
        if not skipped:
            monkeypatch.setattr(schedule, "farthest_key", lambda *_: None)
        graph, arrays, _ = attention(Case(128, 256, 16, causal=True, batch=(1,)), rng)
        assert (_seen_until(graph) is not None) == skipped
        made = build_for_device(graph, Options(), SM80)
        driver = EmulatedDriver()
        DeviceModel(made.artifact, made.weights, driver).run(arrays)
        counts.append(driver.instructions)
    # Of 256 keys rows see 129 to 256, in tiles of 64: seven eighths.
    assert counts[0] < 0.94 * counts[1]


def _hidden(b: GraphBuilder, scores: Value, seen: Value, lowest: float) -> Value:
    low = constant_of(b, np.float32(lowest), scores)
    return b.apply("select", b.apply("broadcast_to", seen, shape=scores.type.shape), scores, low)


@pytest.mark.slow
def test_rows_that_see_nothing_look_at_all_keys(rng: np.random.Generator) -> None:
    """A padding mask may leave a row without keys: then all count alike, the hidden ones too."""
    b = GraphBuilder("padded")
    arrays = [rng.standard_normal((1, 96, 16)).astype(F32) for _ in "qkv"]
    q, k, v = (b.input(n, TensorType(f32, a.shape)) for n, a in zip("qkv", arrays, strict=True))
    scores = b.apply("matmul", q, b.apply("transpose", k, permutation=(0, 2, 1)))
    pad = np.zeros((1, 1, 96), np.float32)
    pad[..., :40] = -1e30
    padding = b.apply("broadcast_to", b.input("pad", TensorType(f32, pad.shape)), shape=(1, 96, 96))
    seen, lowest = np.tril(np.ones((96, 96), bool)), float(np.float32(-1e30))
    scores = _hidden(b, b.apply("add", scores, padding), b.constant(seen), lowest)
    graph = b.finish([b.apply("matmul", softmax_of(b, scores), v)], ["y"])
    assert _seen_until(graph) is not None
    x, y, z = (array.astype(np.float64) for array in arrays)
    e = np.where(seen, x @ np.swapaxes(y, 1, 2) + pad, lowest)
    e = np.exp(e - e.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True) @ z
    (actual,) = run_device_graph(graph, [*arrays, pad], SM80)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_a_mask_over_any_length_is_understood(rng: np.random.Generator) -> None:
    network = Network(
        MultiHeadAttention(2, causal=True), Input("x", ("n", "t", 32), "float32"), seed=1
    )
    made = build_for_device(network.graph, Options(), SM80)
    found = [
        s
        for step in made.program.steps
        if isinstance(step, Launch)
        for s in walk_loops.walk(step.kernel.body)
        if isinstance(s, Attend)
    ]
    assert found
    assert all(s.key_end is not None for s in found)
    for time in (3, 70):
        x = rng.standard_normal((1, time, 32)).astype(F32)
        expected = bessemer.compile(network, cache=False).run([x])[0]
        (actual,) = run_compiled(made, [x], again=False)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("mask", "farthest"),
    [
        (np.tril(np.ones((6, 9), bool)), 0),
        (np.tril(np.ones((6, 9), bool), 3), 3),
        (np.triu(np.ones((6, 9), bool)), 8),
        (np.zeros((6, 9), bool), None),
        (np.where(np.tril(np.ones((6, 9), bool), -1), 0, -np.inf).astype(F32), -1),
        (np.where(np.tril(np.ones((6, 9), bool), 1), 0, -9).astype(F32), 8),
    ],
)
def test_what_a_constant_mask_shows(mask: Array, farthest: int | None) -> None:
    row, key = Symbol("row", 6), Symbol("key", 9)
    buffer = Buffer("mask", f32 if mask.dtype == F32 else boolean, (54,))
    element = expr.load(buffer, (atom(row) * 9 + atom(key),))
    score = expr.read("score", f32)
    if mask.dtype == F32:
        score = score + element
    else:
        score = expr.select(element, score, expr.constant(-np.inf, f32))
    assert farthest_key(score, row, key, {"mask": mask.reshape(-1)}) == farthest
