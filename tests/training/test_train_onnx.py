"""Networks from ONNX, trained: torch's losses on the same steps, and the file that comes back."""

from copy import deepcopy
from io import BytesIO
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


class _Moving(nn.Module):  # type: ignore[misc, name-defined]
    """Weights that an exporter passes through other nodes if it is told to fold nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(5, 6)
        self.norm = nn.GroupNorm(2, 6)  # which is exported with scales of 1 that are not parameters
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.gru = nn.GRU(6, 4, batch_first=True, bidirectional=True)
        self.mix = nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Any) -> Any:
        rows = self.norm(self.project(x).transpose(1, 2)).transpose(1, 2)
        padding = torch.zeros(8, 1, 6)
        rows = torch.cat([padding, self.token.expand(8, -1, -1), rows], 1)
        return torch.einsum("bf,fo->bo", self.gru(rows)[0][:, -1], self.mix)


def test_weights_that_are_moved_on_the_way_are_found(rng: np.random.Generator) -> None:
    torch.manual_seed(5)
    model = _Moving()
    file = BytesIO()
    torch.onnx.export(
        model, (torch.zeros(8, 3, 5),), file, dynamo=False, input_names=["x"],
        do_constant_folding=False, training=torch.onnx.TrainingMode.TRAINING,
    )  # fmt: skip
    network = network_from_onnx(file.getvalue())
    assert set(network.parameters) == {name for name, _ in model.named_parameters()}
    label = [Input("label", (8,), "i64")]
    trainer = Trainer(network, cross_entropy, label, optimizer=SGD(0.05, 0.9), threads=1)
    batches: list[dict[str, Any]] = [
        {"x": rng.standard_normal((8, 3, 5), np.float32), "label": rng.integers(0, 4, 8)}
        for _ in range(STEPS)
    ]
    found = [trainer.step(batch)["loss"] for batch in batches]
    wanted = _torch_losses(model, list(model.parameters()), batches)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def _exported_in_training(model: Any, shape: tuple[int, ...], folder: Path) -> Path:
    """The model's file as a user of torch exports it to be trained; not moved by that."""
    torch.onnx.export(
        deepcopy(model), (torch.zeros(shape),), folder / "training.onnx", dynamo=False,
        input_names=["x"], do_constant_folding=False, training=torch.onnx.TrainingMode.TRAINING,
        dynamic_axes={"x": {0: "batch"}},
    )  # fmt: skip
    proto = onnx.load(folder / "training.onnx")
    state = model.state_dict()
    for tensor in proto.graph.initializer:
        # Exporting runs the model once, which moves its copy's statistics.
        tensor.CopyFrom(numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
    onnx.save(proto, folder / "training.onnx")
    return folder / "training.onnx"


def test_a_file_in_training_goes_by_its_batch_and_moves_running_statistics(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    torch.manual_seed(6)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4)
    ).train()
    network = network_from_onnx(_exported_in_training(model, (8, 2, 8, 8), tmp_path))
    trainer = Trainer(network, cross_entropy, LABELS, optimizer=SGD(0.05, 0.9), threads=1)
    batches = _batches(rng)
    found = [trainer.step(batch)["loss"] for batch in batches]
    wanted = _torch_losses(model, list(model.parameters()), batches)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    moved = trainer.network.arrays()
    np.testing.assert_allclose(moved["1.running_mean"], model[1].running_mean, atol=1e-5)
    # torch's is corrected for the sample's size, ONNX's not.
    size = 8 * 6 * 6
    left = 0.9**STEPS
    corrected = left + (moved["1.running_var"] - left) * size / (size - 1)
    np.testing.assert_allclose(corrected, model[1].running_var, rtol=1e-5)
    model[1].running_var.copy_(torch.tensor(moved["1.running_var"]))
    x = batches[0]["x"]
    (y,) = trainer.predict({"x": x})
    write_onnx(trainer.network.graph, tmp_path / "tuned.onnx")
    (again,) = onnxruntime.InferenceSession(tmp_path / "tuned.onnx").run(None, {"x": x})
    with torch.no_grad():
        expected = model.eval()(torch.tensor(x))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_dropout_of_a_file_drops_others_at_each_step_and_none_otherwise(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 200), nn.Dropout(0.5), nn.Linear(200, 4)).train()
    network = network_from_onnx(_exported_in_training(model, (8, 40), tmp_path))
    trainer = Trainer(network, cross_entropy, LABELS, optimizer=SGD(0.0), threads=1)
    batch: dict[str, Any] = {"x": np.ones((8, 40), np.float32), "label": np.arange(8) % 4}
    losses = {trainer.step(batch)["loss"] for _ in range(3)}
    assert len(losses) == 3
    with torch.no_grad():
        logits = model.eval()(torch.tensor(batch["x"]))
    wanted = nn.functional.cross_entropy(logits, torch.tensor(batch["label"])).item()
    assert trainer.evaluate(batch)["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_file_that_was_written_can_be_trained_again(tmp_path: Path) -> None:
    network = network_from_onnx(_exported(_model()))
    write_onnx(network.graph, tmp_path / "first.onnx")
    again = network_from_onnx(tmp_path / "first.onnx")
    assert again.parameter_count == network.parameter_count


def test_a_name_that_is_no_initializer_is_told() -> None:
    exported = _exported(_model())
    with pytest.raises(CompileError, match=r"no float initializer 8\.weight"):
        network_from_onnx(exported, ["8.weight"])
    with pytest.raises(CompileError, match=r"it must be a list, as \['7.\*'\]"):
        network_from_onnx(exported, "7.*")
