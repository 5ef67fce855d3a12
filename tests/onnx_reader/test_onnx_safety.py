"""External data: a stranger's model reads no file but those beside it."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import parsed

WEIGHT = np.arange(12, dtype=np.float32)


def external_model(**entries: str) -> onnx.ModelProto:
    """x + w, where w's bytes lie where the entries say."""
    model = parsed("agraph (float[12] x) => (float[12] y) { y = Add(x, w) }")
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[12])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.append(tensor)
    return model


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def memory_of(array: Array) -> object:
    """What owns an array's bytes."""
    owner: object = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) else owner


@pytest.mark.parametrize("location", ["weights.bin", "deep/er/weights.bin", "./weights.bin"])
def test_weights_beside_the_model_are_mapped_not_copied(tmp_path: Path, location: str) -> None:
    write(tmp_path / location, b"1234" + WEIGHT.tobytes() + b"5")
    path = saved(tmp_path, external_model(location=location, offset="4", length="48"))
    graph = read_onnx(path)
    (stored,) = graph.constants.values()
    assert isinstance(memory_of(stored), mmap.mmap) and not stored.flags.writeable
    x = np.ones(12, np.float32)
    np.testing.assert_array_equal(run_graph(graph, {"x": x})[0], x + WEIGHT)


def test_without_a_length_the_rest_of_the_file_is_meant(tmp_path: Path) -> None:
    write(tmp_path / "w", WEIGHT.tobytes())
    checksum = hashlib.sha1(WEIGHT.tobytes()).hexdigest()
    path = saved(tmp_path, external_model(location="w", checksum=checksum))
    (stored,) = read_onnx(path).constants.values()
    np.testing.assert_array_equal(stored, WEIGHT)


@pytest.mark.parametrize(
    "location",
    ["../w", "a/../../w", "/etc/passwd", "~/w", "C:\\w", "a\\..\\w", "w\0x", "", ".", "c:w"],
)
def test_no_path_leaves_the_models_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    write(tmp_path / "w", WEIGHT.tobytes())
    with pytest.raises(CompileError, match=r"initializer 'w': external data"):
        read_onnx(saved(folder, external_model(location=location)))


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "w", WEIGHT.tobytes())
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    for location in ("link", "folder/w"):
        with pytest.raises(CompileError, match=r"symbolic links are not followed"):
            read_onnx(saved(folder, external_model(location=location)))


def test_a_hard_link_is_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "w", WEIGHT.tobytes())
    folder = tmp_path / "inside"
    folder.mkdir()
    os.link(outside, folder / "w")
    with pytest.raises(CompileError, match=r"is a hard link"):
        read_onnx(saved(folder, external_model(location="w")))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for location in ("pipe", "folder"):
        with pytest.raises(CompileError, match=r"is not a regular file"):
            read_onnx(saved(tmp_path, external_model(location=location)))
    with pytest.raises(CompileError, match=r"initializer 'w'.*cannot be opened"):
        read_onnx(saved(tmp_path, external_model(location="missing")))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": "44"}, "44 bytes long, its type and shape need 48"),
        ({"offset": "4"}, "44 bytes long, its type and shape need 48"),
        ({"offset": "4", "length": "48"}, "bytes 4 to 52 .* but the file has 48"),
        ({"offset": "-4", "length": "48"}, "the offset '-4'"),
        ({"offset": "99999999999999999999", "length": "48"}, "the offset '9+'"),
        ({"length": "0x30"}, "the length '0x30'"),
        ({"mode": "w"}, "an unknown key 'mode'"),
        ({"basepath": "/"}, "a basepath"),
        ({"checksum": "00"}, "does not have its checksum"),
    ],
)
def test_what_external_data_claims_must_hold(
    tmp_path: Path, entries: dict[str, str], message: str
) -> None:
    write(tmp_path / "w", WEIGHT.tobytes())
    with pytest.raises(CompileError, match=rf"initializer 'w'.*{message}"):
        read_onnx(saved(tmp_path, external_model(location="w", **entries)))


def test_external_data_without_a_location_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"without a location"):
        read_onnx(saved(tmp_path, external_model(offset="0")))
    model = external_model(location="w")
    for source in (model, model.SerializeToString()):
        with pytest.raises(CompileError, match=r"give the model's path"):
            read_onnx(source)


def test_tensors_in_attributes_are_checked_alike(tmp_path: Path) -> None:
    model = external_model(location="../w")
    node = onnx.helper.make_node("Constant", [], ["w"])
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(model.graph.initializer[0])
    node.attribute.append(attribute)
    del model.graph.initializer[:]
    model.graph.node.insert(0, node)
    with pytest.raises(CompileError, match=r"Constant 'w'.*inside the model's folder"):
        read_onnx(saved(tmp_path, model))


def test_names_become_identifiers_before_code_is_made_of_them() -> None:
    model = parsed("agraph (float[n] x) => (float[n] y) { y = Relu(x) }")
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.dim_param = "n]; system(0); //"
    (name,) = read_onnx(model).symbols
    assert name.isidentifier()
