"""The kernels and the memory plan that a graph becomes: all steps but machine code."""

from __future__ import annotations

from bessemer.compiler.driver import processor_of
from bessemer.compiler.fit_memory import Fitted, fit_memory
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of


def planned(graph: Graph, target: str = "") -> Fitted:
    """What `build` makes machine code of; a test that reads no more need not wait for that."""
    options = Options(target=target)
    processor = processor_of(options)
    for step in passes_of(options, processor):
        graph = step(graph)
    return fit_memory(graph, options, processor)
