"""Small models of odd sizes, whose every kernel has a last vector that is not full."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser

from bessemer.compiler.ir.types import Array
from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.artifact import Signature
from bessemer.runtime.shapes import evaluate_shape


@dataclass(frozen=True)
class Case:
    """A graph, and the values of its symbols, in the order in which its inputs have them."""

    name: str
    text: str
    sizes: Sequence[Mapping[str, int]] = ({},)

    def model(self) -> onnx.ModelProto:
        """The ONNX model."""
        return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {self.text}')

    def inputs(self, signature: Signature, symbols: Mapping[str, int]) -> list[Array]:
        """Random ones; integers are small enough to be indices."""
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        arrays: list[Array] = []
        for info in signature.inputs:
            shape = evaluate_shape(info.shape, symbols)
            is_float = "float" in info.dtype
            made = random.standard_normal(shape) if is_float else random.integers(0, 3, shape)
            arrays.append(made.astype(numpy_dtype(info.dtype)))
        return arrays


CASES = [
    Case(
        "products",
        """agraph (float[n, 13] x, float[13, 11] w, float[11] b, float[11, 5] v)
            => (float[n, 5] y) {
            p = MatMul(x, w)
            q = Add(p, b)
            r = Relu(q)
            y = MatMul(r, v)
        }""",
        [{"n": 1}, {"n": 7}, {"n": 67}],
    ),
    Case(
        "groups of few channels, which are the last axis in memory",
        """agraph (float[1, 5, 4, 20] x, float[1, 9, 96] u) => (float[1, 10, 3, 2] y,
            float[1, 12, 6] z) {
            a = Transpose<perm = [0, 3, 1, 2]>(x)
            sizes = Constant<value_ints = [10, 4, 3, 3]>()
            w = ConstantOfShape<value = float[1] {0.5}>(sizes)
            y = Conv<group = 5>(a, w)
            b = Transpose<perm = [0, 2, 1]>(u)
            others = Constant<value_ints = [12, 16, 4]>()
            v = ConstantOfShape<value = float[1] {0.5}>(others)
            z = Conv<group = 6>(b, v)
        }""",
    ),
    Case(
        "convolutions",
        """agraph (float[1, 5, 9, 7] x, float[6, 5, 3, 3] w, float[6, 1, 3, 3] d,
            float[3, 6, 1, 1] p) => (float[1, 3, 9, 7] y, float[1, 6, 4, 3] z) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w)
            b = Relu(a)
            c = Conv<pads = [1, 1, 1, 1], group = 6>(b, d)
            y = Conv(c, p)
            z = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(c)
        }""",
    ),
    Case(
        "rows",
        """agraph (float[3, n] x, float[n] s) => (float[3, n] y, float[n, 3] t, float[n] m) {
            a = LayerNormalization(x, s)
            y = Softmax<axis = 1>(a)
            t = Transpose(y)
            zero = Constant<value = int64[1] {0}>()
            m = ReduceMax<keepdims = 0>(y, zero)
        }""",
        [{"n": 1}, {"n": 19}, {"n": 130}],
    ),
    Case(
        "bytes",
        """agraph (uint8[5, 19] x, int8[19, 7] w, uint8[1, 3, 5, 5] i, int8[4, 3, 3, 3] k)
            => (int32[5, 7] y, int32[1, 4, 3, 3] z) {
            y = MatMulInteger(x, w)
            z = ConvInteger(i, k)
        }""",
    ),
    Case(
        "places",
        """agraph (float[7, 5] x, int64[3] i, float[3, 5] u) => (float[3, 5] g, float[7, 5] s,
            float[7, 2] v, int64[7, 2] p, float[7, 5] c) {
            g = Gather(x, i)
            at = Constant<value = int64[3, 1] {6, 0, 2}>()
            s = ScatterND(x, at, u)
            two = Constant<value = int64[1] {2}>()
            v, p = TopK(x, two)
            one = Constant<value = int64 {1}>()
            c = CumSum(x, one)
        }""",
    ),
    Case(
        "halves",
        """agraph (float16[3, 11] x, bfloat16[3, 11] b, float16[11, 5] w)
            => (float16[3, 5] y, float[3, 11] f, uint8[3, 11] c) {
            y = MatMul(x, w)
            f = Cast<to = 1>(b)
            c = Cast<to = 2>(x)
        }""",
    ),
    Case(
        "recurrence",
        """agraph (float[t, 3, 5] x, float[1, 28, 5] w, float[1, 28, 7] r)
            => (float[t, 1, 3, 7] y) {
            y, h, c = LSTM<hidden_size = 7>(x, w, r)
        }""",
        [{"t": 1}, {"t": 4}],
    ),
    Case(
        "attention",
        """agraph (float[2, 7, 5] q, float[2, 5, n] k, float[2, n, 5] v) => (float[2, 7, 5] y) {
            s = MatMul(q, k)
            p = Softmax<axis = -1>(s)
            y = MatMul(p, v)
        }""",
        [{"n": 1}, {"n": 9}, {"n": 77}],
    ),
    Case(
        "repeated",
        """agraph (float[3, 4] x) => (float[4, 21] y, float[4, 21] z) {
            times = Constant<value = int64[2] {1, 5}>()
            t = Tile(x, times)
            before = Constant<value = int64[4] {1, 0, 0, 1}>()
            behind = Constant<value = int64[4] {0, 0, 1, 1}>()
            y = Pad(t, before)
            z = Pad(t, behind)
        }""",
    ),
    Case(
        "pixels",
        """agraph (float[3, n, m] x, uint8[3, n, m] b, float[h, w] like)
            => (float[3, h, w] y, float[3, h, w] z, uint8[3, h, w] c) {
            s = Shape(like)
            three = Constant<value = int64[1] {3}>()
            all = Concat<axis = 0>(three, s)
            y = Resize<mode = "linear">(x, , , all)
            z = Resize<mode = "nearest">(x, , , all)
            c = Resize<mode = "nearest">(b, , , all)
        }""",
        [
            {"n": 1, "m": 1, "h": 5, "w": 40},
            {"n": 5, "m": 9, "h": 40, "w": 150},
            {"n": 40, "m": 40, "h": 35, "w": 39},
            {"n": 2, "m": 300, "h": 33, "w": 17},
            {"n": 35, "m": 63, "h": 33, "w": 19},
        ],
    ),
]  # fmt: skip
