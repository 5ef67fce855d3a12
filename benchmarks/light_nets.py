"""The light networks of the onnx package: real structure, but every weight is the same number.

Each ConstantOfShape becomes an initializer of random numbers with the spread that He et al. (2015,
arXiv 1502.01852) found to keep a network's signals alive, so that outputs depend on inputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.recipes import Array


def light_models() -> list[Path]:
    """The nine files."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return sorted(folder.glob("light_*.onnx"))


def with_weights(path: Path, folder: Path) -> Path:
    """The model, or for a light one a copy in the folder that has random weights."""
    model = onnx.load(path, load_external_data=False)
    if not is_light(model):
        return path
    changed = folder / path.name
    onnx.save(with_random_weights(model), changed)
    return changed


def is_light(model: onnx.ModelProto) -> bool:
    """Whether a convolution's weights come from ConstantOfShape."""
    roles = _roles(model.graph)
    made = (node for node in model.graph.node if node.op_type == "ConstantOfShape")
    return any(roles.get(node.output[0]) == ("Conv", 1) for node in made)


def with_random_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The model with initializers in place of its constant weights.

    A softmax at the end is left out: with random weights it says 1 for one class, whatever the
    logits are, and would hide every difference.
    """
    rng = np.random.default_rng(seed)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            shapes[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    roles = _roles(graph)
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(size) for size in shapes[node.input[0]])
        array = _weight(rng, shape, roles.get(node.output[0], ("", 0)))
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    del graph.node[:]
    graph.node.extend(_without_softmax(kept, graph.output[0].name))
    return changed


def _without_softmax(nodes: list[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    last = nodes[-1]
    if last.op_type != "Softmax" or list(last.output) != [output]:
        return nodes
    for node in nodes[:-1]:
        renamed = [output if name == last.input[0] else name for name in node.output]
        del node.output[:]
        node.output.extend(renamed)
    return nodes[:-1]


def _roles(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Who reads each value, and as which input."""
    return {
        name: (node.op_type, place) for node in graph.node for place, name in enumerate(node.input)
    }


def _weight(rng: np.random.Generator, shape: tuple[int, ...], role: tuple[str, int]) -> Array:
    match role:
        case ("BatchNormalization", 1):
            return rng.uniform(0.5, 1.0, shape).astype(np.float32)
        case ("BatchNormalization", 4):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        case _ if len(shape) > 1:
            # Conv has its outputs first; a matrix product of these networks too (Gemm, transB).
            inputs = int(np.prod(shape[1:]))
            return np.asarray(rng.standard_normal(shape) * np.sqrt(2 / inputs), np.float32)
        case _:
            return np.asarray(0.1 * rng.standard_normal(shape), np.float32)
