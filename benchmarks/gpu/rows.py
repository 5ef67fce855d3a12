"""Softmax, norms and losses: ideally, each row is read once and written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.cases import Case, Peer, Sample, graph_of, numbers, picked, wide
from bessemer.compiler.ir.types import Array, TensorType, bf16, dtype_of, f32, i64
from bessemer.compiler.ops.composite import composite_normalize, composite_reduce
from bessemer.compiler.ops.composite.composite import binary, broadcast_to

BF16 = bf16.numpy
EPSILON = 1e-5


def row_cases(small: bool) -> list[Case]:
    """The sizes of the bars, and of transformers."""
    softmax = ((19, 257),) if small else ((32768, 4096), (49152, 128), (8192, 32768))
    norm = ((21, 96),) if small else ((262144, 768), (4096, 768), (65536, 4096))
    found = []
    for dtype in (np.float32, BF16):
        for shape in softmax:
            found.append(_rows("softmax", shape, dtype, _softmax, _softmax_of,
                               lambda torch: lambda x: torch.softmax(x, -1)))  # fmt: skip
        for shape in norm:
            found.append(
                _norm("layer_norm", shape, dtype, _layer_norm, _layer_norm_of, _layer_peer)
            )
            found.append(_norm("rms_norm", shape, dtype, _rms_norm, _rms_norm_of, None))
    return [*found, _cross_entropy((17, 101) if small else (8192, 32000))]


def _rows(
    name: str, shape: tuple[int, int], dtype: Any, build: Callable[..., Any],
    function: Callable[..., Array], peer: Peer | None, held: Sequence[Array] = (),
) -> Case:  # fmt: skip
    kind = dtype_of(np.empty(0, dtype))

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        rows = picked(shape[0])
        first, *others = arrays
        return [Sample(0, rows, function(wide(first[rows]), *map(wide, others)))]

    return Case(
        f"{name} {kind.name} {shape[0]}x{shape[1]}",
        lambda *constants: graph_of(build, [TensorType(kind, shape)], constants),
        lambda: [numbers(shape, dtype), *held],
        reference,
        4e-3 if kind is bf16 else 3e-6,
        held=len(held),
        peer=peer,
    )


def _norm(
    name: str, shape: tuple[int, int], dtype: Any, build: Callable[..., Any],
    function: Callable[..., Array], peer: Peer | None,
) -> Case:  # fmt: skip
    parts = [numbers(shape[1:], np.float32, seed) for seed in (1, 2)]
    return _rows(name, shape, dtype, build, function, peer, parts)


def _softmax(b: Any, x: Any) -> Any:
    return composite_reduce.softmax(b, x, (1,))


def _softmax_of(x: Array) -> Array:
    powers = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _layer_norm(b: Any, x: Any, scale: Any, bias: Any) -> Any:
    return composite_normalize.layer_norm(b, x, scale, bias, (1,), EPSILON)


def _layer_norm_of(x: Array, scale: Array, bias: Array) -> Array:
    spread = np.sqrt(x.var(1, keepdims=True) + EPSILON)
    return np.asarray((x - x.mean(1, keepdims=True)) / spread * scale + bias)


def _layer_peer(torch: Any) -> Callable[..., Any]:
    kept: list[Any] = []

    def run(x: Any, scale: Any, bias: Any) -> Any:
        if not kept:
            kept.extend((scale.to(x.dtype), bias.to(x.dtype)))
        return torch.nn.functional.layer_norm(x, x.shape[1:], *kept, EPSILON)

    return run


def _rms_norm(b: Any, x: Any, scale: Any, bias: Any) -> Any:
    return composite_normalize.rms_norm(b, x, scale, (1,), EPSILON)


def _rms_norm_of(x: Array, scale: Array, bias: Array) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(1, keepdims=True) + EPSILON) * scale)


def _cross_entropy(shape: tuple[int, int]) -> Case:
    """The loss of every row: the logarithm of its sum of exponentials, less its label's logit."""
    rows, classes = shape

    def build(b: Any, x: Any, labels: Any) -> Any:
        total = composite_reduce.logsumexp(b, x, (1,))
        numbered = b.constant(np.arange(classes))
        wanted = b.apply("reshape", labels, shape=(rows, 1))
        hit = b.apply("eq", broadcast_to(b, numbered, shape), broadcast_to(b, wanted, shape))
        zeros = broadcast_to(b, b.constant(np.zeros((), np.float32)), shape)
        own = composite_reduce.reduce(b, "sum", b.apply("select", hit, x, zeros), (1,))
        return binary(b, "sub", total, own)

    def arrays() -> list[Array]:
        return [numbers(shape), np.random.default_rng(0).integers(0, classes, rows)]

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        chosen = picked(rows)
        x = wide(arrays[0][chosen])
        largest = x.max(1)
        total = np.log(np.exp(x - largest[:, None]).sum(1)) + largest
        own = x[np.arange(len(chosen)), arrays[1][chosen]]
        return [Sample(0, chosen, total - own)]

    kinds = [TensorType(f32, shape), TensorType(i64, (rows,))]
    return Case(
        f"cross_entropy f32 {rows}x{classes}",
        lambda: graph_of(build, kinds),
        arrays,
        reference,
        3e-6,
        peer=lambda torch: lambda x, y: torch.nn.functional.cross_entropy(x, y, reduction="none"),
    )
