"""The commands that look into a model or measure it, and those about the installation."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bessemer.frontends.cli import doctor
from bessemer.frontends.onnx_reader.operators.repeat import DOMAIN
from bessemer.frontends.onnx_reader.registry import RULES
from tests.command_line import run_command, save_model, save_net, save_unsupported

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """relu(x @ w + b)."""
    return save_net(tmp_path)


@pytest.fixture
def unsupported(tmp_path: Path) -> Path:
    """A model that nobody compiles."""
    return save_unsupported(tmp_path)


# inspect


def test_inspect_shows_the_graph_after_a_pass(net: Path) -> None:
    code, before, _ = run_command("inspect", net, "--after", "input")
    assert code == 0
    assert "matmul(" in before
    assert "from \"MatMul 'product'\"" in before
    _, after, _ = run_command("inspect", net, "--emit", "graph")
    assert "relu(" in after
    _, first, _ = run_command("inspect", net, "--after", "fold_constants:1")
    assert first.startswith("graph net[batch]")


def test_inspect_shows_every_station(net: Path) -> None:
    expected = {
        "loops": "kernel ",
        "program": "program net[batch]",
        "llvm": "define ",
        "asm": ".text",
        "dot": "digraph ",
    }
    for form, text in expected.items():
        code, out, _ = run_command("inspect", net, "--emit", form)
        assert code == 0, form
        assert text in out, form


def test_inspect_takes_the_precision(net: Path) -> None:
    _, exact, _ = run_command("inspect", net, "--emit", "loops")
    code, rounded, _ = run_command("inspect", net, "--emit", "loops", "--precision", "bfloat16")
    assert (code, "bf16" in exact, "bf16" in rounded) == (0, False, True)
    code, _, err = run_command("inspect", net, "--precision", "tf32")
    assert code == 1
    assert "is for GPUs" in err


def test_groups_name_the_nodes_that_they_came_from(net: Path) -> None:
    _, out, _ = run_command("inspect", net, "--emit", "groups", "--json")
    groups = json.loads(out)["groups"]
    names = " ".join(source for group in groups for source in group["sources"])
    assert all(name in names for name in ("product", "shift", "clamp"))
    _, out, _ = run_command("inspect", net, "--emit", "groups", "-O", "0", "--json")
    assert len(json.loads(out)["groups"]) > len(groups)


def test_the_memory_plan_is_not_below_its_lower_bound(tmp_path: Path) -> None:
    names = [f"h{k}" for k in range(6)]
    nodes = [
        helper.make_node("MatMul", [a, "w"], [b], f"s{b}") for a, b in zip(["x", *names], names)
    ]
    path = save_model(
        tmp_path / "chain.onnx",
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])],
        [helper.make_tensor_value_info("h5", TensorProto.FLOAT, ["n", 40])],
        [numpy_helper.from_array(np.eye(40, k=1, dtype=np.float32), "w")],
    )
    _, out, _ = run_command("inspect", path, "--emit", "memory", "--json", "--at", "n=10")
    memory = json.loads(out)["memory"]
    assert memory["at"] == {"n": 10}
    # Each value takes 1600 bytes, and two of them are alive at once.
    assert 2 * 1600 <= memory["lower_bound_bytes"] <= memory["arena_bytes"] < 3 * 1600


# verify


def test_verify_compares_at_several_sizes_of_one_compilation(net: Path) -> None:
    words = ("--sizes", "batch=1", "--sizes", "batch=7", "--float64", "--json")
    code, out, _ = run_command("verify", net, *words)
    report = json.loads(out)
    assert code == 0
    assert report["reference"] == "onnxruntime"
    assert [row["shape"] for row in report["outputs"]] == [[1, 9], [7, 9]]
    assert all(0 <= row["error"] < 1e-5 for row in report["outputs"])
    assert all(0 < row["error_to_float64"] < 1e-5 for row in report["outputs"])


def test_verify_finds_a_difference(tmp_path: Path) -> None:
    """Bessemer flushes denormal numbers to zero, onnxruntime does not unless told to."""
    path = save_model(
        tmp_path / "denormal.onnx",
        [helper.make_node("Mul", ["x", "tiny"], ["y"], "shrink")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 50])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 50])],
        [numpy_helper.from_array(np.array([1e-40], np.float32), "tiny")],
    )
    code, out, err = run_command("verify", path)
    assert code == 4
    assert "differs" in out
    assert "differ" in err


def test_verify_can_do_without_onnxruntime(net: Path) -> None:
    code, out, _ = run_command("verify", net, "--against", "interpreter", "--json")
    assert code == 0
    assert json.loads(out)["reference"] == "interpreter"


def test_verify_tells_that_onnxruntime_refuses_a_model(net: Path, tmp_path: Path) -> None:
    """Weights beside the file that a link leads to lie outside of the link's folder."""
    real = tmp_path / "real"
    real.mkdir()
    model = onnx.load(net)
    onnx.save(model, real / "m.onnx", save_as_external_data=True, size_threshold=0)
    link = tmp_path / "m.onnx"
    link.symlink_to(real / "m.onnx")
    code, _, err = run_command("verify", link)
    assert code == 1
    assert f"CompileError: onnxruntime does not run {link}" in err
    assert "--against interpreter" in err


# bench


def test_bench_measures_ours_and_others(net: Path, tmp_path: Path) -> None:
    words = ("--threads", "1", "--rounds", "1", "--seconds", "0.01", "--against", "onnxruntime")
    code, _, err = run_command("bench", net, *words, "--tuning", tmp_path / "choices.json")
    assert code == 1 and "choices.json" in err
    code, out, _ = run_command(
        "bench", net, *words, "--unfused", "--dim", "batch=8", "--json", "--quiet"
    )
    assert code == 0
    report = json.loads(out)
    rows = {row["system"]: row for row in report["systems"]}
    assert list(rows) == ["bessemer", "bessemer -O1", "bessemer -O0", "onnxruntime"]
    assert report["operations"] == 8 * 9 * (2 * 30 + 2)
    for name, row in rows.items():
        assert 0 < row["min"] <= row["median"] <= row["p90"], name
        assert row["memory"] > 1 << 20
        assert row["gflops"] > 0
        assert row["peak_share"] > 0
        if name != "onnxruntime":
            assert row["error"] < 1e-5
            assert row["compile"] > 0


def test_bench_tells_of_a_system_that_fails(unsupported: Path) -> None:
    assert run_command("bench", unsupported)[0] == 3
    code, _, err = run_command("bench", unsupported, "--against", "abacus")
    assert code == 2
    assert "onnxruntime" in err


# list-ops, doctor, cache


def test_list_ops_knows_the_operator_sets(tmp_path: Path) -> None:
    code, out, _ = run_command("list-ops", "--json")
    assert code == 0
    listed = json.loads(out)
    rows = {(row["domain"], row["name"]): row for row in listed["onnx"]}
    assert {key for key in RULES if key[0] != DOMAIN} <= set(rows)
    newest = onnx.defs.onnx_opset_version()
    assert rows["", "Conv"]["opsets"] == [7, newest]
    assert rows["", "LayerNormalization"]["opsets"] == [17, newest]
    assert rows["", "Upsample"]["opsets"] == [7, 9]
    assert "matmul" in {row["name"] for row in listed["graph"]}
    table = tmp_path / "operators.md"
    assert run_command("list-ops", "--markdown", table)[0] == 0
    text = table.read_text()
    assert f"| ai.onnx | Conv | 7–{newest} | rule |" in text
    assert _listed(ROOT / "docs" / "operators.md") == _listed(table), "write it anew"


def _listed(table: Path) -> set[str]:
    """The operators of a table, without the operator sets, which another onnx has more of."""
    rows = [line.split(" | ") for line in table.read_text().splitlines() if line.startswith("| ")]
    return {" ".join(row[:2]) for row in rows}


def test_the_doctor_finds_itself_well() -> None:
    code, out, _ = run_command("doctor", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["self test"]["ok"] is True
    assert report["software"]["onnxruntime"] == onnxruntime.__version__
    assert not [name for name, part in report.items() if "error" in part]


def test_the_doctor_sees_that_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place, kept in (("file", "nothing: File exists"), ("made", None)):
        monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path / place))
        assert doctor.PARTS["cache"]().get("kept") == kept


def test_the_cache_is_shown_and_emptied(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(folder))
    assert json.loads(run_command("cache", "--json")[1])["entries"] == 0
    assert run_command("run", net)[0] == 0
    found = json.loads(run_command("cache", "--json")[1])
    assert found["entries"] == 1
    assert found["bytes"] > 1000
    (folder / "mine.txt").write_text("not the cache's")
    assert run_command("cache", "--clear")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
