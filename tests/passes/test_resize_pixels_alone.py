"""Images resized to sizes that are one input: as many images and channels as before, or not."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.passes.gathers.resize_pixels_alone import resize_pixels_alone
from bessemer.compiler.passes.gathers.tabulate_resizes import tabulate_resizes

_OLD = tuple(dims.symbol(name) for name in "nchw")
_NEW = tuple(dims.symbol(name) for name in "NCHW")


def _free(
    mode: str = "linear", old: tuple[dims.Size, ...] = _OLD, new: tuple[dims.Size, ...] = _NEW
) -> Graph:
    b = GraphBuilder("g")
    b.input("like", TensorType(f32, new))
    x = b.input("x", TensorType(f32, old))
    return b.finish([b.apply("resize", x, shape=new, mode=mode)])


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_images_and_channels_may_be_as_many_as_before(mode: str, rng: np.random.Generator) -> None:
    before = _free(mode)
    after = tabulate_resizes(resize_pixels_alone(before))
    (choice,) = (node for node in after.nodes if node.operator.name == "if")
    pixels, everything = (
        [node.operator.name for node in region.nodes].count("mix_neighbours")
        for region in choice.regions
    )
    assert (pixels, everything) == (2, 4)
    model, others = bessemer.compile(before, cache=False), (after, tabulate_resizes(before))
    x = rng.standard_normal((2, 3, 5, 7), np.float32)
    for shape in ((2, 3, 9, 4), (2, 5, 9, 4), (1, 3, 3, 3)):
        feed = {"like": np.zeros(shape, np.float32), "x": x}
        (wanted,) = run_graph(before, feed)
        for found in (*(run_graph(graph, feed)[0] for graph in others), *model.run(feed)):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "graph",
    [
        _free("nearest"),
        _free(new=(*_OLD[:2], *_NEW[2:])),
        _free(new=(*_NEW[:2], *_OLD[2:])),
        _free(old=(2, 3, *_OLD[2:]), new=(2, 6, *_NEW[2:])),
        _free(old=_OLD[:2], new=_NEW[:2]),
        _free(new=(_OLD[0], *_NEW[1:3], _OLD[3])),
        _free(new=(2 * _OLD[0] + 1, *_NEW[1:])),
    ],
    ids=["nothing is mixed", "pixels", "channels", "known", "no pixels", "rows", "more images"],
)
def test_others_stay(graph: Graph) -> None:
    assert resize_pixels_alone(graph) is graph


_MODEL = onnx.parser.parse_model(
    """<ir_version: 9, opset_import: ["": 19]>
    agraph (float[a, b, c, d] x, int64[4] sizes) => (float[e, f, g, h] y) {
        resized = Resize<mode = "linear">(x, , , sizes)
        y = Relu(resized)
    }"""
)


def test_compiled_images_are_those_of_onnxruntime(rng: np.random.Generator) -> None:
    session = onnxruntime.InferenceSession(
        _MODEL.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    compiled = bessemer.compile(_MODEL, cache=False)
    for shape in ((2, 3, 14, 21), (2, 3, 5, 4), (2, 3, 7, 9)):
        feed = {"x": rng.standard_normal((2, 3, 7, 9), np.float32), "sizes": np.array(shape)}
        (wanted,) = session.run(None, feed)
        np.testing.assert_allclose(compiled.run(feed)[0], wanted, rtol=1e-5, atol=1e-5)


def test_channels_that_are_resized_too(rng: np.random.Generator) -> None:
    feed = {"x": rng.standard_normal((2, 3, 7, 9), np.float32), "sizes": np.array([3, 2, 5, 11])}
    (wanted,) = ReferenceEvaluator(_MODEL).run(None, feed)
    (found,) = bessemer.compile(_MODEL, cache=False).run(feed)
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-5, atol=1e-5)
