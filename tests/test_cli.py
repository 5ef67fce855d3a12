"""The command line: results on stdout, all else on stderr, and an exit code for every outcome."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.frontends.cli import main
from bessemer.frontends.onnx_reader.registry import RULES
from bessemer.runtime.artifact import elf_machine

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bessemer_command(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), printed.out, printed.err

    return run


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[Any],
    outputs: list[Any],
    weights: Any = (),
) -> Path:
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _weights() -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    w = rng.standard_normal((30, 9)).astype(np.float32)
    return w, rng.standard_normal(9).astype(np.float32)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """y = relu(x @ w + b) for any batch."""
    w, b = _weights()
    return _save(
        tmp_path / "net.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
            helper.make_node("Add", ["p", "b"], ["s"], "shift"),
            helper.make_node("Relu", ["s"], ["y"], "clamp"),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 30])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 9])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )


def _expected(x: Array) -> Array:
    w, b = _weights()
    return np.asarray(np.maximum(x.astype(np.float64) @ w + b, 0))


@pytest.fixture
def unsupported(tmp_path: Path) -> Path:
    """A model with two things that nobody compiles, and one thing that anybody does."""
    text = helper.make_tensor_value_info("t", TensorProto.STRING, ["n"])
    return _save(
        tmp_path / "strings.onnx",
        [
            helper.make_node("StringNormalizer", ["t"], ["u"], "lower"),
            helper.make_node("TfIdfVectorizer", ["u"], ["y"], "count", max_gram_length=1,
                max_skip_count=0, min_gram_length=1, mode="TF", ngram_counts=[0],
                ngram_indexes=[0], pool_strings=["a"]),
        ],
        [text],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip


def _python(program: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _loaded_after(*words: object) -> set[str]:
    """The packages that a command line loads, of those that are slow to load."""
    program = """
import sys
from bessemer.frontends.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *({"llvmlite", "onnx", "networkx"} & set(sys.modules)))
"""
    return set(_python(program, *words).splitlines()[-1].split()[1:])


# The whole


def test_help_names_every_command_and_loads_neither_llvm_nor_onnx(bessemer_command: Run) -> None:
    assert _loaded_after("--help") == set()
    code, out, _ = bessemer_command("--help")
    assert code == 0
    names = ("compile", "run", "bench", "verify", "check", "inspect", "list-ops", "doctor", "cache")
    for name in names:
        assert f" {name} " in out


@pytest.mark.parametrize("name", ["compile", "bench", "inspect", "verify", "list-ops"])
def test_a_command_describes_its_own_options(bessemer_command: Run, name: str) -> None:
    code, out, _ = bessemer_command(name, "--help")
    assert code == 0
    assert "--json" in out


def test_the_version_is_the_package_s(bessemer_command: Run) -> None:
    assert bessemer_command("--version")[1] == f"bessemer {bessemer.__version__}\n"


def test_usage_errors_end_with_2(bessemer_command: Run, net: Path) -> None:
    assert bessemer_command("compil")[0] == 2
    assert bessemer_command("compile", net)[0] == 2
    assert bessemer_command("run", net, "--dim", "batch")[0] == 2
    assert bessemer_command("inspect", net, "--after", "no_such_pass")[0] == 2
    assert bessemer_command("bench", net, "--threads", "many")[0] == 2


def test_a_wrong_model_ends_with_1_and_shows_no_traceback(
    bessemer_command: Run, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    for command in (["check"], ["run"], ["inspect"], ["verify"], ["compile", "-o", "out.so"]):
        code, _, err = bessemer_command(*command, broken)
        assert code == 1
        assert "Traceback" not in err
    code, _, err = bessemer_command("inspect", broken, "--traceback")
    assert code == 1
    assert "Traceback" in err


def test_a_missing_file_is_named(bessemer_command: Run, tmp_path: Path) -> None:
    code, _, err = bessemer_command("run", tmp_path / "nothing.onnx")
    assert code == 1
    assert "nothing.onnx" in err


def test_errors_are_json_too_where_json_is_asked_for(
    bessemer_command: Run, unsupported: Path
) -> None:
    code, out, _ = bessemer_command("inspect", unsupported, "--json")
    assert code == 3
    error = json.loads(out)["error"]
    assert error["kind"] == "UnsupportedError"
    assert error["code"] == 3
    assert error["items"]


# compile


def test_compile_writes_an_artifact_that_computes_the_model(
    bessemer_command: Run, net: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    target = tmp_path / "out" / "thing.so"
    target.parent.mkdir()
    code, out, err = bessemer_command("compile", net, "-o", target)
    assert code == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["thing.h", "thing.so"]
    assert "thing.so" in out
    assert "[1/7]" in err
    assert "[7/7]" in err
    x = rng.standard_normal((5, 30)).astype(np.float32)
    (found,) = bessemer.load(target).run({"x": x})
    np.testing.assert_allclose(found, _expected(x), rtol=1e-5, atol=1e-5)


def test_compile_for_another_machine_needs_no_linker_for_an_object(
    bessemer_command: Run, net: Path, tmp_path: Path
) -> None:
    target = tmp_path / "arm.o"
    words = ("--target", "aarch64-linux", "--weights", "beside", "--name", "arm_net", "--json")
    code, out, _ = bessemer_command("compile", net, "-o", target, *words)
    assert code == 0
    report = json.loads(out)
    assert report["prefix"] == "arm_net"
    assert {Path(file["path"]).suffix for file in report["files"]} == {".o", ".h", ".weights"}
    assert elf_machine(target.read_bytes()) == "aarch64"


def test_compile_writes_nothing_when_it_fails(
    bessemer_command: Run, net: Path, unsupported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert bessemer_command("compile", unsupported, "-o", folder / "a.so")[0] == 3
    assert bessemer_command("compile", net, "-o", folder / "a.exe")[0] == 2
    assert bessemer_command("compile", net, "-o", folder / "a.so", "--linker", "no-such-cc")[0] == 1
    assert list(folder.iterdir()) == []


def test_a_fixed_dimension_is_no_symbol_any_more(
    bessemer_command: Run, net: Path, tmp_path: Path
) -> None:
    target = tmp_path / "fixed.o"
    code, out, _ = bessemer_command("compile", net, "-o", target, "--dim", "batch=4", "--json")
    assert code == 0
    assert json.loads(out)["symbols"] == []
    code, _, err = bessemer_command("compile", net, "-o", target, "--dim", "seq=4")
    assert code == 1
    assert "batch" in err


# run


def test_run_takes_inputs_from_a_file_and_keeps_outputs_in_one(
    bessemer_command: Run, net: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((4, 30)).astype(np.float32)
    given, kept = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, x=x)
    code, out, _ = bessemer_command("run", net, "--inputs", given, "--outputs", kept, "--json")
    assert code == 0
    expected = _expected(x)
    with np.load(kept) as arrays:
        np.testing.assert_allclose(arrays["y"], expected, rtol=1e-5, atol=1e-5)
    (row,) = json.loads(out)["outputs"]
    assert (row["name"], row["dtype"], row["shape"]) == ("y", "float32", [4, 9])
    assert row["mean"] == pytest.approx(expected.mean(), rel=1e-4)
    assert row["norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-4)


def test_random_inputs_have_the_sizes_asked_for_and_depend_on_the_seed(
    bessemer_command: Run, net: Path
) -> None:
    def norm(*words: object) -> float:
        code, out, _ = bessemer_command("run", net, "--json", *words)
        assert code == 0
        (row,) = json.loads(out)["outputs"]
        assert row["shape"] == [3, 9]
        return float(row["norm"])

    first = norm("--dim", "batch=3")
    assert norm("--dim", "batch=3") == first
    assert norm("--dim", "batch=3", "--seed", "1") != first


def test_an_artifact_runs_without_llvm_and_onnx(
    bessemer_command: Run, net: Path, tmp_path: Path
) -> None:
    target = tmp_path / "net.so"
    assert bessemer_command("compile", net, "-o", target)[0] == 0
    assert _loaded_after("run", target, "--dim", "batch=2") == set()
    code, _, err = bessemer_command("run", target, "--dim", "width=2")
    assert code == 2
    assert "batch" in err


def test_inputs_that_do_not_fit_end_with_4(
    bessemer_command: Run, net: Path, tmp_path: Path
) -> None:
    given = tmp_path / "in.npz"
    np.savez(given, x=np.zeros((2, 31), np.float32))
    code, _, err = bessemer_command("run", net, "--inputs", given)
    assert code == 4
    assert "'x'" in err
    given.write_bytes(b"PK nonsense")
    assert bessemer_command("run", net, "--inputs", given)[0] == 1


# check


def test_check_lists_all_problems_at_once(bessemer_command: Run, unsupported: Path) -> None:
    code, out, _ = bessemer_command("check", unsupported, "--json")
    report = json.loads(out)
    assert code == 3
    assert report["status"] == "unsupported"
    problems = "\n".join(report["problems"])
    assert "lower" in problems or "'t'" in problems
    assert "count" in problems or "TfIdfVectorizer" in problems


def test_check_describes_a_model_that_is_fine(bessemer_command: Run, net: Path) -> None:
    code, out, _ = bessemer_command("check", net, "--json")
    report = json.loads(out)
    assert (code, report["status"], report["problems"]) == (0, "ok", [])
    assert report["inputs"] == {"x": "f32[batch,30]"}
    assert report["symbols"] == ["batch"]
    assert report["weights_bytes"] == (30 * 9 + 9) * 4
    code, out, _ = bessemer_command("check", net)
    assert "f32[batch,30]" in out


# inspect


def test_inspect_shows_the_graph_after_a_pass(bessemer_command: Run, net: Path) -> None:
    code, before, _ = bessemer_command("inspect", net, "--after", "input")
    assert code == 0
    assert "matmul(" in before
    assert "from \"MatMul 'product'\"" in before
    _, after, _ = bessemer_command("inspect", net, "--emit", "graph")
    assert "relu(" in after
    _, first, _ = bessemer_command("inspect", net, "--after", "fold_constants:1")
    assert first.startswith("graph net[batch]")


def test_inspect_shows_every_station(bessemer_command: Run, net: Path) -> None:
    expected = {
        "loops": "kernel ",
        "program": "program net[batch]",
        "llvm": "define ",
        "asm": ".text",
        "dot": "digraph ",
    }
    for form, text in expected.items():
        code, out, _ = bessemer_command("inspect", net, "--emit", form)
        assert code == 0, form
        assert text in out, form


def test_groups_name_the_nodes_that_they_came_from(bessemer_command: Run, net: Path) -> None:
    _, out, _ = bessemer_command("inspect", net, "--emit", "groups", "--json")
    groups = json.loads(out)["groups"]
    names = " ".join(source for group in groups for source in group["sources"])
    assert all(name in names for name in ("product", "shift", "clamp"))
    _, out, _ = bessemer_command("inspect", net, "--emit", "groups", "-O", "0", "--json")
    assert len(json.loads(out)["groups"]) > len(groups)


def test_the_memory_plan_is_not_below_its_lower_bound(
    bessemer_command: Run, tmp_path: Path
) -> None:
    names = [f"h{k}" for k in range(6)]
    nodes = [helper.make_node("Softmax", [a], [b], f"s{b}") for a, b in zip(["x", *names], names)]
    path = _save(
        tmp_path / "chain.onnx",
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])],
        [helper.make_tensor_value_info("h5", TensorProto.FLOAT, ["n", 40])],
    )
    _, out, _ = bessemer_command("inspect", path, "--emit", "memory", "--json", "--at", "n=10")
    memory = json.loads(out)["memory"]
    assert memory["at"] == {"n": 10}
    # Each value takes 1600 bytes, and two of them are alive at once.
    assert 2 * 1600 <= memory["lower_bound_bytes"] <= memory["arena_bytes"] < 3 * 1600


# verify


def test_verify_compares_at_several_sizes_of_one_compilation(
    bessemer_command: Run, net: Path
) -> None:
    words = ("--sizes", "batch=1", "--sizes", "batch=7", "--float64", "--json")
    code, out, _ = bessemer_command("verify", net, *words)
    report = json.loads(out)
    assert code == 0
    assert report["reference"] == "onnxruntime"
    assert [row["shape"] for row in report["outputs"]] == [[1, 9], [7, 9]]
    assert all(0 <= row["error"] < 1e-5 for row in report["outputs"])
    assert all(0 < row["error_to_float64"] < 1e-5 for row in report["outputs"])


def test_verify_finds_a_difference(bessemer_command: Run, tmp_path: Path) -> None:
    """Bessemer flushes denormal numbers to zero, onnxruntime does not unless told to."""
    path = _save(
        tmp_path / "denormal.onnx",
        [helper.make_node("Mul", ["x", "tiny"], ["y"], "shrink")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 50])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 50])],
        [numpy_helper.from_array(np.array([1e-40], np.float32), "tiny")],
    )
    code, out, err = bessemer_command("verify", path)
    assert code == 4
    assert "differs" in out
    assert "differ" in err


def test_verify_can_do_without_onnxruntime(bessemer_command: Run, net: Path) -> None:
    code, out, _ = bessemer_command("verify", net, "--against", "interpreter", "--json")
    assert code == 0
    assert json.loads(out)["reference"] == "interpreter"


# bench


def test_bench_measures_ours_and_others(bessemer_command: Run, net: Path) -> None:
    words = ("--threads", "1", "--rounds", "1", "--seconds", "0.01", "--against", "onnxruntime")
    code, out, _ = bessemer_command(
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


def test_bench_tells_of_a_system_that_fails(bessemer_command: Run, unsupported: Path) -> None:
    assert bessemer_command("bench", unsupported)[0] == 3
    code, _, err = bessemer_command("bench", unsupported, "--against", "abacus")
    assert code == 2
    assert "onnxruntime" in err


# list-ops, doctor, cache


def test_list_ops_knows_the_operator_sets(bessemer_command: Run, tmp_path: Path) -> None:
    code, out, _ = bessemer_command("list-ops", "--json")
    assert code == 0
    listed = json.loads(out)
    rows = {(row["domain"], row["name"]): row for row in listed["onnx"]}
    assert set(RULES) <= set(rows)
    newest = onnx.defs.onnx_opset_version()
    assert rows["", "Conv"]["opsets"] == [7, newest]
    assert rows["", "LayerNormalization"]["opsets"] == [17, newest]
    assert rows["", "Upsample"]["opsets"] == [7, 9]
    assert "matmul" in {row["name"] for row in listed["graph"]}
    table = tmp_path / "operators.md"
    assert bessemer_command("list-ops", "--markdown", table)[0] == 0
    text = table.read_text()
    assert f"| ai.onnx | Conv | 7–{newest} | rule |" in text


def test_the_doctor_finds_itself_well(bessemer_command: Run) -> None:
    code, out, _ = bessemer_command("doctor", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["self test"]["ok"] is True
    assert report["software"]["onnxruntime"] == onnxruntime.__version__
    assert not [name for name, part in report.items() if "error" in part]


def test_the_cache_is_shown_and_emptied(
    bessemer_command: Run, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(folder))
    assert json.loads(bessemer_command("cache", "--json")[1])["entries"] == 0
    assert bessemer_command("run", net)[0] == 0
    found = json.loads(bessemer_command("cache", "--json")[1])
    assert found["entries"] == 1
    assert found["bytes"] > 1000
    (folder / "mine.txt").write_text("not the cache's")
    assert bessemer_command("cache", "--clear")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
