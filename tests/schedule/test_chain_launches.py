"""Kernels in rounds: what they compute is what they compute one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, checked, less
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import Kernel, Stream
from bessemer.compiler.ir.program import Chain, Launch, Program
from bessemer.compiler.ir.types import Array, f32, i64
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.jit import load_code
from bessemer.compiler.memory_plan.plan_memory import plan_memory
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.chain_launches import chain_launches
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.schedule.spans import spans_of
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.models_in import as_graph
from tests.compiled_kernels import CompiledKernel
from tests.onnxruntime_sessions import session_of

SMALL = replace(host_target(), last_cache=1 << 18, l2_bytes=1 << 18)
"""This machine with caches that small networks overflow."""


class _Net:
    """An ONNX network of nodes one behind the other, with random weights."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.last = "x"

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        array = self.rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(self, kind: str, *others: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *others], [name]))
        self.nodes[-1].attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self.last = name
        return name

    def conv(self, inputs: int, outputs: int, size: int = 1, **attributes: object) -> str:
        groups = attributes.get("group", 1)
        assert isinstance(groups, int)
        pads = attributes.pop("pads", [size // 2] * 4)
        return self.add(
            "Conv",
            self.weight(outputs, inputs // groups, size, size),
            self.weight(outputs),
            **{"pads": pads, **attributes},
        )

    def model(self) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, self.shape)
        y = helper.make_empty_tensor_value_info(self.last)
        graph = helper.make_graph(self.nodes, "chain", [x], [y], self.weights)
        opsets = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _inverted_residual(rows: int = 30) -> _Net:
    net = _Net(2, 16, rows, 26)
    begin = net.conv(16, 16)
    net.conv(16, 96)
    net.add("Relu")
    net.conv(96, 96, 3, group=96)
    net.add("Relu")
    net.conv(96, 16)
    net.add("Add", begin)
    return net


def _two_blocks() -> _Net:
    """Their kernels differ in one number, which the launches give."""
    net = _Net(2, 16, 30, 26)
    for number in (0.3, 0.7):
        begin = net.conv(16, 16)
        net.conv(16, 96)
        net.add("Relu")
        net.weights.append(numpy_helper.from_array(np.array(number, np.float32), f"number{number}"))
        net.add("Add", f"number{number}")
        net.conv(96, 96, 3, group=96)
        net.add("Relu")
        net.conv(96, 16)
        net.add("Add", begin)
    return net


def _strides_and_uneven_pads() -> _Net:
    net = _Net(1, 8, 61, 67)
    net.conv(8, 48)
    net.conv(48, 48, 5, group=48, strides=[2, 2], pads=[2, 1, 1, 2])
    net.add("HardSwish")
    net.conv(48, 40)
    return net


def _pool_after_convolution() -> _Net:
    net = _Net(3, 3, 64, 48)
    net.conv(3, 24, 3, strides=[2, 1], pads=[0, 0, 0, 0])
    net.add("Relu")
    net.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return net


def _scaled_by_channel() -> _Net:
    """Its first kernel would use streaming stores."""
    net = _Net(1, 64, 40, 50)
    net.add("Sigmoid")
    net.conv(64, 64)
    whole = net.add("Relu")
    net.add("GlobalAveragePool")
    scale = net.conv(64, 64)
    net.last = whole
    net.add("Mul", scale)
    net.conv(64, 12)
    return net


def _rows() -> _Net:
    net = _Net(700, 48)
    net.add("LayerNormalization", net.weight(48), net.weight(48), axis=-1)
    net.add("MatMul", net.weight(48, 96))
    net.add("Gelu")
    net.add("MatMul", net.weight(96, 40))
    return net


NETS: dict[str, Callable[[], _Net]] = {
    "inverted residual": _inverted_residual,
    "two blocks": _two_blocks,
    "strides and uneven pads": _strides_and_uneven_pads,
    "pool after convolution": _pool_after_convolution,
    "scaled by channel": _scaled_by_channel,
    "rows": _rows,
}


def _program(net: _Net) -> Program:
    graph = as_graph(net.model())
    for step in passes_of(Options(), SMALL):
        graph = step(graph)
    return build_program(graph, SMALL)


def _chains(program: Program) -> list[Chain]:
    return [step for step in program.steps if isinstance(step, Chain)]


@pytest.mark.parametrize("name", NETS)
def test_results_are_onnxruntime_s_and_the_same_bits_in_rounds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = NETS[name]().model()
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    plain = build(as_graph(model), Options())
    monkeypatch.setattr("bessemer.compiler.driver.processor_of", lambda _: SMALL)
    made = build(as_graph(model), Options(verify=True))
    assert _chains(made.program) and not _chains(plain.program)
    found = [_run(plain, x), *(_run(made, x, threads) for threads in (1, 2, 3))]
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])
    session = session_of(model)
    (wanted,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-4)


def _rows_of_one_width() -> _Net:
    net = _Net(700, 48)
    net.add("LayerNormalization", net.weight(48), net.weight(48), axis=-1)
    net.add("MatMul", net.weight(48, 96))
    net.add("Gelu")
    net.add("MatMul", net.weight(96, 48))
    return net


def test_an_output_over_an_input_is_in_no_chain_with_what_reads_that() -> None:
    x = np.random.default_rng(1).standard_normal((700, 48)).astype(np.float32)
    graph = as_graph(_rows_of_one_width().model())
    assert [len(chain.launches) for chain in _chains(_made(graph).program)] == [3]
    made = _made(replace(graph, updates=((0, 0),)))
    assert [len(chain.launches) for chain in _chains(made.program)] == [2]
    wanted = _run(build(graph, Options()), x)
    for threads in (1, 2, 3):
        model = load_code(made.code, made.weights, machine_of(made.target), threads)
        place = x.copy()
        (found,) = model.run([place], out=[place])
        assert found is place
        np.testing.assert_array_equal(place, wanted)


def test_what_is_written_over_elsewhere_stops_no_chain() -> None:
    model = _inverted_residual().model()
    tensor = helper.make_tensor_value_info
    model.graph.input.extend(
        [
            tensor("kept", onnx.TensorProto.FLOAT, (8, 4)),
            tensor("at", onnx.TensorProto.INT64, (1, 1)),
            tensor("row", onnx.TensorProto.FLOAT, (1, 4)),
        ]
    )
    model.graph.node.append(helper.make_node("ScatterND", ["kept", "at", "row"], ["then"]))
    model.graph.output.append(tensor("then", onnx.TensorProto.FLOAT, (8, 4)))
    made = _made(as_graph(model))
    assert made.program.updates == ((1, 1),)
    assert _chains(made.program)
    rng = np.random.default_rng(1)
    arrays = {
        "x": rng.standard_normal((2, 16, 30, 26)).astype(np.float32),
        "kept": rng.standard_normal((8, 4)).astype(np.float32),
        "at": np.array([[5]]),
        "row": rng.standard_normal((1, 4)).astype(np.float32),
    }
    wanted = session_of(model).run(None, arrays)
    for threads in (1, 2):
        loaded = load_code(made.code, made.weights, machine_of(made.target), threads)
        place = arrays["kept"].copy()
        found = loaded.run({**arrays, "kept": place}, out={"then": place})
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(place, wanted[1])


def _made(graph: Graph) -> Compilation:
    """A graph compiled for small caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bessemer.compiler.driver.processor_of", lambda _: SMALL)
        return build(graph, Options(verify=True))


def test_launches_of_chains_give_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bessemer.compiler.driver.processor_of", lambda _: SMALL)
    made = build(as_graph(_two_blocks().model()), Options())
    number = int(np.float32(0.3).view(np.uint32))
    assert (number,) in [each.sizes for chain in _chains(made.program) for each in chain.launches]


def _run(made: Compilation, x: Array, threads: int = 1) -> Array:
    model = load_code(made.code, made.weights, machine_of(made.target), threads)
    (result,) = model.run({"x": x})
    return result


def test_windows_take_less_memory_than_values() -> None:
    program = _program(_inverted_residual(150))
    chained = chain_launches(program, replace(SMALL, l2_bytes=1 << 17))
    before, after = plan_memory(program), plan_memory(chained)
    inside = {window.value for chain in _chains(chained) for window in chain.windows}
    assert inside and not inside & set(after.offsets)
    assert isinstance(before.size, int) and isinstance(after.size, int)
    assert after.size < 0.8 * before.size


def test_what_is_read_soon_is_not_stored_past_the_caches() -> None:
    program = _program(_scaled_by_channel())
    inside = [x for chain in _chains(chain_launches(program, SMALL)) for x in chain.launches[:-1]]
    assert any(launch.kernel.name.endswith("_kept") for launch in inside)
    for launch in inside:
        assert not any(isinstance(statement, Stream) for statement in walk(launch.kernel.body))


def test_a_value_that_others_read_lies_in_memory() -> None:
    net = _Net(1, 16, 64, 64)
    net.conv(16, 24)
    wide = net.conv(24, 32)
    net.conv(32, 40)
    net.add("GlobalAveragePool")
    assert _windows(net) == [24, 32, 40]
    net.conv(40, 32)
    net.add("Add", wide)
    assert _windows(net) == [24, 40]


def _windows(net: _Net) -> list[object]:
    """The channels of the values that lie in windows."""
    program = _program(net)
    chains = _chains(chain_launches(program, SMALL))
    return [window.value.type.shape[-1] for chain in chains for window in chain.windows]


@pytest.mark.parametrize("name", ["strides and uneven pads", "rows"])
def test_an_item_touches_nothing_outside_of_its_span(name: str) -> None:
    program = _program(NETS[name]())
    rng = np.random.default_rng(2)
    checked = 0
    for kernel in {step.kernel: None for step in program.steps if isinstance(step, Launch)}:
        spans = spans_of(kernel)
        if spans is None or kernel.outputs != 1:
            continue
        arrays = [
            rng.standard_normal(_size(buffer.shape)).astype(np.float32) for buffer in kernel.buffers
        ]
        run = CompiledKernel(kernel, SMALL)
        whole = run(arrays).arrays[-1]
        extent = kernel.parallel_extent
        assert isinstance(extent, int)
        for item in {0, 1, extent // 2, extent - 1}:
            _check_item(run, arrays, spans, item, whole)
            checked += 1
    assert checked


def _check_item(
    run: CompiledKernel, arrays: list[Array], spans: object, item: int, whole: Array
) -> None:
    assert isinstance(spans, dict)
    hidden = []
    for buffer, array in zip(run.kernel.buffers, arrays, strict=True):
        seen = np.full_like(array, np.nan)
        if buffer.name in spans:
            span = spans[buffer.name]
            part = slice(span.low[item], span.high[item] + 1)
            seen[part] = array[part]
        hidden.append(seen)
    hidden[-1] = np.full_like(arrays[-1], 7.0)
    out = run(hidden, part=(item, item + 1)).arrays[-1]
    span = spans[run.kernel.buffers[-1].name]
    written = np.flatnonzero(out != 7.0)
    assert written.size and span.low[item] <= written[0] and written[-1] <= span.high[item]
    np.testing.assert_array_equal(out[written], whole[written])


def _size(shape: tuple[object, ...]) -> int:
    return int(np.prod([int(str(size)) for size in shape]))


def test_indices_from_data_have_no_span() -> None:
    x, out = Buffer("x", f32, (64,)), Buffer("out", f32, (64,))
    places = Buffer("places", i64, (64,))
    for source in (x, places):
        builder = KernelBuilder()
        with builder.loop(64, "parallel") as i:
            index = checked(places[i], 64) if source is places else i
            builder.store(out, (i,), x[index])
        kernel = Kernel("k", (x, places, out), 1, (), builder.block())
        # Also where the buffer that is read so is too small to be asked for.
        assert (spans_of(kernel, 1 << 20) is None) == (source is places)


def test_more_items_than_memory_holds_have_no_span() -> None:
    out = Buffer("out", f32, (1 << 40,))
    builder = KernelBuilder()
    with builder.loop(1 << 40, "parallel") as i:
        builder.store(out, (i,), 1.0)
    assert spans_of(Kernel("k", (out,), 1, (), builder.block())) is None


def test_a_span_grows_with_the_items() -> None:
    x, out = Buffer("x", f32, (100,)), Buffer("out", f32, (40,))
    builder = KernelBuilder()
    with builder.loop(10, "parallel") as i, builder.loop(4) as j:
        with builder.when(less(i, 8)):
            builder.store(out, (4 * i + j,), x[8 * i + 2 * j] + x[8 * i + 2 * j + 3])
        with builder.otherwise():
            builder.store(out, (4 * i + j,), x[50])
    spans = spans_of(Kernel("k", (x, out), 1, (), builder.block()))
    assert spans is not None
    assert spans["out"].low.tolist() == [4 * i for i in range(10)]
    assert spans["out"].high.tolist() == [4 * i + 3 for i in range(10)]
    assert spans["x"].low.tolist() == [0, 8, 16, 24, 32, 40, 48, 50, 50, 50]
    assert spans["x"].high.tolist() == [9, 17, 25, 33, 41, 49, 57, 65, 65, 65]
