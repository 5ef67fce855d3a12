"""Caches that a step continues, present = Concat(past, new), as parts of one array."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.codegen.artifact.header import header_text
from bessemer.compiler.driver import build
from bessemer.compiler.ir.program import Copy
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.options import Options, Precision
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.arrays import numpy_dtype, places_along
from bessemer.runtime.artifact import Room, Signature, Status
from bessemer.runtime.model import CompiledModel
from bessemer.runtime.native import Context
from tests.command_line import run_command
from tests.onnx_check import parsed
from tests.onnxruntime_sessions import session_of

Array = np.ndarray[Any, Any]

_HEADS_FIRST = """
    k = Transpose<perm = [0, 2, 1, 3]>(k_rows) v = Transpose<perm = [0, 2, 1, 3]>(v_rows)
    new_k = Concat<axis = 2>(past_k, k) new_v = Concat<axis = 2>(past_v, v)
    keys = Transpose<perm = [0, 1, 3, 2]>(new_k) values = Identity(new_v)
"""
_PLACES_FIRST = """
    new_k = Concat<axis = 1>(past_k, k_rows) new_v = Concat<axis = 1>(past_v, v_rows)
    keys = Transpose<perm = [0, 2, 3, 1]>(new_k) values = Transpose<perm = [0, 2, 1, 3]>(new_v)
"""


def _decoder(places: int = 2, element: str = "float") -> onnx.ModelProto:
    """Attention of four heads which share keys and values in pairs; the caches have their places
    along the axis `places`."""
    sizes = ["b", "2", "16"]
    past, present = ([*sizes[:places], name, *sizes[places:]] for name in ("past", "present"))
    past_type, present_type = (f"{element}[{', '.join(shape)}]" for shape in (past, present))
    return parsed(f"""g ({element}[b, s, 32] x, {past_type} past_k, {past_type} past_v,
            {element}[32, 128] w) => ({element}[b, s, 64] y, {present_type} new_k,
            {present_type} new_v) {{
        parts = Constant<value = int64[3] {{64, 32, 32}}>()
        grouped = Constant<value = int64[5] {{0, 0, 2, 2, 16}}>()
        rows = Constant<value = int64[4] {{0, 0, 2, 16}}>()
        flat = Constant<value = int64[3] {{0, 0, 64}}>()
        two = Constant<value = int64[1] {{2}}>()
        joint = MatMul(x, w)
        q, k_flat, v_flat = Split<axis = 2>(joint, parts)
        q_rows = Reshape(q, grouped) queries = Transpose<perm = [0, 2, 3, 1, 4]>(q_rows)
        k_rows = Reshape(k_flat, rows) v_rows = Reshape(v_flat, rows)
        {_HEADS_FIRST if places == 2 else _PLACES_FIRST}
        shared_k = Unsqueeze(keys, two) shared_v = Unsqueeze(values, two)
        scores = MatMul(queries, shared_k) shares = Softmax<axis = -1>(scores)
        mixed = MatMul(shares, shared_v) turned = Transpose<perm = [0, 3, 1, 2, 4]>(mixed)
        y = Reshape(turned, flat)
    }}""")


def _cache(places: int, count: int, batch: int = 1, dtype: Any = np.float32) -> Array:
    """An array for so many places, of which nothing is in use."""
    sizes = [batch, 2, 16]
    return np.full((*sizes[:places], count, *sizes[places:]), np.nan, dtype)


def _first(cache: Array, places: int, count: int) -> Array:
    return cache[(*(slice(None),) * places, slice(count))]


def _given(length: int, batch: int, dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(length)
    x, w = rng.standard_normal((batch, length, 32)), rng.standard_normal((32, 128)) / 8
    return {"x": x.astype(dtype), "w": w.astype(dtype)}


def _step(model: CompiledModel, caches: dict[str, Array], used: int, **given: Array) -> Any:
    """A run whose outputs lie behind its inputs in the caches."""
    (axis,) = {room.axis for room in model.signature.rooms}
    count = used + given["x"].shape[1]
    out = {f"new_{name}": _first(cache, axis, count) for name, cache in caches.items()}
    past = {f"past_{name}": _first(cache, axis, used) for name, cache in caches.items()}
    found = model.run({**given, **past}, out=out)
    assert found[1] is out["new_k"] and found[2] is out["new_v"]
    return found


@pytest.mark.parametrize("optimize", [2, 0])
@pytest.mark.parametrize("element", ["float", "float16"])
@pytest.mark.parametrize("places", [2, 1])
def test_steps_of_a_decoder_write_behind_what_their_caches_hold(
    places: int, element: str, optimize: int
) -> None:
    decoder = _decoder(places, element)
    session = session_of(decoder)
    dtype, tolerance = (np.float32, 1e-5) if element == "float" else (np.float16, 4e-3)
    for threads, batch in ((1, 3), (2, 1)):
        model = bessemer.compile(decoder, threads=threads, optimize=optimize, grow_in_place=True)
        caches = {name: _cache(places, 24, batch, dtype) for name in "kv"}
        kept: list[Any] = [_cache(places, 0, batch, dtype)] * 2
        used = 0
        for length in (5, 1, 1, 9, 1):
            given = _given(length, batch, dtype)
            before = {f"past_{k}": _first(caches[k], places, used).copy() for k in "kv"}
            alone = model.run({**given, **before})
            found = _step(model, caches, used, **given)
            past = {"past_k": kept[0], "past_v": kept[1]}
            wanted = session.run(None, {**given, **past})
            for one, other, reference in zip(found, alone, wanted, strict=True):
                np.testing.assert_array_equal(one, other)
                np.testing.assert_allclose(one, reference, rtol=tolerance, atol=tolerance)
            kept, used = wanted[1:], used + length


def test_a_step_copies_nothing_and_reads_the_caches_where_they_are() -> None:
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        options = Options(grow_in_place=True, precision=precision)
        program = build(read_onnx(_decoder()), options).program
        assert program.updates == ((1, 1), (2, 2))
        whole = {program.outputs[1].type, program.outputs[2].type}
        # What may be left out where input and output are one array, and what writes the new places.
        assert sum(isinstance(step, Copy) for step in program.steps) == 2
        written = [s for s in launches(program.steps) if s.values[-s.kernel.outputs].type in whole]
        assert {step.kernel.name for step in written} == {"tensor_scatter"}


def test_float16_and_bfloat16_caches_are_written_in_place() -> None:
    for element in ("float16", "bfloat16"):
        program = build(read_onnx(_decoder(2, element)), Options(grow_in_place=True)).program
        assert program.updates == ((1, 1), (2, 2))


def test_steps_with_bfloat16_caches_compute_what_float32_does_but_for_rounding() -> None:
    model = bessemer.compile(_decoder(2, "bfloat16"), threads=1, cache=False, grow_in_place=True)
    dtype = numpy_dtype("bfloat16")
    caches = {name: np.zeros((1, 2, 24, 16), dtype) for name in "kv"}
    for used, length in ((0, 7), (7, 1), (8, 3)):
        given = {name: array.astype(dtype) for name, array in _given(length, 1).items()}
        past = {f"past_{k}": _first(caches[k], 2, used).copy() for k in "kv"}
        wide = {name: array.astype(np.float32) for name, array in (given | past).items()}
        wanted: Any = session_of(_decoder()).run(None, wide)
        for one, reference in zip(_step(model, caches, used, **given), wanted, strict=True):
            np.testing.assert_allclose(one.astype(np.float32), reference, rtol=3e-2, atol=3e-2)


def test_bfloat16_arithmetic_rounds_what_is_in_use_of_a_cache() -> None:
    model = bessemer.compile(
        _decoder(), threads=1, cache=False, grow_in_place=True, precision="bfloat16"
    )
    caches = {name: _cache(2, 24) for name in "kv"}
    for used, length in ((0, 17), (17, 1)):
        given = _given(length, 1)
        past = {f"past_{k}": _first(caches[k], 2, used).copy() for k in "kv"}
        wanted: Any = session_of(_decoder()).run(None, {**given, **past})
        for one, reference in zip(_step(model, caches, used, **given), wanted, strict=True):
            np.testing.assert_allclose(one, reference, rtol=3e-2, atol=3e-2)


def _joined(made: str = "z = Exp(past)") -> onnx.ModelProto:
    """A cache of one head that is joined, and z, which `made` computes of it."""
    return parsed(f"""g (float[b, 1, n, 4] past, float[b, 1, s, 4] new)
            => (float[b, 1, t, 4] present, float[b, 1, n, 4] z) {{
        present = Concat<axis = 2>(past, new) {made}
    }}""")


@pytest.mark.parametrize("made", ["z = Exp(past)", "m = ReduceMax(present) z = Mul(past, m)"])
def test_what_else_reads_a_cache_does_so_where_it_has_been_written(made: str) -> None:
    joined = _joined(made)
    program = build(read_onnx(joined), Options(grow_in_place=True)).program
    assert program.updates == ((0, 0),)
    model = bessemer.compile(joined, threads=1, cache=False, grow_in_place=True)
    cache = np.random.default_rng(1).standard_normal((2, 1, 9, 4)).astype(np.float32)
    given = {"past": cache[:, :, :5].copy(), "new": np.ones((2, 1, 2, 4), np.float32)}
    wanted: Any = session_of(joined).run(None, given)
    found = model.run({**given, "past": cache[:, :, :5]}, out={"present": cache[:, :, :7]})
    for one, reference in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, reference, rtol=1e-6)


def test_one_head_may_lie_in_an_array_of_one_axis() -> None:
    model = bessemer.compile(_joined(), threads=1, cache=False, grow_in_place=True)
    cache: Array = np.arange(36, dtype=np.float32)
    wanted = np.append(cache[:20], [0] * 8)
    past, present = (cache[: 4 * size].reshape(1, 1, size, 4) for size in (5, 7))
    model.run({"past": past, "new": np.zeros((1, 1, 2, 4), np.float32)}, out={"present": present})
    np.testing.assert_array_equal(cache[:28], wanted)


def test_inputs_that_lie_in_another_way_where_a_cache_is_written_are_refused() -> None:
    model = bessemer.compile(_joined(), threads=1, cache=False, grow_in_place=True)
    cache: Array = np.arange(72, dtype=np.float32)
    present = cache.reshape(2, 1, 9, 4)[:, :, :7]
    dense, behind = cache[:40].reshape(2, 1, 5, 4), cache.reshape(2, 1, 9, 4)[:, :, :5]
    wrong: dict[str, dict[str, Array]] = {
        "overlaps that of 'past'": {"past": dense, "new": np.zeros((2, 1, 2, 4), np.float32)},
        "overlaps that of 'new'": {"past": behind, "new": cache[20:36].reshape(2, 1, 2, 4)},
    }
    for message, given in wrong.items():
        with pytest.raises(bessemer.InputError, match=message):
            model.run(given, out={"present": present})
    np.testing.assert_array_equal(cache, np.arange(72))


def test_caches_may_grow_by_more_and_by_less_in_one_run() -> None:
    model = parsed("""g (float[2, n, 4] p, float[2, n, 4] q, float[2, s, 4] k, float[2, u, 4] m)
            => (float[2, t, 4] y, float[2, v, 4] z) {
        y = Concat<axis = 1>(p, k) z = Concat<axis = 1>(q, m)
    }""")
    grown = bessemer.compile(model, threads=1, cache=False, grow_in_place=True)
    rng = np.random.default_rng(4)
    for more, less in ((3, 1), (1, 3)):
        sizes = {"p": 5, "q": 5, "k": more, "m": less}
        given = {n: rng.standard_normal((2, size, 4), np.float32) for n, size in sizes.items()}
        wanted: Any = session_of(model).run(None, given)
        for out in (None, [None, np.empty_like(wanted[1])], [np.empty_like(wanted[0]), None]):
            for one, reference in zip(grown.run(given, out=out), wanted, strict=True):
                np.testing.assert_array_equal(one, reference)


def _continued(made: str) -> onnx.ModelProto:
    """Two outputs, which `made` computes of p and of what may be put behind it."""
    return parsed(f"""g (float[2, n, 4] p, float[2, s, 4] k, float[2, u, 4] m)
            => (float[2, t, 4] y, float[2, v, 4] z) {{ {made} }}""")


@pytest.mark.parametrize(
    "made",
    [
        "y = Concat<axis = 1>(p, k, m) z = Neg(p)",
        "y = Concat<axis = 1>(p, k) z = Concat<axis = 1>(p, m)",
        "y = Concat<axis = 1>(p, k) z = Concat<axis = 1>(k, p)",
        "y = Concat<axis = 1>(p, k) z = Concat<axis = 1>(y, m)",
    ],
)
def test_one_output_lies_behind_an_input_and_others_are_copied(made: str) -> None:
    model, rng = _continued(made), np.random.default_rng(6)
    grown = bessemer.compile(model, threads=1, cache=False, grow_in_place=True)
    cache = rng.standard_normal((2, 12, 4), np.float32)
    given = {n: rng.standard_normal((2, size, 4), np.float32) for n, size in (("k", 2), ("m", 3))}
    wanted: Any = session_of(model).run(None, {**given, "p": cache[:, :5].copy()})
    present = cache[:, : wanted[0].shape[1]]
    for out in (None, {"y": present}):
        for one, reference in zip(grown.run({**given, "p": cache[:, :5]}, out=out), wanted):
            np.testing.assert_array_equal(one, reference)
    np.testing.assert_array_equal(present, wanted[0])


@pytest.mark.parametrize("other", ["z = Identity(p)", "z = Identity(y)"])
def test_an_array_is_not_an_output_twice(other: str) -> None:
    model = _continued(f"y = Concat<axis = 1>(p, k) {other}")
    with pytest.raises(bessemer.CompileError, match="'g' has none"):
        bessemer.compile(model, cache=False, grow_in_place=True)


def test_a_batch_may_be_empty() -> None:
    model = bessemer.compile(_joined(), threads=1, cache=False, grow_in_place=True)
    cache, new = (np.zeros((0, 1, size, 4), np.float32) for size in (9, 2))
    for out in (None, {"present": cache[:, :, :7]}):
        present, z = model.run({"past": cache[:, :, :5], "new": new}, out=out)
        assert present.shape == (0, 1, 7, 4) and z.shape == (0, 1, 5, 4)


def test_how_much_is_new_must_be_known_before_the_run() -> None:
    model = parsed("""g (float[2, past] p, float[2, s] x, bool[s] c) => (float[2, t] y) {
        k = Compress<axis = 1>(x, c) y = Concat<axis = 1>(p, k)
    }""")
    with pytest.raises(bessemer.CompileError, match="'g' has none"):
        bessemer.compile(model, cache=False, grow_in_place=True)


def test_a_prompt_in_another_array_is_copied_into_the_cache() -> None:
    model = bessemer.compile(_decoder(), threads=1, cache=False, grow_in_place=True)
    rng, given = np.random.default_rng(1), _given(2, 1)
    prompt = {f"past_{k}": rng.standard_normal((1, 2, 3, 16)).astype(np.float32) for k in "kv"}
    for past in (prompt, {name: _turned(array) for name, array in prompt.items()}):
        keys = _cache(2, 9)
        found = model.run({**given, **past}, out={"new_k": keys[:, :, :5]})
        for one, reference in zip(found, model.run({**given, **prompt}), strict=True):
            np.testing.assert_array_equal(one, reference)
        assert places_along(found[2], 2) == 9 and found[2].shape == (1, 2, 5, 16)


def _turned(array: Array) -> Array:
    """The same numbers in another order in memory."""
    return np.ascontiguousarray(array.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)


def test_an_array_says_how_many_places_it_has() -> None:
    for batch, count in ((3, 8), (1, 8), (3, 0), (1, 1)):
        cache: Array = np.zeros((batch, 2, 8, 16), np.float16)
        assert places_along(cache[:, :, :count], 2) == 8
        assert places_along(cache[:, :, :count].copy(), 2) in (count, 1)
    assert places_along(np.zeros((1, 1, 3, 4))[:, :, :2], 2) == 3
    cache = np.zeros((2, 2, 8, 16))
    for other in (cache[:, :, ::2], cache[..., :4], cache[:, ::-1], cache.transpose(1, 0, 2, 3)):
        assert places_along(other, 2) is None


def test_what_has_no_room_is_refused() -> None:
    model = bessemer.compile(_decoder(), threads=1, cache=False, grow_in_place=True)
    caches, given = {name: _cache(2, 4) for name in "kv"}, _given(1, 1)
    for cache in caches.values():
        cache[...] = 0
    with pytest.raises(bessemer.InputError, match=r"'new_k' has shape .* no room for what is new"):
        _step(model, caches, 4, **given)
    past = {f"past_{name}": cache[:, :, :3] for name, cache in caches.items()}
    keys, values = np.zeros((2, 1, 2, 9, 16), np.float32)
    wrong: dict[str, dict[str, Array]] = {
        "4 and 9 places": {"new_k": caches["k"], "new_v": values[:, :, :4]},
        "first places along axis 2": {"new_k": keys[:, :, 1:9:2]},
        "overlaps that of 'past_v'": {"new_k": caches["v"]},
        "overlaps that of 'new_": {"new_k": keys[:, :, :4], "new_v": keys[:, :, 4:8]},
        "overlaps that of 'past_k'": {"new_k": _behind(caches["k"])},
    }
    for message, out in wrong.items():
        with pytest.raises(bessemer.InputError, match=message):
            model.run({**given, **past}, out=out)


def _behind(cache: Array) -> Array:
    """A part of an array that begins one place later, in one that is larger."""
    place = cache.ctypes.data
    rows = cache.reshape(-1)[16:]
    memory = np.lib.stride_tricks.as_strided(rows, (1, 2, 4, 16), (512, 256, 64, 4))
    assert memory.ctypes.data == place + 64
    return memory


def test_c_programs_say_how_many_places_there_are() -> None:
    made = build(read_onnx(_decoder()), Options(grow_in_place=True))
    signature = made.code.signature
    assert signature.symbols == ("b", "s", "past", "past_room")
    assert signature.rooms == (Room(1, 1, 2, "past_room"), Room(2, 2, 2, "past_room"))
    assert Signature.from_json(signature.to_json()) == signature
    header = header_text(signature)
    assert "[1] past_k: float32 [b, 2, past of past_room, 16] (float)" in header
    assert (
        "[1] new_k: float32 [b, 2, s+past of past_room, 16] (float; may be in the place" in header
    )
    model = bessemer.compile(_decoder(), threads=1, cache=False, grow_in_place=True)
    native, given = model._runner.native, _given(1, 1)
    context = Context(native, threads=1)
    before, after = (np.zeros((2, 1, 2, 6, 16), np.float32) for _ in range(2))
    before[:, :, :, :5] = np.random.default_rng(3).standard_normal((2, 1, 2, 5, 16))
    y = np.zeros((1, 1, 64), np.float32)

    def run(room: int) -> int:
        sources = given["x"], before[0], before[1], given["w"]
        inputs = (ctypes.c_void_p * 4)(*[array.ctypes.data for array in sources])
        outputs = (ctypes.c_void_p * 3)(y.ctypes.data, *[one.ctypes.data for one in after])
        dims = (ctypes.c_int64 * 4)(1, 1, 5, room)
        places = [ctypes.addressof(array) for array in (inputs, outputs, dims)]
        return native.run(context.handle, *places, 0, 0)

    assert run(6) == Status.OK
    past = {f"past_{k}": before[i, :, :, :5].copy() for i, k in enumerate("kv")}
    wanted: Any = session_of(_decoder()).run(None, {**given, **past})
    for one, reference in zip((y, *after), wanted, strict=True):
        np.testing.assert_allclose(one, reference, rtol=1e-5, atol=1e-5)
    assert run(5) == Status.SHAPE_MISMATCH
    message = native.message(context.handle)
    assert message.startswith(b"the room of 'past_k': an input is too small")


def test_a_model_without_such_outputs_is_told_so() -> None:
    fixed = _decoder()
    for value in fixed.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == "past":
                size.dim_value = 7
    plain = parsed("g (float[n, 3] x) => (float[m, 3] y) { y = Concat<axis = 0>(x, x) }")
    for model in (fixed, plain):
        with pytest.raises(bessemer.CompileError, match="'g' has none"):
            bessemer.compile(model, cache=False, grow_in_place=True)
    with pytest.raises(bessemer.CompileError, match="grow_in_place is for processors"):
        bessemer.compile(plain, target="nvptx:sm_80", grow_in_place=True)


def test_the_command_line_writes_a_library_of_such_a_model(tmp_path: Path) -> None:
    onnx.save(_decoder(), tmp_path / "decoder.onnx")
    library = tmp_path / "decoder.so"
    code, _, messages = run_command(
        "compile", tmp_path / "decoder.onnx", "-o", library, "--grow-in-place"
    )
    assert code == 0, messages
    assert "decoder_DIM_past_room 3" in library.with_suffix(".h").read_text()
    model = bessemer.load(library, threads=1)
    caches, given = {name: _cache(2, 24) for name in "kv"}, _given(4, 1)
    past = {f"past_{k}": _cache(2, 0) for k in "kv"}
    wanted: Any = session_of(_decoder()).run(None, {**given, **past})
    for one, reference in zip(_step(model, caches, 0, **given), wanted, strict=True):
        np.testing.assert_allclose(one, reference, rtol=1e-5, atol=1e-5)
