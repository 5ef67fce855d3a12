"""The C entry writes outputs to the caller's arrays, and leaves to Python code what is unusual.

Arrays that are refused are among the unusual arguments of test_entry.py.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import Machine
from bessemer.compiler.jit import load_code
from bessemer.runtime import runner
from bessemer.runtime.errors import InputError
from bessemer.runtime.model import CompiledModel
from tests import handmade
from tests.runtime.test_entry import EMPTY, relu_model, relu_reference


@pytest.fixture(scope="module")
def pair() -> CompiledModel:
    return load_code(handmade.pair(), EMPTY, Machine(handmade.HOST))


def test_outputs_go_where_the_caller_wants_them(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    model = relu_model()
    x = rng.standard_normal((5, 4), np.float32)
    y = np.empty_like(x)
    model.run([x])
    monkeypatch.delattr(runner, "in_order")  # what the Python code begins with
    run: Callable[..., Any] = model.run
    outs: list[Any] = [y, [y], (y,), {"y": y}]
    for out in outs:
        for arguments, named in ((([x], out), {}), (([x],), {"out": out})):
            y[...] = np.nan
            given = run(*arguments, **named)
            assert type(given) is list and given[0] is y
            np.testing.assert_array_equal(y, relu_reference(x))
    for made in (model.run([x], None), model.run([x], out=None)):
        assert made[0] is not y
        np.testing.assert_array_equal(made[0], relu_reference(x))
    with pytest.raises(NameError, match="in_order"):
        model.run([x], [None])


def test_shapes_may_change_from_call_to_call(rng: np.random.Generator) -> None:
    model = relu_model()
    for batch in (1, 1, 7, 0, 0, 5001, 3):
        x = rng.standard_normal((batch, 4), np.float32)
        y = np.empty_like(x)
        assert model.run([x], y)[0] is y
        np.testing.assert_array_equal(y, relu_reference(x))


def test_arrays_that_overlap_are_refused(pair: CompiledModel) -> None:
    memory = np.zeros(64, np.float32)
    x, p, q = memory[:8], memory[8:16], memory[16:24]
    for _ in range(2):
        given = pair.run([x], [p, q])
        assert given[0] is p and given[1] is q
        pair.run({"x": x}, {"q": p, "p": q})
        for out in ([p, p], [p, memory[15:23]], [memory[7:15], q], [p, memory[1:9]]):
            with pytest.raises(InputError, match="overlaps"):
                pair.run([x], out)
    given = pair.run([x], [None, q])
    assert given[1] is q and given[0].shape == (8,)


def test_no_reference_is_lost_or_kept(pair: CompiledModel) -> None:
    x, p, q = (np.zeros(8, np.float32) for _ in range(3))
    outs: list[Any] = [[p, q], {"p": p, "q": q}]
    refused: list[Any] = [[p, p], [p, q[:4]], {"p": p, "r": q}, [p, x]]
    watched = [x, p, q, np.dtype(np.float32), *outs, "out"]

    def work() -> None:
        for _ in range(500):
            for out in outs:
                pair.run([x], out)
                pair.run([x], out=out)
            for out in refused:
                with pytest.raises(InputError):
                    pair.run([x], out)

    work()
    gc.collect()
    before = [sys.getrefcount(one) for one in watched]
    work()
    gc.collect()
    assert np.abs(np.subtract([sys.getrefcount(one) for one in watched], before)).max() < 20
