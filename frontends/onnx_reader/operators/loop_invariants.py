"""What a loop hands from iteration to iteration without changing it."""

from __future__ import annotations

import onnx


def kept_places(body: onnx.GraphProto) -> set[int]:
    """The carried values that the body hands on as they are: tf2onnx passes weights so. They are
    captured instead, and constants stay constants."""
    same = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity"}

    def origin(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    pairs = zip(body.input[2:], body.output[1:])
    return {place for place, (a, b) in enumerate(pairs) if origin(b.name) == a.name}
