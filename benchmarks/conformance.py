"""ONNX conformance: the onnx package's own backend test cases through frontends/onnx_backend.

Every case runs in a process that is started anew when a case ends it or takes too long: a crash or
a hang is one failed case. Results are compared with the case's tolerances, types and shapes too.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests

import bessemer.frontends.onnx_backend as backend
from benchmarks.plan import Plan
from benchmarks.record import Row

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
_PATIENCE = 60.0


def cases_of(kind: str) -> dict[str, Any]:
    """The cases of one kind by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = collect_testcases(None) if kind == "node" else load_model_tests(kind=kind)
    return {case.name: case for case in found}


def measure_conformance(plan: Plan) -> dict[str, Row]:
    """A row for every kind: how many cases there are, how many pass, and why the others fail.
    What `plan.only` asks for has rows of its own."""
    cases = {kind: cases_of(kind) for kind in KINDS}
    wanted = set(plan.chosen("conformance", (name for kind in KINDS for name in cases[kind])))
    note = f", only {' '.join(plan.only)}" if plan.only else ""
    kinds = {f"{kind}{note}": kind for kind in KINDS if not wanted.isdisjoint(cases[kind])}

    def one(row: str) -> Row:
        return _measure(kinds[row], [name for name in cases[kinds[row]] if name in wanted])

    return plan.record.fill("conformance", kinds, one)


def _measure(kind: str, names: Sequence[str]) -> Row:
    failures: dict[str, str] = {}
    with _Runner(kind) as runner:
        for name in names:
            why = runner.run(name)
            if why:
                failures[name] = why
    return {"cases": len(names), "passed": len(names) - len(failures), "failures": failures}


class _Runner:
    """A process that runs cases, and its successors."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._start()

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.kind, there), daemon=True)
        self._process.start()
        there.close()
        if not self._connection.poll(300):
            raise RuntimeError("the process with the cases did not start")
        self._connection.recv()

    def run(self, name: str) -> str:
        """Why a case fails; "" where it passes."""
        try:
            self._connection.send(name)
            if self._connection.poll(_PATIENCE):
                return str(self._connection.recv())
            why = f"not done after {_PATIENCE:.0f} s"
        except (EOFError, OSError):
            why = "crashed"
        self._process.kill()
        self._process.join()
        self._start()
        return why


def _serve(kind: str, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    cases = cases_of(kind)
    connection.send("ready")
    while True:
        name = connection.recv()
        try:
            run_case(cases[name])
            connection.send("")
        except BaseException as error:
            connection.send(f"{type(error).__name__}: {str(error)[:300]}")


def run_case(case: Any) -> None:
    """Raises where the case does not pass."""
    model, sets = case.model, case.data_sets
    if model is None:
        folder = Path(case.model_dir)
        model = onnx.load(folder / "model.onnx")
        sets = [_data_set(path) for path in sorted(folder.glob("test_data_set_*"))]
    prepared = backend.prepare(model, device="CPU")
    for inputs, outputs in sets:
        found = list(prepared.run([as_array(item) for item in inputs]))
        expected = [as_array(item) for item in outputs]
        _same(expected, found, case.rtol, case.atol)


def _data_set(folder: Path) -> tuple[list[Any], list[Any]]:
    def read(stem: str) -> list[Any]:
        count = len(list(folder.glob(f"{stem}_*.pb")))
        return [onnx.load_tensor(str(folder / f"{stem}_{number}.pb")) for number in range(count)]

    return read("input"), read("output")


def as_array(item: Any) -> Any:
    """A test's input or output as NumPy has it."""
    match item:
        case onnx.TensorProto():
            return numpy_helper.to_array(item)
        case onnx.SequenceProto():
            return numpy_helper.to_list(item)
        case onnx.OptionalProto():
            return numpy_helper.to_optional(item)
        case np.generic():
            return np.asarray(item)
        case _:
            return item


def _same(expected: Any, found: Any, relative: float, absolute: float) -> None:
    """Raises AssertionError where the two differ; sequences are compared item by item."""
    if isinstance(expected, (list, tuple)):
        assert len(expected) == len(found), f"{len(found)} items, expected {len(expected)}"
        for one, other in zip(expected, found, strict=True):
            _same(one, other, relative, absolute)
        return
    if expected is None:
        assert found is None, "expected nothing"
        return
    expected, found = np.asarray(expected), np.asarray(found)
    is_text = expected.dtype.kind in "OUST"
    if not (is_text and found.dtype.kind in "OUST"):
        assert expected.dtype == found.dtype, f"{found.dtype}, expected {expected.dtype}"
    assert expected.shape == found.shape, f"shape {found.shape}, expected {expected.shape}"
    if is_text:
        np.testing.assert_array_equal(found.astype(str), expected.astype(str))
    elif expected.dtype.kind == "b":
        np.testing.assert_array_equal(found, expected)
    else:
        small = expected.dtype.itemsize < 4 or expected.dtype.kind not in "fciu"
        if small:  # bfloat16, float8, int4 and their like, which NumPy cannot subtract
            expected, found = expected.astype(np.float64), found.astype(np.float64)
        np.testing.assert_allclose(found, expected, rtol=relative, atol=absolute)


def show_conformance(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    return ["onnx's cases", "passed", "of"], [
        [kind, str(row.get("passed", "–")), str(row.get("cases", "–"))]
        for kind, row in rows.items()
    ]
