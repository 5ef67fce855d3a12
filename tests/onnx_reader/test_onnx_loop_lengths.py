"""Loops that begin with a prompt of any length, and go on with single tokens."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, expected, floats, parsed


@pytest.mark.parametrize("trips", ["trips", ""])
def test_a_query_of_any_length_is_followed_by_single_rows(trips: str) -> None:
    """Keys, values and what is said start as long as the query, and grow."""
    model = parsed(
        f"""agraph (float[n, 3] x, float[n] said, int64 trips)
        => (float[m, 3] keys, float[k, 3] values, float[o, 3] query, float[j] all) {{
            going = Constant<value = bool {{1}}>()
            keys, values, query, all = Loop({trips}, going, x, x, x, said) <
                body = step (int64 i, bool go, float[a, 3] k, float[c, 3] v, float[g, 3] q,
                        float[e] s) => (bool more, float[b, 3] ks, float[d, 3] vs,
                        float[h, 3] mixed, float[f] longer) {{
                    key = Sin(q)
                    ks = Concat<axis = 0>(k, key)
                    vs = Concat<axis = 0>(v, q)
                    transposed = Transpose<perm = [1, 0]>(ks)
                    scores = MatMul(q, transposed)
                    weights = Softmax(scores)
                    rows = MatMul(weights, vs)
                    last = Constant<value_ints = [-1]>()
                    mixed = Gather<axis = 0>(rows, last)
                    word = ReduceSum<keepdims = 0>(mixed)
                    axis = Constant<value_ints = [0]>()
                    words = Unsqueeze(word, axis)
                    longer = Concat<axis = 0>(s, words, words)
                    size = Size(longer)
                    most = Constant<value = int64 {{12}}>()
                    more = Less(size, most)
                }}
            >
        }}"""
    )
    graph = read_onnx(model)
    compiled = bessemer.compile(model, cache=False)
    for length, most in ((6, 3), (1, 5), (4, 1)):
        given = {"x": floats(length, 3), "said": floats(length), "trips": np.array(most)}
        agrees(model, given, graph)
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
