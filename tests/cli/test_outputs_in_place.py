"""Commands that measure a model write its outputs where a program that goes on would have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.frontends.outputs_in_place import behind_inputs, over_inputs
from bessemer.frontends.profiling.profile import compile_profiled
from bessemer.runtime.arrays import address, places_along
from tests.command_line import run_command
from tests.onnx_check import parsed


def _cache() -> onnx.ModelProto:
    """A cache that grows, and one that is written over."""
    return parsed("""g (float[b, n, 4] past, float[b, s, 4] new, float[8, 4] state, int64[1, 1] at,
            float[1, 4] row) => (float[b, t, 4] present, float[b, t, 4] y, float[8, 4] written) {
        present = Concat<axis = 1>(past, new) y = Exp(present)
        written = ScatterND(state, at, row)
    }""")


def _given() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    shapes = {"past": (2, 5, 4), "new": (2, 2, 4), "state": (8, 4), "row": (1, 4)}
    given: dict[str, Array] = {
        name: rng.random(shape, np.float32) for name, shape in shapes.items()
    }
    return {**given, "at": np.array([[3]])}


def test_what_a_run_continues_lies_in_one_array() -> None:
    given = _given()
    model = bessemer.compile(_cache(), threads=1, cache=False, grow_in_place=True)
    arrays: Any
    arrays, out = behind_inputs(model, given)
    assert out is not None and out[0] is not None and out[1] is None and out[2] is None
    assert address(arrays[0]) == address(out[0]) and places_along(arrays[0], 1) == 7
    for found in (model.run(arrays, out), model.run(arrays, out)):
        for one, other in zip(found, model.run(given), strict=True):
            np.testing.assert_array_equal(one, other)
    arrays, out, first = over_inputs(model, given)
    assert out is not None and out[0] is not None and address(arrays[0]) == address(out[0])
    assert arrays[2] is out[2] and [value.shape for _, value in first] == [(8, 4)]


def test_what_a_run_continues_may_be_given_as_lists() -> None:
    given = _given()
    model = bessemer.compile(_cache(), threads=1, cache=False, grow_in_place=True)
    wanted = model.run(given)
    arrays, out, _ = over_inputs(model, {name: array.tolist() for name, array in given.items()})
    for one, other in zip(model.run(arrays, out), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_continues_nothing_takes_its_inputs_as_they_are() -> None:
    model, given = bessemer.compile(_cache(), threads=1, cache=False), _given()
    assert behind_inputs(model, given) == (given, None)


def test_a_profile_of_such_a_model_counts_what_is_written() -> None:
    model = compile_profiled(_cache(), threads=1, grow_in_place=True)
    names = [kernel.kernel for kernel in model.profile(_given(), seconds=0.0).kernels]
    assert "tensor_scatter" in names


def test_commands_measure_such_a_model(tmp_path: Path) -> None:
    onnx.save(_cache(), tmp_path / "cache.onnx")
    options = ("--grow-in-place", "--seconds", "0.01", "--json")
    for command, key in (("profile", "kernels"), ("tune", "before"), ("bench", "systems")):
        more = ("--threads", "1", "--rounds", "1", "--against", "") if command == "bench" else ()
        code, text, messages = run_command(command, tmp_path / "cache.onnx", *options, *more)
        assert code == 0, messages
        found = json.loads(text)
        assert found[key]
        if command == "bench":
            assert "median" in found["systems"][0], found
    code, _, messages = run_command(
        "tune", tmp_path / "cache.onnx", "--grow-in-place", "--target", "cuda"
    )
    assert code == 2 and "--grow-in-place is for processors" in messages
