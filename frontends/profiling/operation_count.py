"""Counts the arithmetic operations of a graph, independently of how it is compiled.

A multiplication and an addition of a matrix product or convolution are two, as everybody counts
them; anything else counts one for each element that it reads or writes. Moving data counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.compiler.ir import walk_loops
from bessemer.compiler.ir.dims import Size, Symbol, as_atom, product, rename, symbol_names, total
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Graph, Node
from bessemer.compiler.ir.loops import FragmentMac, Kernel
from bessemer.compiler.ir.program import Copy, Launch
from bessemer.compiler.ir.types import Array


def count_operations(graph: Graph, inputs: Mapping[str, Array]) -> float:
    """The operations of one run on these inputs. Of a loop whose trip count is not a constant one
    iteration counts, of a branch the costlier side, and what depends on data as nothing."""
    return _count(graph, _sizes(graph, inputs))


def operations_of(steps: Sequence[Launch | Copy], sizes: Mapping[str, int]) -> list[float]:
    """The operations that each step computes when it runs once, counted in the same way.

    A node that several kernels work on (a packing, transforms, a product) counts in the one that
    does most of the work.
    """
    home: dict[int, tuple[float, int]] = {}
    nodes: dict[int, Node] = {}
    for number, step in enumerate(steps):
        if isinstance(step, Launch):
            work = _work(step, sizes)
            for node in step.nodes:
                nodes[id(node)] = node
                if home.get(id(node), (-1.0, 0))[0] < work:
                    home[id(node)] = (work, number)
    counts = [0.0] * len(steps)
    for key, (_, number) in home.items():
        own = _operations(nodes[key])
        if symbol_names(own) <= set(sizes):
            counts[number] += evaluate_named(own, sizes)
    return counts


def products_of(kernel: Kernel) -> int:
    """How many products an instruction of a kernel adds to a sum: 2 of bfloat16 numbers."""
    groups = (s.group for s in walk_loops.walk(kernel.body) if isinstance(s, FragmentMac))
    return max(groups, default=1)


def _work(launch: Launch, sizes: Mapping[str, int]) -> float:
    """The scheduler's estimate of a launch's scalar operations; 0 where it depends on data."""
    values = dict(zip(launch.kernel.symbols, launch.sizes, strict=True))
    work = rename(launch.kernel.operations * launch.kernel.parallel_extent, values)
    return evaluate_named(work, sizes) if symbol_names(work) <= set(sizes) else 0.0


def _sizes(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in graph.inputs:
        for size, actual in zip(value.type.shape, inputs[value.name].shape):
            leaf = as_atom(size)
            if isinstance(leaf, Symbol):
                found[leaf.name] = actual
    return found


def _count(graph: Graph, sizes: Mapping[str, int]) -> float:
    count = 0.0
    for node in graph.nodes:
        inside = [_count(region, sizes) for region in node.regions]
        if node.operator.name == "if":
            count += max(inside)
        elif node.operator.name == "loop":
            count += inside[0] * _trips(node, graph)
        else:
            own = _operations(node)
            if symbol_names(own) <= set(sizes):
                count += evaluate_named(own, sizes)
    return count


def _trips(node: Node, graph: Graph) -> int:
    trips = graph.constants.get(node.inputs[0])
    return int(trips) if trips is not None and node.attributes["has_trips"] else 1


def _operations(node: Node) -> Size:
    shapes = [value.type.shape for value in node.inputs]
    match node.operator.name:
        case "matmul" | "matmul_blocks" | "matmul_rounded":
            return 2 * node.output.type.numel * shapes[0][-1]
        case "conv":
            return 2 * node.output.type.numel * product(shapes[1][:-1])
        case "plane_conv":
            return 2 * node.output.type.numel * product(shapes[1][1:])
        case "conv_transpose":
            return 2 * node.inputs[0].type.numel * product(shapes[1][:-1])
        case "lstm" | "gru" | "rnn":
            return 2 * node.inputs[0].type.numel * shapes[1][0]
        case "linear_attention":
            products = 3 if node.attributes["has_beta"] else 2
            return 2 * products * shapes[0][3] * node.outputs[0].type.numel
        case "max_pool" | "average_pool":
            return node.output.type.numel * product(node.attributes["kernel"])
        case name if name.startswith("reduce_"):
            return node.inputs[0].type.numel
        case _ if node.operator.is_view or not node.inputs:
            return 0
        case _:
            return total(value.type.numel for value in node.outputs)
