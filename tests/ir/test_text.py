"""Both languages as text: what is printed reads back, and what is read means what it says."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.op import OPS, Operator
from bessemer.compiler.ir.program import Branch, Launch, Repeat, Steps
from bessemer.compiler.ir.text.parse_graph import parse_graph
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_graph import digest, print_graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import TensorType, bf16, boolean, f32, i64, type_of
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target

GRAPH = """\
graph net[n](%0 : f32[n,3])                                   # 'x'
  %1 = constant : f32[3] = [0.1, -2.5, inf]                   # 'it\\'s "w"'
  %2 = broadcast_to(%1, shape=(n, 3)) : f32[n,3]
  %3 = add(%0, %2) : f32[n,3]                                 # 'h' from 'Add_0', 'Dropout_1'
  %4 = leaky_relu(%3, slope=0.1) : f32[n,3]
  %5 = slice(%4, starts=(n-1, 0), shape=(1, 3), steps=(1, 1)) : f32[1,3]
  %6 = cast(%5, dtype=f16) : f16[1,3]
  %7, %8 = top_k(%0, k=2, axis=1, largest=true) : f32[n,2], i64[n,2]
  %9 = reshape(%7, shape=(2*n,)) : f32[2*n]
  %10 = full(shape=(((n+1)//2),), value=-inf, dtype=f32) : f32[((n+1)//2)]
  return %6, %8, %9, %10                                      # 'y', 'places', '', ''
"""


def test_a_graph_reads_back_and_means_the_same() -> None:
    graph = parse_graph(GRAPH)
    assert print_graph(graph) == GRAPH
    verify_graph(graph)
    x = np.array([[1, 2, 3], [6, 5, 4]], np.float32)
    y, places, best, lowest = run_graph(graph, {"x": x})
    np.testing.assert_allclose(y, [[6.1, 2.5, np.inf]], rtol=1e-3)
    assert places.tolist() == [[2, 1], [0, 1]]
    assert best.tolist() == [3, 2, 6, 5]
    assert lowest.tolist() == [-np.inf]


def test_names_sources_and_symbols_read_back() -> None:
    graph = parse_graph(GRAPH)
    assert graph.symbols == ("n",)
    assert graph.output_names == ("y", "places", "", "")
    (weight,) = graph.constants
    assert weight.name == 'it\'s "w"'
    added = graph.nodes[1]
    assert (added.output.name, added.sources) == ("h", ("Add_0", "Dropout_1"))
    assert graph.nodes[6].attributes == {"shape": (2 * symbol("n"),)}


REGIONS = """\
graph choice(%0 : bool[], %1 : f32[3])                        # 'c', 'x'
  %2 = if(%0, %1) : f32[3]                                    # from 'If_0'
    region then(%3 : f32[3])
      %4 = relu(%3) : f32[3]
      return %4
    region otherwise(%5 : f32[3])
      %6 = constant : f32[3] = [1.0, 2.0, 3.0]
      %7 = mul(%5, %6) : f32[3]
      return %7
  %8 = neg(%2) : f32[3]
  return %8                                                   # 'y'
"""


def test_regions_read_back() -> None:
    graph = parse_graph(REGIONS)
    assert print_graph(graph) == REGIONS
    verify_graph(graph)
    x = np.array([-1, 0, 2], np.float32)
    (taken,) = run_graph(graph, {"c": np.array(True), "x": x})
    assert taken.tolist() == [0, 0, -2]
    (other,) = run_graph(graph, {"c": np.array(False), "x": x})
    assert other.tolist() == [1, 0, -6]


def _one_constant(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Graph:
    builder = GraphBuilder("g")
    return builder.finish([builder.constant(array)])


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64", "i8", "i64", "u8", "u64", "bool"])
def test_small_constants_are_exact(name: str, rng: np.random.Generator) -> None:
    dtype = {"bf16": bf16.numpy, "bool": boolean.numpy}.get(name)
    if dtype is None:
        dtype = parse_graph(f"graph g(%0 : {name}[])\n  return %0").inputs[0].type.dtype.numpy
    bits = rng.integers(0, 256, 16 * dtype.itemsize).astype(np.uint8)
    array = (bits % 2).astype(bool)[:16] if name == "bool" else np.frombuffer(bits.data, dtype)
    array = np.where(np.isnan(array), 0, array).astype(dtype) if name[0] in "fb" else array
    (read,) = parse_graph(print_graph(_one_constant(array))).constants.values()
    assert read.dtype == dtype
    assert read.tobytes() == array.tobytes()


def test_the_data_of_large_constants_is_given_by_digest() -> None:
    array = np.arange(100, dtype=np.float32).reshape(4, 25)
    text = print_graph(_one_constant(array))
    assert f"f32[4,25] = sha256:{digest(array)}" in text
    (read,) = parse_graph(text, {digest(array): array}).constants.values()
    assert np.array_equal(read, array)
    absent = parse_graph(text)
    (zeros,) = absent.constants.values()
    assert zeros.shape == (4, 25) and not zeros.any()
    assert print_graph(absent) == text


def test_odd_names_of_dimensions_are_quoted() -> None:
    builder = GraphBuilder("torch-jit export")
    x = builder.input("x", TensorType(f32, (symbol("batch size"), symbol("2*`n`"), symbol("f32"))))
    text = print_graph(builder.finish([builder.apply("relu", x)]))
    assert print_graph(parse_graph(text)) == text
    assert parse_graph(text).inputs[0].type == x.type


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a graph"),
        ("graph g(%0 : f32[2])\n  %1 = relu(%0) : f32[2]", "has no return"),
        ("graph g(%0 : f32[2])\n  %1 = blub(%0) : f32[2]\n  return %1", "line 2: expected an op"),
        ("graph g(%0 : f32[2])\n  %1 = relu(%2) : f32[2]\n  return %1", "a value that has been"),
        ("graph g(%0 : f32[2])\n  %0 = relu(%0) : f32[2]\n  return %0", "a new value instead"),
        ("graph g(%0 : f31[2])\n  return %0", "line 1: expected an element type, not f31"),
        ("graph g(%0 : f32[2])\n  return %0\n  return %0", "line 3: the graph has ended"),
        ("graph g()\n  %0 = constant : f32[3] = [1.0]\n  return %0", "as many elements"),
    ],
)
def test_other_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        parse_graph(text)


KERNEL = """\
kernel rows[n](in0 : f32[n,8], in1 : i64[n], out0 : f32[n,8]) writes 1 operations 8*n
  parallel i1 in 0..n
    acc2 : f32 = 0.0
    vector i3 in 0..8 by 4
      acc2 += in0[i1, i3] * in0[i1, i3]
    stream out0
    high6 : f32 = -inf
    for i7 in 0..8
      high6 max= in0[i1, i7] unless nan
    fail if acc2 == 0.0: 'a row is zero'
    $0 = rsqrt(acc2)
    scale4 : f32 = select(acc2 > 0.0, $0 * $0, 1.0)
    for i5 in 0..8
      out0[i1, i5 if index(i1+i5) < index(2*n)] = in0[{checked(in1[i1], n)}, i5] * f32(i64(in0[i1, 0]) % 3)
      if in1[i1] >= 0
        out0[i1, (i5//2)] = scale4
      else
        out0[i1, 0] = -1.0
"""  # noqa: E501

FRAGMENTS = """\
kernel tile(in0 : f32[12], in1 : f32[24], out0 : f32[3,8]) writes 1 operations 24
  fragment acc1 : f32[3,8]
  fill acc1 over i2 below 8 limit 5 = in1[i2]
  for i3 in 0..3
    prefetch in1 at 8*i3 level 1
    mac acc1[0, 1, 2] += in0[i3, i3+4, i3+8] * in1[8*i3]
  store acc1 over i4 below 8 limit 7
    row 0
      out0[0, i4] = max(acc1@0, 0.0)
    row 1
    row 2
      out0[1, i4] = acc1@2
      out0[2, i4] = acc1@2 + acc1@1
"""


@pytest.mark.parametrize("text", [KERNEL, FRAGMENTS])
def test_a_kernel_reads_back(text: str) -> None:
    kernel = parse_kernel(text)
    assert print_kernel(kernel) == text
    verify_kernel(kernel)


def test_a_kernel_that_was_read_runs() -> None:
    x = np.array([[3, 0, 0, 0, 0, 0, 0, 4], [1, 2, 3, 4, 5, 6, 7, 8]], np.float32)
    before = np.full((2, 8), 7.0, np.float32)
    result = run_kernel(parse_kernel(KERNEL), [x, np.array([1, -1]), before], {"n": 2})
    (out,) = result.outputs
    # Both rows read row 1: -1 counts from the end. The guard leaves out columns 4 and 3 onwards.
    np.testing.assert_allclose(out[0], [0.04] * 4 + [7] * 4, rtol=1e-6)
    assert out[1].tolist() == [-1, 2, 3, 7, 7, 7, 7, 7]
    assert result.failures == ()


def test_a_fragment_that_was_read_runs(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal(12), rng.standard_normal(24)
    before = np.full((3, 8), 7.0, np.float32)
    arrays = [a.astype(np.float32), b.astype(np.float32), before]
    (out,) = run_kernel(parse_kernel(FRAGMENTS), arrays, {}).outputs
    start = np.where(np.arange(8) < 5, b[:8], 0)
    sums = start + a.reshape(3, 4)[:, :3] @ b.reshape(3, 8)
    wanted = np.stack([np.maximum(sums[0], 0), sums[2], sums[2] + sums[1]])
    np.testing.assert_allclose(out[:, :7], wanted[:, :7], rtol=1e-5, atol=1e-5)
    assert out[:, 7].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a kernel"),
        ("kernel k(a : f32[2]) writes 1\n  b[0] = 1.0", "line 2: expected a buffer's name"),
        ("kernel k(a : f32[2]) writes 1\n  a[i] = 1.0", "an index, symbol or i64 local"),
        ("kernel k(a : f32[2]) writes 1\n  x = 1.0", "a local instead of x"),
        ("kernel k(a : f32[2]) writes 1\n  x : f32 = 1.0 + 2.0", "a typed number"),
        ("kernel k(a : f32[2]) writes 1\n  hop a", "a statement instead of hop"),
    ],
)
def test_other_kernels_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        parse_kernel(text)


def test_an_expression_of_many_shared_parts_stays_short() -> None:
    """As a tree it would have 2**40 leaves."""
    text = "kernel k(a : f32[1]) writes 1\n  $0 = a[0] * a[0]\n"
    text += "".join(f"  ${i + 1} = ${i} + ${i}\n" for i in range(40)) + "  a[0] = $40\n"
    printed = print_kernel(parse_kernel(text))
    assert len(printed) < 2000
    assert print_kernel(parse_kernel(printed)) == printed


def _launches(steps: Steps) -> list[Launch]:
    found: list[Launch] = []
    for step in steps:
        match step:
            case Launch():
                found.append(step)
            case Branch(_, then, otherwise):
                found += _launches((*then, *otherwise))
            case Repeat():
                found += _launches(step.body)
    return found


def _example_graphs(operator: Operator) -> list[Graph]:
    graphs: list[Graph] = []
    for example in operator.examples:
        builder = GraphBuilder(operator.name)
        types = [TensorType(f32, i) if isinstance(i, tuple) else type_of(i) for i in example.inputs]
        inputs = [builder.input(f"x{place}", type) for place, type in enumerate(types)]
        graphs.append(
            builder.finish(builder.apply_many(operator.name, *inputs, **example.attributes))
        )
    return graphs


@pytest.mark.parametrize(
    "name", sorted(name for name, operator in OPS.items() if operator.examples)
)
def test_the_kernels_of_every_operator_are_right_and_read_back(name: str) -> None:
    operator = OPS[name]
    for graph in _example_graphs(operator)[:6]:
        verify_graph(graph)
        assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
        for optimize in (0, 2):
            for launch in _launches(build_program(graph, host_target(), optimize).steps):
                verify_kernel(launch.kernel)
                text = print_kernel(launch.kernel)
                assert print_kernel(parse_kernel(text)) == text


def test_integers_of_all_attribute_kinds_read_back() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(i64, (symbol("n"),)))
    y = builder.apply("pad", x, low=(0,), high=(symbol("n"),), mode="constant", value=-3)
    text = print_graph(builder.finish([y]))
    assert parse_graph(text).nodes[0].attributes == {
        "low": (0,),
        "high": (symbol("n"),),
        "mode": "constant",
        "value": -3,
    }
