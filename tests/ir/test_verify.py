"""Broken graphs and kernels are refused, with the guilty line and the user's node."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.loops import For, If
from bessemer.compiler.ir.op import OPS, Operator
from bessemer.compiler.ir.text.parse_graph import parse_graph
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel

SOUND = """\
graph g[n](%0 : f32[n,2], %1 : bool[])  # 'x', 'c'
  %2 = constant : f32[2] = [1.0, 2.0]  # 'w'
  %3 = relu(%0) : f32[n,2]  # from 'Relu_7'
  %4 = nonzero(%3, symbol='k') : i64[2,k]
  %5 = reduce_sum(%4, axes=(0,)) : i64[k]
  %6 = if(%1, %3) : f32[n,2]
    region then(%7 : f32[n,2])
      %8 = neg(%7) : f32[n,2]
      return %8
    region otherwise(%9 : f32[n,2])
      %10 = exp(%9) : f32[n,2]
      return %10
  return %5, %6  # 'places', 'y'
"""


def test_a_sound_graph_passes() -> None:
    verify_graph(parse_graph(SOUND))


@pytest.mark.parametrize(
    ("line", "broken", "message"),
    [
        ("relu(%0) : f32[n,2]", "relu(%0) : f32[n,3]", r"relu gives f32\[n,2\] by its rule"),
        ("relu(%0) : f32[n,2]", "relu(%0) : f16[n,2]", r"relu gives f32\[n,2\] by its rule"),
        ("axes=(0,)", "axes=(5,)", "reduce_sum"),
        ("axes=(0,)", "sides=(0,)", "sides"),
        ("[n](", "(", "uses n, which has no value yet"),
        ("i64[2,k]", "i64[2,j]", r"nonzero gives i64\[2,k\] by its rule"),
        ("symbol='k'", "symbol='n'", "the symbol n gets a value twice"),
        ("neg(%7)", "neg(%3)", r"neg reads f32\[n,2\] '' out of its graph"),
        ("axes=(0,)) : i64[k]", "axes=(1,)) : i64[2]", None),
        (
            "reduce_sum(%4, axes=(0,)) : i64[k]",
            "full(shape=(j,), value=0, dtype=i64) : i64[j]",
            "j",
        ),
    ],
)
def test_a_broken_graph_is_refused(line: str, broken: str, message: str | None) -> None:
    assert line in SOUND
    graph = parse_graph(SOUND.replace(line, broken))
    if message is None:
        verify_graph(graph)
        return
    with pytest.raises(InternalError, match=message):
        verify_graph(graph)


def test_the_error_names_the_line_and_the_users_node() -> None:
    graph = parse_graph(SOUND.replace("relu(%0) : f32[n,2]", "relu(%0) : f32[n,3]"))
    with pytest.raises(InternalError) as caught:
        verify_graph(graph)
    assert "(from the model's node Relu_7)" in str(caught.value)
    assert "%1 = relu(%0) : f32[n,3]" in str(caught.value)
    assert "where %0 : f32[n,2]" in str(caught.value)


def _graph(*nodes: Node, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Graph:
    return Graph("g", inputs, outputs, nodes, output_names=("",) * len(outputs))


def test_order_and_single_assignment_are_checked() -> None:
    x, y, z = (Value(TensorType(f32, (2,)), name) for name in "xyz")
    first = Node(OPS["relu"], (x,), (y,))
    second = Node(OPS["neg"], (y,), (z,))
    verify_graph(_graph(first, second, inputs=(x,), outputs=(z,)))
    with pytest.raises(InternalError, match=r"reads f32.2. 'y' before it is computed"):
        verify_graph(_graph(second, first, inputs=(x,), outputs=(z,)))
    with pytest.raises(InternalError, match="an output is defined twice"):
        verify_graph(_graph(first, first, inputs=(x,), outputs=(y,)))
    with pytest.raises(InternalError, match="which nothing computes"):
        verify_graph(_graph(first, inputs=(x,), outputs=(z,)))
    with pytest.raises(InternalError, match="names"):
        verify_graph(replace(_graph(first, inputs=(x,), outputs=(y,)), output_names=()))


def test_constants_have_the_types_of_their_arrays() -> None:
    value = Value(TensorType(f32, (2,)), "w")
    graph = _graph(inputs=(), outputs=(value,))
    verify_graph(replace(graph, constants={value: np.zeros(2, np.float32)}))
    with pytest.raises(InternalError, match=r"constant w : f32\[2\] holds f32\[3\]"):
        verify_graph(replace(graph, constants={value: np.zeros(3, np.float32)}))


def test_an_operator_is_the_registered_one_and_attributes_are_plain() -> None:
    x, y = (Value(TensorType(f32, (2,)), name) for name in "xy")
    other = Operator("relu", OPS["relu"].infer, OPS["relu"].reference)
    with pytest.raises(InternalError, match="not the registered operator"):
        verify_graph(_graph(Node(other, (x,), (y,)), inputs=(x,), outputs=(y,)))
    odd = Node(OPS["leaky_relu"], (x,), (y,), {"slope": np.float32(1)})
    with pytest.raises(InternalError, match="an attribute cannot be a float32"):
        verify_graph(_graph(odd, inputs=(x,), outputs=(y,)))


KERNEL = """\
kernel k[n](a : f32[n,8], b : i64[n], out : f32[n,8], count : i64[1]) writes 2
  parallel i in 0..n
    total : f32 = 0.0
    vector j in 0..8 by 4
      part : f32 = a[i, j]
      part = part * 2.0
      total += part
    allocate row : f32[8]
    fragment f : f32[2,8]
    fill f over c below 8 limit 8 = a[i, c]
    mac f[0, 1] += a[0, 1] * a[8]
    store f over d below 8 limit 8
      row 0
        out[i, d] = f@0
      row 1
        row[d] = f@1
    if b[i] > 0
      out[i, 0] = total
    at : i64 = 0
    while at < b[i]
      at = at + 1
    out[i, {checked(b[i], 8)}] = row[0]
    set n = at
"""


def test_a_sound_kernel_passes() -> None:
    verify_kernel(parse_kernel(KERNEL))


@pytest.mark.parametrize(
    ("line", "broken", "message"),
    [
        ("out[i, 0] = total", "a[i, 0] = total", "a is an input and may not be written"),
        ("writes 2", "writes 7", "7 of 4 buffers are written"),
        ("set n = at", "total : f32 = 1.0", "the name total is in use already"),
        ("set n = at", "row : f32 = 1.0", "the name row is in use already"),
        ("set n = at", "f : f32 = 1.0", "the name f is in use already"),
        ("parallel i in", "parallel i below none in", "a loop's index has an extent"),
        ("vector j in 0..8 by 4", "for j in 0..8 by 4", "only a vector loop has lanes"),
        ("vector j in 0..8 by 4", "parallel j in 0..8", "only outermost statement"),
        ("part = part * 2.0", "total = part", "total is carried from iteration to iteration"),
        ("part = part * 2.0", "part = total", "total is read where it is still accumulated"),
        ("part = part * 2.0", "total max= part", "total accumulates by add and another"),
        ("part = part * 2.0", "if part > 0.0\n        part = 1.0", "a branch depends on the lane"),
        ("part = part * 2.0", "for z in 0..j\n        part = 1.0", "length depends on the lane"),
        ("part = part * 2.0", "fragment g : f32[1,8]", "a fragment inside of a vector loop"),
        ("part = part * 2.0", "vector z in 0..4 by 4\n        part = 1.0", "vector loop inside"),
        ("mac f[0, 1] += a[0, 1]", "mac f[0, 2] += a[0, 1]", "which has 2"),
        ("mac f[0, 1] += a[0, 1]", "mac f[0, 0] += a[0, 1]", "every row is named once"),
        ("mac f[0, 1] += a[0, 1]", "mac f[0, 1] += a[0]", "every row is named once"),
        ("store f over d below 8 limit 8", "store f over d below 9 limit 8", "d runs to 9"),
        ("store f over d below 8 limit 8", "store f over d below 8 limit 9", "only 8 columns"),
        ("row[d] = f@1", "row[d] = f@2", r"rows \(2,\) of f, which has 2"),
        ("      row 1\n        row[d] = f@1\n", "", "1 rows of stores for 2 rows"),
        ("out[i, 0] = total", "out[i, 0] = f@0", "outside of a fragment store"),
        ("allocate row : f32[8]", "allocate row : f32[n]", "a local array has a constant shape"),
        ("set n = at", "set m = at", "the symbol m is not the kernel's"),
        ("set n = at", "set n = total", "f32 where i64 is wanted"),
        ("if b[i] > 0", "if b[i]", "i64 where bool is wanted"),
        ("at = at + 1", "total = at", "i64 where f32 is wanted"),
        ("while at < b[i]", "while at", "i64 where bool is wanted"),
    ],
)
def test_a_broken_kernel_is_refused(line: str, broken: str, message: str) -> None:
    assert line in KERNEL
    with pytest.raises(InternalError, match=message):
        verify_kernel(parse_kernel(KERNEL.replace(line, broken)))


def test_what_a_block_defines_ends_with_it() -> None:
    kernel = parse_kernel(
        "kernel k(out : f32[1]) writes 1\n  if out[0] > 0.0\n    x : f32 = 1.0\n    out[0] = x\n"
    )
    verify_kernel(kernel)
    (branch,) = kernel.body
    assert isinstance(branch, If)
    inside = branch.then[1]
    with pytest.raises(InternalError, match=r"there is no local x here\n  out.0. = x"):
        verify_kernel(replace(kernel, body=(branch, inside)))


def test_an_index_of_another_loop_is_unknown() -> None:
    text = "kernel k(out : f32[4]) writes 1\n  for i in 0..4\n    out[i] = 1.0\n"
    kernel, shorter = parse_kernel(text), parse_kernel(text.replace("0..4", "0..3"))
    verify_kernel(kernel)
    (loop,), (other,) = kernel.body, shorter.body
    assert isinstance(loop, For) and isinstance(other, For)
    mixed = replace(kernel, body=(replace(loop, body=other.body),))
    with pytest.raises(InternalError, match=r"the index i .below 3. is not known here"):
        verify_kernel(mixed)
