"""softmax(q kᵀ / √d) v, in one kernel where there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.cases import Case, Sample, graph_of, numbers, picked, wide
from bessemer.compiler.ir.types import Array, TensorType, bf16, dtype_of, f32, i64
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.compiler.ops.composite.composite import binary, broadcast_to, cast

Shape = tuple[int, int, int, int]


def attention_cases(small: bool) -> list[Case]:
    """Batch, heads, steps and width; bf16 with float32 in between, and float32 throughout."""
    shapes: tuple[Shape, ...] = ((1, 2, 70, 32),)
    if not small:
        shapes = ((1, 12, 128, 64), (32, 12, 128, 64), (8, 16, 2048, 128), (1, 16, 8192, 128))
    found = [_attention(shape, bf16.numpy) for shape in shapes]
    found += [_attention(shape, bf16.numpy, True) for shape in shapes[-2:]]
    return [*found, *(_attention(shape, np.dtype(np.float32)) for shape in shapes[:3])]


def _attention(shape: Shape, dtype: Any, causal: bool = False) -> Case:
    """`causal`: a step sees itself and earlier ones."""
    batch, heads, steps, width = shape
    kind = dtype_of(np.empty(0, dtype))
    scale = 1 / math.sqrt(width)

    def build(b: Any, q: Any, k: Any, v: Any) -> Any:
        turned = b.apply("transpose", k, permutation=(0, 1, 3, 2))
        wide_sums = {"dtype": f32} if kind is bf16 else {}
        scores = binary(b, "mul", b.apply("matmul", q, turned, **wide_sums), scale)
        if causal:
            scores = _hidden(b, scores)
        return b.apply("matmul", cast(b, composite_reduce.softmax(b, scores, (3,)), kind), v)

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        chosen = np.unravel_index(picked(batch * heads * steps), (batch, heads, steps))
        q, k, v = arrays
        rows = []
        for image, head, step in zip(*chosen):
            seen = step + 1 if causal else steps
            scores = wide(k[image, head, :seen]) @ wide(q[image, head, step]) * scale
            powers = np.exp(scores - scores.max())
            rows.append(powers / powers.sum() @ wide(v[image, head, :seen]))
        return [Sample(0, chosen, np.array(rows))]

    def peer(torch: Any) -> Any:
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda q, k, v: attend(q, k, v, is_causal=causal)

    return Case(
        f"{kind.name}{' causal' * causal} b{batch} h{heads} s{steps} d{width}",
        lambda: graph_of(build, [TensorType(kind, shape)] * 3),
        lambda: [numbers(shape, dtype, seed) for seed in range(3)],
        reference,
        8e-3 if kind is bf16 else 5e-6,
        4.0 * batch * heads * steps * steps * width / (2 if causal else 1),
        arithmetic="bfloat16" if kind is bf16 else "float32",
        peer=peer,
    )


def _hidden(b: Any, scores: Any) -> Any:
    """The scores with -inf for later steps."""
    shape = scores.type.shape
    rows, keys = (b.apply("iota", shape=shape, axis=axis, dtype=i64) for axis in (2, 3))
    lowest = broadcast_to(b, b.constant(np.array(-np.inf, np.float32)), shape)
    return b.apply("select", b.apply("le", keys, rows), scores, lowest)
