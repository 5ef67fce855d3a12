"""Sizes of two names that meet in a broadcast: equal, or one of them is 1, as the run finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import DEVICES
from bessemer.frontends.builder.network import Input
from bessemer.frontends.compile_device import build_model_for_device
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.train.from_onnx import network_from_onnx
from bessemer.frontends.train.losses import mean_squared_error
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer
from bessemer.runtime.errors import ExecutionError, InputError
from tests.onnx_check import agrees, expected, floats, operators, parsed

_SUM = "agraph (float[a, 4] x, float[b, 4] y) => (float[c, 4] z) { z = Add(x, y) }"
_KEEPS_A = """
agraph (float[a, 4] x, float[b, 4] y) => (float[c, 4] z, float[a, 4] w) {
    v = Neg(y)
    z = Add(x, v)
    w = Neg(x)
}
"""
_KEEPS_BOTH = """
agraph (float[a, 4] x, float[b, 4] y) => (float[c, 4] z, float[a, 4] v, float[b, 4] w) {
    z = Add(x, y)
    v = Neg(x)
    w = Neg(y)
}
"""
_SUMS_B = """
agraph (float[a, 4] x, float[b, 4] y) => (float[c, 4] z, float[4] w)
<int64[1] first = {0}> {
    z = Add(x, y)
    w = ReduceSum<keepdims = 0>(y, first)
}
"""
_COUNTS_B = """
agraph (float[a, 4] x, float[b, 4] y) => (float[c, 4] z) {
    shape = Shape<start = 0, end = 1>(y)
    size = Cast<to = 1>(shape)
    sum = Add(x, y)
    z = Div(sum, size)
}
"""
_SUMS_SUM = """
agraph (float[a, 4] x, float[b, 4] y, float[c, 4] t) => (float[4] z, float[d, 4] w)
<int64[1] first = {0}> {
    xy = Add(x, y)
    z = ReduceSum<keepdims = 0>(xy, first)
    w = Add(xy, t)
}
"""
_GIVES_TWO = """
agraph (float[a, 4] x, float[b, 4] y, float[c, 4] t) => (float[d, 4] z, float[e, 4] w) {
    z = Add(x, y)
    w = Add(y, t)
}
"""
_ATTENTION = """
agraph (float[b, h, s, s] x, int64[b2, s2] m, float[b, h, s, 5] v, int64[b3, s3] i)
    => (float[b, s, k] z)
<int64[2] axes = {1, 2}, float low = {-9.0}, int64[3] open = {0, 0, -1}, float[3, 1] table = {1.0, 2.0, 3.0}> {
    taken = Gather(table, i)
    f = Cast<to = 1>(m)
    g = Mul(f, low)
    u = Unsqueeze(g, axes)
    masked = Add(x, u)
    p = Softmax<axis = -1>(masked)
    made = MatMul(p, v)
    turned = Transpose<perm = [0, 2, 1, 3]>(made)
    joined = Reshape(turned, open)
    z = Add(joined, taken)
}
"""  # noqa: E501


def _check(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> None:
    graph = read_onnx(model)
    compiled = bessemer.compile(model, threads=1, cache=False)
    for feed in feeds:
        agrees(model, feed, graph)
        for ours, theirs in zip(compiled.run(feed), expected(model, feed), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, strict=True)


def _pair(a: int, b: int) -> dict[str, Array]:
    return {"x": floats(a, 4), "y": floats(b, 4) + 2}


@pytest.mark.parametrize("text", [_SUM, _KEEPS_A, _SUMS_B, _COUNTS_B])
def test_equal_sizes_of_two_names(text: str) -> None:
    _check(parsed(text), [_pair(3, 3), _pair(1, 1)])


def test_either_of_two_inputs_is_repeated() -> None:
    _check(parsed(_SUM), [_pair(3, 1), _pair(1, 3), _pair(0, 1), _pair(1, 0), _pair(0, 0)])


def test_an_input_is_repeated_although_another_is_itself_an_output() -> None:
    _check(parsed(_KEEPS_A), [_pair(3, 1)])


@pytest.mark.parametrize("text", [_SUMS_B, _COUNTS_B])
def test_what_is_summed_or_counted_is_not_repeated(text: str) -> None:
    _check(parsed(text), [_pair(1, 3)])
    with pytest.raises(ExecutionError, match=r"a = b or a = 1; .* with dims=\{'b': 1\}"):
        bessemer.compile(parsed(text), threads=1, cache=False).run(_pair(3, 1))


@pytest.mark.parametrize(
    ("text", "reason"), [(_SUM, "a = b, or 1 for any of them"), (_KEEPS_A, "b = a or b = 1")]
)
def test_sizes_that_do_not_broadcast_are_refused(text: str, reason: str) -> None:
    compiled = bessemer.compile(parsed(text), threads=1, cache=False)
    for sizes in ((3, 2), (0, 3)):
        with pytest.raises(ExecutionError, match=reason):
            compiled.run(_pair(*sizes))


@pytest.mark.parametrize("text", [_SUMS_B, _KEEPS_BOTH])
def test_a_size_of_1_that_is_known_is_no_matter(text: str) -> None:
    for name, feed in (("a", _pair(1, 3)), ("b", _pair(3, 1))):
        compiled = bessemer.compile(parsed(text), dims={name: 1}, threads=1, cache=False)
        for ours, theirs in zip(compiled.run(feed), expected(parsed(text), feed), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_two_inputs_that_cannot_be_repeated_are_as_long() -> None:
    model = parsed(_KEEPS_BOTH)
    assert operators(read_onnx(model)) == ["add", "neg", "neg"]
    with pytest.raises(InputError, match=r"axis 0 is 1, not a, which is 3 in 'x'.* dims="):
        bessemer.compile(model, threads=1, cache=False).run(_pair(3, 1))


def _three(a: int, b: int, c: int) -> dict[str, Array]:
    return _pair(a, b) | {"t": floats(c, 4)}


def test_what_some_of_a_group_decide_is_not_longer_for_the_others() -> None:
    """The sum of x and y, of one row each, has one row, however long t is."""
    _check(parsed(_SUMS_SUM), [_three(*sizes) for sizes in ((3, 3, 3), (1, 3, 3), (3, 1, 1))])
    compiled = bessemer.compile(parsed(_SUMS_SUM), threads=1, cache=False)
    with pytest.raises(ExecutionError, match="c = 1 or the longest of a, b"):
        compiled.run(_three(1, 1, 3))


def test_two_joint_sizes_that_are_both_kept_are_as_long() -> None:
    _check(parsed(_GIVES_TWO), [_three(3, 3, 3), _three(1, 1, 1)])
    with pytest.raises(InputError):
        bessemer.compile(parsed(_GIVES_TWO), threads=1, cache=False).run(_three(1, 1, 3))


def test_gpus_and_training_have_one_size_for_both() -> None:
    """A GPU would wait for the host to see a size, and training rows are as many."""
    target = DEVICES["nvptx:sm_80"]
    made = build_model_for_device(parsed(_KEEPS_A), Options(target.name), target)
    assert {type(step).__name__ for step in made.artifact.steps} == {"LaunchStep"}
    weights = "<float[4, 4] w = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}>"
    text = f"""agraph (float[a, 4] x, float[b, 4] y) => (float[c, 4] z) {weights} {{
        v = Add(x, y)
        z = MatMul(v, w)
    }}"""
    network = network_from_onnx(parsed(text))
    trainer = Trainer(network, mean_squared_error, [Input("t", ("a", 4))], optimizer=SGD(0.01))
    trainer.fit({name: floats(4, 4) for name in "xyt"}, epochs=1, batch=2)


def test_what_meets_a_size_that_is_always_1_has_any_size() -> None:
    """The product says that n is 1, behind where it has met the other."""
    text = """agraph (float[n, t] x, float[m, 1] w) => (float[a, b] y, float[m, t] z) {
        column = Transpose<perm = [1, 0]>(x)
        y = Sub(column, x)
        z = MatMul(w, x)
    }"""
    feeds = [{"x": floats(1, t), "w": floats(m, 1)} for t, m in ((5, 2), (1, 3), (2, 0), (0, 1))]
    _check(parsed(text), feeds)


def test_what_meets_a_size_that_is_always_1_is_1_where_the_model_needs_to_know_it() -> None:
    """A sequence of as many tensors as there are columns."""
    text = """agraph (float[n, t] x, float[m, 1] w)
    => (float[a, b] y, float[m, t] z, seq(float[n]) u) {
        column = Transpose<perm = [1, 0]>(x)
        y = Sub(column, x)
        z = MatMul(w, x)
        u = SplitToSequence<axis = 1, keepdims = 0>(x)
    }"""
    graph = read_onnx(parsed(text))
    assert [value.type.shape for value in graph.inputs] == [(1, 1), (dims.symbol("m"), 1)]


def test_strings_that_are_joined_are_as_many() -> None:
    """What is made of strings before the code runs is of one size."""
    text = "agraph (string[a] x, string[b] y) => (string[c] z) { z = StringConcat(x, y) }"
    compiled = bessemer.compile(parsed(text, 20), threads=1, cache=False)
    (joined,) = compiled.run({"x": np.array(["p", "q"]), "y": np.array(["r", "s"])})
    assert joined.tolist() == ["pr", "qs"]


def _attention(b: int, s: int, mask: tuple[int, int], indices: tuple[int, int]) -> dict[str, Array]:
    return {
        "x": floats(b, 2, s, s),
        "m": np.arange(mask[0] * mask[1]).reshape(mask) % 2,
        "v": floats(b, 2, s, 5),
        "i": np.arange(indices[0] * indices[1]).reshape(indices) % 3,
    }


def test_masks_and_indices_of_one_sample_or_one_place() -> None:
    shapes = [((3, 4), (3, 4)), ((1, 4), (3, 4)), ((3, 1), (1, 4)), ((1, 1), (1, 1))]
    feeds = [_attention(3, 4, mask, indices) for mask, indices in shapes]
    _check(parsed(_ATTENTION), [*feeds, _attention(1, 1, (1, 1), (1, 1))])


def test_what_an_attention_computes_is_not_repeated() -> None:
    names = operators(read_onnx(parsed(_ATTENTION)))
    # The mask and the indices along both axes, the scores and values along the first.
    assert names.count("pad") == 4
    assert names.index("pad") < names.index("matmul") and "pad" not in names[names.index("mul") :]
