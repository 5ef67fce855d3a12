"""Networks from ONNX, trained: torch's losses on the same steps, and the file that comes back."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.network import Input
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.frontends.train.from_onnx import network_from_onnx
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer

torch = pytest.importorskip("torch")
nn = torch.nn
LABELS = [Input("label", ("batch",), "i64")]
STEPS = 10


def _model() -> Any:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(6), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(96, 12), nn.LayerNorm(12), nn.Linear(12, 4, bias=False),
    ).eval()  # fmt: skip
    model[1].running_mean += 0.1
    model[1].running_var *= 1.5
    return model


def _exported(model: Any) -> onnx.ModelProto:
    """The model as exporters write it: Gemm, and MatMul with a transposed weight."""
    state = {name: array.detach().numpy() for name, array in model.state_dict().items()}
    state["7.weight"] = np.ascontiguousarray(state["7.weight"].T)
    state["2.weight"] = state["2.weight"].reshape(6, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization",
            ["a", "1.weight", "1.bias", "1.running_mean", "1.running_var"],
            ["b"],
        ),
        helper.make_node("PRelu", ["b", "2.weight"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "5.weight", "5.bias"], ["f"], transB=1),
        helper.make_node("LayerNormalization", ["f", "6.weight", "6.bias"], ["g"], axis=-1),
        helper.make_node("MatMul", ["g", "7.weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(a, name) for name, a in state.items() if a.ndim],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _batches(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {"x": rng.standard_normal((8, 2, 8, 8), np.float32), "label": rng.integers(0, 4, 8)}
        for _ in range(STEPS)
    ]


def _torch_losses(model: Any, parameters: list[Any], batches: list[dict[str, Any]]) -> list[float]:
    optimizer = torch.optim.SGD(parameters, 0.05, 0.9)
    found = []
    for batch in batches:
        optimizer.zero_grad()
        logits = model(torch.tensor(batch["x"]))
        loss = nn.functional.cross_entropy(logits, torch.tensor(batch["label"]))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_fine_tuning_is_torch_s_and_the_file_that_comes_back_has_it(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    model = _model()
    exported = _exported(model)
    network = network_from_onnx(exported)
    assert set(network.parameters) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "5.weight", "5.bias", "6.weight",
        "6.bias", "7.weight",
    }  # fmt: skip
    trainer = Trainer(network, cross_entropy, LABELS, optimizer=SGD(0.05, 0.9), threads=1)
    batches = _batches(rng)
    found = [trainer.step(batch)["loss"] for batch in batches]
    wanted = _torch_losses(model, list(model.parameters()), batches)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    write_onnx(trainer.network.graph, tmp_path / "tuned.onnx")
    x = batches[0]["x"]
    (y,) = onnxruntime.InferenceSession(tmp_path / "tuned.onnx").run(None, {"x": x})
    with torch.no_grad():
        np.testing.assert_allclose(y, model(torch.tensor(x)), rtol=1e-3, atol=1e-4)


def test_only_what_is_chosen_is_trained(rng: np.random.Generator) -> None:
    model = _model()
    network = network_from_onnx(_exported(model), ["7.weight", "6.*"])
    assert set(network.parameters) == {"7.weight", "6.weight", "6.bias"}
    trainer = Trainer(network, cross_entropy, LABELS, optimizer=SGD(0.05, 0.9), threads=1)
    batches = _batches(rng)
    found = [trainer.step(batch)["loss"] for batch in batches]
    chosen = [*model[6].parameters(), *model[7].parameters()]
    np.testing.assert_allclose(found, _torch_losses(model, chosen, batches), rtol=1e-4)


def test_patterns_leave_running_statistics_as_they_are() -> None:
    network = network_from_onnx(_exported(_model()), ["1.*"])
    assert set(network.parameters) == {"1.weight", "1.bias"}
    named = network_from_onnx(_exported(_model()), ["1.running_var"])
    assert set(named.parameters) == {"1.running_var"}


def test_a_file_that_was_written_can_be_trained_again(tmp_path: Path) -> None:
    network = network_from_onnx(_exported(_model()))
    write_onnx(network.graph, tmp_path / "first.onnx")
    again = network_from_onnx(tmp_path / "first.onnx")
    assert again.parameter_count == network.parameter_count


def test_a_name_that_is_no_initializer_is_told() -> None:
    exported = _exported(_model())
    with pytest.raises(CompileError, match=r"no float initializer 8\.weight"):
        network_from_onnx(exported, ["8.weight"])
