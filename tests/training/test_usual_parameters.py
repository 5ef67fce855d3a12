"""Which initializers of a file are trained when none is named; branches and loops learn, too."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.frontends.train.from_onnx import network_from_onnx
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer

GRAPHS = {
    "a function of a weight": ("w = Exp(a) u = Neg(w) y = Mul(x, u)", {"a"}),
    "a softmax of weights joined": ("c = Concat<axis = 0>(a, b) w = Softmax(c) t = Transpose(w) "
                                    "y = MatMul(x, t)",
                                    {"a", "b"}),
    "a weight in the type of data": ("w = CastLike(a, x) y = Mul(x, w)", {"a"}),
    "a token where a mask says so": ("m = Greater(x, zero) y = Where(m, a, x)", {"a"}),
    "rows put into data": ("y = ScatterElements<axis = 1>(x, places, b)", {"b"}),
    "elements read from a table": ("y = GatherND(a, rows)", {"a"}),
    "a token as long as the data": (
        "s = Shape(x) t = Expand(a, s) y = Concat<axis = 0>(t, x)", {"a"}
    ),
    "a token that is still zero": (
        "s = Shape(x) t = Expand(zeros, s) y = Concat<axis = 0>(t, x)", {"zeros"}
    ),
    "padding": ("p = Concat<axis = 0>(zeros, x) y = Mul(p, a)", {"a"}),
    "ones that make coordinates homogeneous": (
        "s = Shape(x) t = Expand(ones, s) p = Concat<axis = 0>(t, x) y = Mul(p, a)", {"a"}
    ),
    "a bias of one number": ("p = MatMul(x, column) y = Add(p, one)", {"column", "one"}),
    "a factor of one number": ("p = MatMul(x, column) y = Mul(p, one)", {"column"}),
    "a temperature of one number": ("p = MatMul(x, column) t = Exp(one) y = Mul(p, t)",
                                    {"column", "one"}),
    "zeros to scatter into": ("h = Mul(x, a) y = ScatterElements<axis = 1>(zeros, places, h)",
                              {"a"}),
    "angles that are looked up": ("t = Gather(cosines, rows) h = Mul(x, a) y = Mul(h, t)", {"a"}),
    "angles that are computed": ("h = Mul(x, a) t = MatMul(h, frequencies) y = Cos(t)", {"a"}),
    "a weight by its norm": ("s = Pow(a, two) m = ReduceMean(s) e = Add(m, small) n = Sqrt(e) "
                             "w = Div(a, n) t = Transpose(w) y = MatMul(x, t)",
                             {"a"}),
    "a weight under a mask": ("w = Mul(square, mask) h = MatMul(x, w) y = MatMul(h, identity)",
                              {"square", "identity"}),
    "a weight that was rounded": ("r = DequantizeLinear<axis = 1>(bytes, scales) w = Cast<to = 11>"
                                  "(r) h = Mul(x, w) y = Mul(h, a)",
                                  {"a"}),
    "a norm by statistics, written out": ("n = Sqrt(running_var) w = Div(a, n) y = Mul(x, w)",
                                          {"a"}),
    "one name in two branches": (
        "s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero) y = If(c) <"
        "then_branch = f () => (double[1,4] u) { e = Exp(a) u = Mul(x, e) },"
        "else_branch = g () => (double[1,4] v) { e = Exp(b) v = Mul(x, e) }>",
        {"a", "b"},
    ),
    "what no weight is read through": (
        "d = Sub(x, b) u = Unsqueeze(d, rows) "
        ",y = RNN<hidden_size = 1>(u, first, second, , , start)",
        {"first", "second"},
    ),
}  # fmt: skip
ARRAYS: dict[str, Any] = {
    "a": np.array([[0.3, -0.2, 0.7, 0.1]]),
    "b": np.array([[0.5, 0.2, -0.4, 0.9]]),
    "column": np.array([[0.5], [0.2], [-0.4], [0.9]]),
    "one": np.array([0.25]),
    "zero": np.array(0.0),
    "zeros": np.zeros((1, 4)),
    "ones": np.ones((1, 4)),
    "cosines": np.cos(np.arange(5.0)[:, None] * 10.0 ** -np.arange(4.0)),
    "places": np.array([[2, 0, 1, 3]]),
    "frequencies": 10.0 ** -np.arange(4.0)[:, None],
    "two": np.array(2.0),
    "square": np.full((4, 4), 0.5),
    "mask": np.tril(np.ones((4, 4))),
    "identity": np.eye(4),
    "small": np.array(1e-5),
    "bytes": np.array([[3, -2, 7, 1]], np.int8),
    "scales": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "running_var": np.array([[0.3, 0.2, 0.7, 0.1]]),
    "first": np.array([[[0.3, -0.2, 0.7, 0.1]]]),
    "second": np.array([[[0.5]]]),
    "start": np.zeros((1, 1, 1)),
    "rows": np.array([0]),
}


def _model(body: str, rows: int = 1) -> onnx.ModelProto:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]>'
        f"agraph (double[{rows},4] x) => (double[N,M] y) {{ {body} }}"
    )
    model = onnx.parser.parse_model(text)
    for name, array in ARRAYS.items():
        if name in {n for node in model.graph.node for n in _names(node)}:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def _names(node: onnx.NodeProto) -> set[str]:
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return {*node.input, *(n for graph in inner for each in graph.node for n in _names(each))}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_trained_as_a_rule(name: str) -> None:
    body, wanted = GRAPHS[name]
    assert set(network_from_onnx(_model(body)).parameters) == wanted


def test_weights_may_be_constant_nodes_in_a_file_without_initializers() -> None:
    body = (
        "w = Constant<value = double[4,2] {1, 2, 3, 4, 5, 6, 7, 8.5}>() "
        "n = Constant<value = double {2}>() h = MatMul(x, w) p = Pow(h, n) y = Mul(p, n)"
    )
    trainer = Trainer(network_from_onnx(_model(body)), _total, [], optimizer=SGD(1e-6))
    assert set(trainer.network.parameters) == {"w"}
    trainer.step({"x": np.ones((1, 4))})
    written = write_onnx(trainer.network.graph)
    arrays = {each.name: numpy_helper.to_array(each) for each in written.graph.initializer}
    np.testing.assert_allclose(arrays["w"], trainer.state["w"])
    assert (arrays["w"] < [[1, 2], [3, 4], [5, 6], [7, 8.5]]).all()
    beside = body.replace("y = Mul(p, n)", "q = Mul(p, n) o = Concat<axis = 1>(q, q) y = Mul(o, a)")
    assert set(network_from_onnx(_model(beside)).parameters) == {"a"}


def _total(y: Tensor) -> Tensor:
    return (y * y).sum()


def _step(body: str, x: Any, rows: int) -> tuple[float, dict[str, Any]]:
    trainer = Trainer(network_from_onnx(_model(body, rows)), _total, [], optimizer=SGD(0.1))
    loss = trainer.step({"x": x})["loss"]
    return loss, trainer.state


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_weight_that_a_branch_reads_learns_if_the_branch_is_taken(sign: float) -> None:
    body = (
        "s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero) y = If(c) <"
        "then_branch = f () => (double[1,4] u) { u = Mul(x, a) },"
        "else_branch = g () => (double[1,4] v) { e = Exp(b) v = Mul(x, e) }>"
    )
    x = sign * np.array([[1.0, 2.0, 0.5, 0.25]])
    loss, state = _step(body, x, 1)
    a, b = ARRAYS["a"], ARRAYS["b"]
    taken = a if sign > 0 else np.exp(b)
    assert loss == pytest.approx(((x * taken) ** 2).sum())
    slope = 2 * x * x * taken
    np.testing.assert_allclose(state["a"], a - 0.1 * slope if sign > 0 else a)
    np.testing.assert_allclose(state["b"], b if sign > 0 else b - 0.1 * slope * taken)


def test_a_weight_that_a_loop_reads_learns_from_every_iteration() -> None:
    torch = pytest.importorskip("torch")
    body = (
        "n = Constant<value = int64 {3}>() y = Loop(n, , x) <body = f "
        "(int64 i, bool going, double[2,4] h) => (bool on, double[2,4] out) "
        "{ on = Identity(going) m = Mul(h, a) p = MatMul(m, column) t = Tanh(p) out = Add(h, t) }>"
    )
    x = np.array([[1.0, 2.0, 0.5, 0.25], [0.1, -0.3, 0.2, 0.4]])
    loss, state = _step(body, x, 2)
    a, column = (torch.tensor(ARRAYS[n], requires_grad=True) for n in ("a", "column"))
    h = torch.tensor(x)
    for _ in range(3):
        h = h + torch.tanh(h * a @ column)
    wanted = (h * h).sum()
    wanted.backward()
    assert loss == pytest.approx(wanted.item())
    for name, weight in (("a", a), ("column", column)):
        np.testing.assert_allclose(state[name], (weight - 0.1 * weight.grad).detach().numpy())


def test_a_branch_may_have_a_constant_of_a_weight_s_name() -> None:
    body = (
        "h = Mul(x, a) s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero) y = If(c) <"
        "then_branch = f () => (double[1,4] u) "
        "{ a = Constant<value = double[1,4] {5, 6, 7, 8}>() u = Mul(h, a) },"
        "else_branch = g () => (double[1,4] v) { v = Mul(h, a) }>"
    )
    x = np.array([[1.0, 2.0, 0.5, 0.25]])
    for sign, factor in ((1, np.array([[5.0, 6.0, 7.0, 8.0]])), (-1, ARRAYS["a"])):
        loss, _ = _step(body, sign * x, 1)
        assert loss == pytest.approx(((x * ARRAYS["a"] * factor) ** 2).sum())
