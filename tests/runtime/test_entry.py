"""The C entry by which Python calls a model does what the Python code behind it does.

`model.run` is the entry, `CompiledModel.run(model, ...)` the Python code.
"""

from __future__ import annotations

import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import Machine
from bessemer.compiler.jit import aligned_weights, link, load_code
from bessemer.runtime import runner
from bessemer.runtime.errors import ExecutionError, InputError
from bessemer.runtime.model import CompiledModel, load
from tests import handmade

EMPTY = np.empty(0, np.uint8)


def relu_model(threads: int = 1) -> CompiledModel:
    code, weights = handmade.relu()
    return load_code(code, weights, Machine(handmade.HOST), threads)


def relu_reference(x: Any) -> Any:
    return np.maximum(x, 0) * np.arange(1, 5, dtype=np.float32)


@pytest.fixture(scope="module")
def relu() -> CompiledModel:
    return relu_model()


@pytest.fixture(scope="module")
def related() -> CompiledModel:
    return load_code(handmade.related(), EMPTY, Machine(handmade.HOST))


def test_compiled_and_loaded_models_have_it(relu: CompiledModel, tmp_path: Path) -> None:
    relu.save(tmp_path / "relu.so")
    x = np.ones((3, 4), np.float32)
    for model in (relu, load(tmp_path / "relu.so", threads=1)):
        assert isinstance(model.run, BuiltinFunctionType)
        for _ in range(3):
            np.testing.assert_array_equal(model.run({"x": x})[0], relu_reference(x))
    assert "C-contiguous arrays" in (relu.run.__doc__ or "")


def test_models_run_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts of other versions have none; other Pythons cannot use it."""
    code, given = handmade.relu()
    weights = aligned_weights(given)
    native = link(code, Machine(handmade.HOST))
    older = CompiledModel(replace(native, python_entry=0), weights=weights, threads=1)
    monkeypatch.setattr(runner, "is_supported", lambda: False)
    elsewhere = CompiledModel(native, weights=weights, threads=1)
    x = np.full((2, 4), -1, np.float32)
    for model in (older, elsewhere):
        assert not isinstance(model.run, BuiltinFunctionType)
        np.testing.assert_array_equal(model.run({"x": x})[0], relu_reference(x))


def test_shapes_may_change_from_call_to_call(relu: CompiledModel, rng: np.random.Generator) -> None:
    for batch in (1, 1, 7, 1, 0, 0, 5001, 5001, 3):
        x = rng.standard_normal((batch, 4), np.float32)
        for given in ({"x": x}, [x], (x,)):
            (y,) = relu.run(given)
            assert y.shape == x.shape and y.flags.writeable and y.flags.c_contiguous
            np.testing.assert_array_equal(y, relu_reference(x))
        assert y.ctypes.data % 64 == 0 or y.nbytes < 1 << 16


def test_outputs_of_sizes_that_the_data_decides_are_given_back() -> None:
    model = load_code(handmade.positive(), EMPTY, Machine(handmade.HOST))
    good, bad = np.array([1, -1, 3], np.float32), np.full(3, np.inf, np.float32)
    model.run([good])
    watched = [good, bad, np.dtype(np.float32)]
    gc.collect()  # others' arrays, which count the dtype too
    before = [sys.getrefcount(one) for one in watched]

    def work() -> None:
        np.testing.assert_array_equal(model.run([good])[0], [1, 3])
        with pytest.raises(ExecutionError, match="an index is huge"):
            model.run([bad])

    assert _blocks_left_by(work) < 100
    after = [sys.getrefcount(one) for one in watched]
    assert np.abs(np.subtract(after, before)).max() < 20


class _Raising:
    """A key that meets the name "x" in a dictionary, and refuses to be compared."""

    def __hash__(self) -> int:
        return hash("x")

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("not comparable")


class _Clearing(_Raising):
    """A key that empties its dictionary while it is searched."""

    def __init__(self, holder: list[dict[Any, Any]]) -> None:
        self.holder = holder

    def __hash__(self) -> int:
        return hash("x")

    def __eq__(self, other: object) -> bool:
        self.holder[0].clear()
        return False


def _clearing() -> dict[Any, Any]:
    holder: list[dict[Any, Any]] = []
    found = {_Clearing(holder): np.ones((2, 4), np.float32)}
    holder.append(found)
    return found


class _Array(np.ndarray[Any, Any]):
    pass


def _read_only() -> Any:
    x = np.ones((2, 4), np.float32)
    x.flags.writeable = False
    return x


GOOD = np.arange(-4, 4, dtype=np.float32).reshape(2, 4)
UNALIGNED = np.zeros(33, np.uint8)[1:].view(np.float32).reshape(2, 4)
UNUSUAL: dict[str, Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "nothing": lambda: ((), {}),
    "by keyword": lambda: ((), {"inputs": [GOOD]}),
    "another keyword": lambda: (([GOOD],), {"outputs": 3}),
    "too many": lambda: (([GOOD], None, 3), {}),
    "None": lambda: ((None,), {}),
    "a number": lambda: ((3,), {}),
    "a bare array": lambda: ((GOOD,), {}),
    "text": lambda: (("x",), {}),
    "an empty dict": lambda: (({},), {}),
    "an empty list": lambda: (([],), {}),
    "another name": lambda: (({"y": GOOD},), {}),
    "one name too many": lambda: (({"x": GOOD, "y": GOOD},), {}),
    "two arrays": lambda: (([GOOD, GOOD],), {}),
    "None inside": lambda: (([None],), {}),
    "nested lists": lambda: (([GOOD.tolist()],), {}),
    "wrong dtype": lambda: (([GOOD.astype(np.float64)],), {}),
    "other byte order": lambda: (([GOOD.astype(">f4")],), {}),
    "integers": lambda: (([GOOD.astype(np.int32)],), {}),
    "objects": lambda: (([GOOD.astype(object)],), {}),
    "wrong rank": lambda: (([GOOD.reshape(8)],), {}),
    "wrong size": lambda: (([GOOD.reshape(4, 2)],), {}),
    "transposed": lambda: (([np.asfortranarray(GOOD)],), {}),
    "strided": lambda: (([np.ones((4, 4), np.float32)[::2]],), {}),
    "unaligned": lambda: (([UNALIGNED],), {}),
    "read-only": lambda: (([_read_only()],), {}),
    "a subclass": lambda: (([GOOD.view(_Array)],), {}),
    "a masked array": lambda: (([np.ma.masked_array(GOOD)],), {}),
    "a dict's subclass": lambda: ((type("D", (dict,), {})(x=GOOD),), {}),
    "a key that raises": lambda: (({_Raising(): GOOD},), {}),
    "a key that clears": lambda: ((_clearing(),), {}),
    "out": lambda: (([GOOD],), {"out": np.empty((2, 4), np.float32)}),
    "out in order": lambda: (([GOOD], [None]), {}),
    "out twice": lambda: (([GOOD], [np.empty_like(GOOD)]), {"out": np.empty_like(GOOD)}),
    "out is text": lambda: (([GOOD],), {"out": "y"}),
    "out has a number": lambda: (([GOOD],), {"out": [3]}),
    "out has too many": lambda: (([GOOD], [np.empty_like(GOOD)] * 2), {}),
    "out has another name": lambda: (([GOOD], {"z": np.empty_like(GOOD)}), {}),
    "out has a key that raises": lambda: (([GOOD], {_Raising(): np.empty_like(GOOD)}), {}),
    "out of a wrong dtype": lambda: (([GOOD], np.empty((2, 4))), {}),
    "out of a wrong size": lambda: (([GOOD], [np.empty((3, 4), np.float32)]), {}),
    "out strided": lambda: (([GOOD], [np.empty((4, 4), np.float32)[::2]]), {}),
    "out read-only": lambda: (([GOOD], [_read_only()]), {}),
    "out overlaps an input": lambda: (([GOOD],), {"out": GOOD}),
}


def test_arrays_out_of_a_pickle_are_usual(
    relu: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = pickle.loads(pickle.dumps(GOOD))
    assert x.dtype is not GOOD.dtype
    relu.run([GOOD])
    with monkeypatch.context() as patch:
        patch.delattr(runner, "in_order")  # what the Python code begins with
        np.testing.assert_array_equal(relu.run([x])[0], relu_reference(GOOD))
        for other in (np.int32, ">f4"):
            with pytest.raises(NameError, match="in_order"):
                relu.run([GOOD.astype(other)])


@pytest.mark.parametrize("case", UNUSUAL, ids=str)
def test_what_is_unusual_is_answered_by_python(relu: CompiledModel, case: str) -> None:
    """The same arrays or the same error; and good calls before and after are fine."""

    def outcome(call: Callable[..., Any]) -> tuple[type[BaseException] | None, str, Any]:
        arguments, named = UNUSUAL[case]()
        try:
            return None, "", [y.tolist() for y in call(*arguments, **named)]
        except TypeError:
            return TypeError, "", None  # in Python's words, or in better ones
        except (InputError, ArithmeticError) as error:
            return type(error), str(error), None

    for _ in range(2):
        np.testing.assert_array_equal(relu.run([GOOD])[0], relu_reference(GOOD))
        expected = outcome(relu._runner.run)
        np.testing.assert_array_equal(relu.run([GOOD])[0], relu_reference(GOOD))
        assert outcome(relu.run) == expected


def test_a_key_that_runs_the_model_meanwhile(relu: CompiledModel) -> None:
    """Comparing a key can call the model with another shape, in the middle of a call."""
    other = np.ones((9, 4), np.float32)

    class Running:
        def __hash__(self) -> int:
            return hash("x")

        def __eq__(self, name: object) -> bool:
            np.testing.assert_array_equal(relu.run([other])[0], relu_reference(other))
            return name == "x"

    relu.run([GOOD])
    for _ in range(5):
        np.testing.assert_array_equal(relu.run({Running(): GOOD})[0], relu_reference(GOOD))  # type: ignore[dict-item]


def test_a_plan_that_changes_meanwhile_is_noticed() -> None:
    """One input has been compared with the old plan when the other one's key makes a new one."""
    model = load_code(handmade.apart(), EMPTY, Machine(handmade.HOST))
    x, longer, z = (np.zeros(size, np.float32) for size in (3, 5, 2))

    class Running:
        def __hash__(self) -> int:
            return hash("z")

        def __eq__(self, name: object) -> bool:
            model.run([longer, z])
            return name == "z"

    def work() -> None:
        model.run([x, z])
        (y,) = model.run({"x": x, Running(): z})  # type: ignore[dict-item]
        assert y.shape == (3,)

    assert _blocks_left_by(work) < 100


def _blocks_left_by(work: Callable[[], object]) -> int:
    """How many more blocks of memory Python has after 300 calls than before."""
    for _ in range(10):
        work()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(300):
        work()
    gc.collect()
    return sys.getallocatedblocks() - before


def test_inputs_that_do_not_fit_are_given_back(related: CompiledModel) -> None:
    shapes = {"b": (7,), "a": (3, 3), "c": (3,)}
    good = [np.zeros(shape, np.float32) for shape in shapes.values()]
    wrong = np.zeros(4, np.float32)
    cases: list[Any] = [[*good[:2], wrong], dict(zip(shapes, [*good[:2], wrong]))]
    cases.append({"b": good[0], "a": good[1], "d": good[2]})
    related.run(good)
    watched = [*good, wrong]
    before = [sys.getrefcount(one) for one in watched]
    for case in cases:
        for _ in range(20):
            with pytest.raises(InputError):
                related.run(case)
    assert [sys.getrefcount(one) for one in watched] == before


def test_a_scalar_may_come_with_axes() -> None:
    model = load_code(handmade.product(), EMPTY, Machine(handmade.HOST))
    for shape in ((1,), (), (1, 1), ()):
        a, b = np.full(shape, 3, np.float32), np.full(shape, 5, np.float32)
        for _ in range(3):
            (y,) = model.run([a, b])
            assert y.shape == () and y == 15


def test_no_reference_is_lost_or_kept(related: CompiledModel) -> None:
    shapes = {"c": (3,), "b": (7,), "a": (3, 3)}
    inputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    ordered = [inputs[info.name] for info in related.inputs]
    watched = [*ordered, np.dtype(np.float32), np.dtype(np.uint8), inputs, ordered, None, related]
    (kept,) = related.run(inputs)

    def work() -> None:
        for _ in range(1000):
            related.run(inputs)
            related.run(ordered)
            with pytest.raises(InputError):
                related.run(ordered[:1])

    work()
    gc.collect()
    before = [sys.getrefcount(one) for one in watched]
    work()
    after = [sys.getrefcount(one) for one in watched]
    # Others, such as the test runner, count None and the dtypes too.
    assert np.abs(np.subtract(after, before)).max() < 20
    assert kept.shape == (2,)
    result = weakref.ref(related.run(inputs)[0])
    assert result() is None


def test_failures_are_told_and_give_everything_back() -> None:
    model = load_code(handmade.refusing(), EMPTY, Machine(handmade.HOST))
    good, bad = np.ones(3, np.float32), np.full(3, np.inf, np.float32)
    model.run([good])
    for _ in range(50):
        with pytest.raises(ExecutionError, match="refusing: an index is huge"):
            model.run([bad])
        np.testing.assert_array_equal(model.run({"x": good})[0], good)
    assert model.memory().contexts == 1
    before = sys.getrefcount(bad)
    with pytest.raises(ExecutionError):
        model.run([bad])
    assert sys.getrefcount(bad) == before

    def work() -> None:
        with suppress(ExecutionError):
            model.run([bad])

    assert _blocks_left_by(work) < 100


def test_the_function_outlives_the_model_and_both_go() -> None:
    model = relu_model()
    x = np.ones((2, 4), np.float32)
    gone = weakref.ref(model._runner)
    run = model.run
    del model
    for _ in range(3):
        np.testing.assert_array_equal(run([x])[0], relu_reference(x))
    assert gone() is not None
    del run
    assert gone() is None


def test_threads_with_different_shapes_meet(rng: np.random.Generator) -> None:
    model = relu_model()
    failures: list[int] = []

    def work(batch: int) -> None:
        x = rng.standard_normal((batch, 4), np.float32)
        expected = relu_reference(x)
        for turn in range(2000):
            given: Any = {"x": x} if turn % 2 else [x]
            if not np.array_equal(model.run(given)[0], expected):
                failures.append(batch)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    workers = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 300, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.setswitchinterval(switch)
    assert not failures
