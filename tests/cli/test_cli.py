"""The command line: results on stdout, all else on stderr, and an exit code for every outcome."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.runtime.artifact import elf_machine
from tests.command_line import expected_of_net, run_command, save_net, save_unsupported
from tests.onnx_check import parsed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """relu(x @ w + b)."""
    return save_net(tmp_path)


@pytest.fixture
def unsupported(tmp_path: Path) -> Path:
    """A model that nobody compiles."""
    return save_unsupported(tmp_path)


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


def test_help_names_every_command_and_loads_neither_llvm_nor_onnx() -> None:
    assert _loaded_after("--help") == set()
    code, out, _ = run_command("--help")
    assert code == 0
    names = ("compile", "run", "bench", "verify", "check", "inspect", "list-ops", "doctor", "cache")
    for name in names:
        assert f" {name} " in out


@pytest.mark.parametrize("name", ["compile", "bench", "inspect", "verify", "list-ops"])
def test_a_command_describes_its_own_options(name: str) -> None:
    code, out, _ = run_command(name, "--help")
    assert code == 0
    assert "--json" in out


def test_the_version_is_the_package_s() -> None:
    assert run_command("--version")[1] == f"bessemer {bessemer.__version__}\n"


def test_a_closed_output_is_no_error() -> None:
    command = [sys.executable, "-m", "bessemer", "cache"]
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command], capture_output=True, text=True
    )
    assert (closed.returncode, closed.stderr) == (0, "")


def test_usage_errors_end_with_2(net: Path) -> None:
    assert run_command("compil")[0] == 2
    assert run_command("compile", net)[0] == 2
    assert run_command("run", net, "--dim", "batch")[0] == 2
    twice = run_command("run", net, "--dim", "batch=2", "--dim", "batch=3")
    assert twice[0] == 2 and "batch is 2 already" in twice[2]
    assert run_command("inspect", net, "--after", "no_such_pass")[0] == 2
    assert run_command("bench", net, "--threads", "many")[0] == 2
    code, _, err = run_command("bench", net, "--threads", "99999")
    assert code == 2 and "may use" in err  # each of its threads has a processor


def test_a_wrong_model_ends_with_1_and_shows_no_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    for command in (["check"], ["run"], ["inspect"], ["verify"], ["compile", "-o", "out.so"]):
        code, _, err = run_command(*command, broken)
        assert code == 1
        assert "Traceback" not in err
    code, _, err = run_command("inspect", broken, "--traceback")
    assert code == 1
    assert "Traceback" in err


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    code, _, err = run_command("run", tmp_path / "nothing.onnx")
    assert code == 1
    assert "nothing.onnx" in err


def test_errors_are_json_too_where_json_is_asked_for(unsupported: Path) -> None:
    code, out, _ = run_command("inspect", unsupported, "--json")
    assert code == 3
    error = json.loads(out)["error"]
    assert error["kind"] == "UnsupportedError"
    assert error["code"] == 3
    assert error["items"]


# compile


def test_compile_writes_an_artifact_that_computes_the_model(
    net: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    target = tmp_path / "out" / "thing.so"
    target.parent.mkdir()
    code, out, err = run_command("compile", net, "-o", target)
    assert code == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["thing.h", "thing.so"]
    assert "thing.so" in out
    assert "[1/6]" in err
    assert "[6/6]" in err
    x = rng.standard_normal((5, 30)).astype(np.float32)
    (found,) = bessemer.load(target).run({"x": x})
    np.testing.assert_allclose(found, expected_of_net(x), rtol=1e-5, atol=1e-5)


def test_compile_for_another_machine_needs_no_linker_for_an_object(
    net: Path, tmp_path: Path
) -> None:
    target = tmp_path / "arm.o"
    words = ("--target", "aarch64-linux", "--weights", "beside", "--name", "arm_net", "--json")
    code, out, _ = run_command("compile", net, "-o", target, *words)
    assert code == 0
    report = json.loads(out)
    assert report["prefix"] == "arm_net"
    assert {Path(file["path"]).suffix for file in report["files"]} == {".o", ".h", ".weights"}
    assert elf_machine(target.read_bytes()) == "aarch64"


def test_compile_writes_nothing_when_it_fails(net: Path, unsupported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert run_command("compile", unsupported, "-o", folder / "a.so")[0] == 3
    assert run_command("compile", net, "-o", folder / "a.exe")[0] == 2
    assert run_command("compile", net, "-o", folder / "a.so", "--linker", "no-such-cc")[0] == 1
    assert list(folder.iterdir()) == []


def test_a_fixed_dimension_is_no_symbol_any_more(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "fixed.o"
    code, out, _ = run_command("compile", net, "-o", target, "--dim", "batch=4", "--json")
    assert code == 0
    assert json.loads(out)["symbols"] == []
    code, _, err = run_command("compile", net, "-o", target, "--dim", "seq=4")
    assert code == 1
    assert "batch" in err


# run


def test_run_takes_inputs_from_a_file_and_keeps_outputs_in_one(
    net: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((4, 30)).astype(np.float32)
    given, kept = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, x=x)
    code, out, _ = run_command("run", net, "--inputs", given, "--outputs", kept, "--json")
    assert code == 0
    expected = expected_of_net(x)
    with np.load(kept) as arrays:
        np.testing.assert_allclose(arrays["y"], expected, rtol=1e-5, atol=1e-5)
    (row,) = json.loads(out)["outputs"]
    assert (row["name"], row["dtype"], row["shape"]) == ("y", "float32", [4, 9])
    assert row["mean"] == pytest.approx(expected.mean(), rel=1e-4)
    assert row["norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-4)


def test_random_inputs_have_the_sizes_asked_for_and_depend_on_the_seed(net: Path) -> None:
    def norm(*words: object) -> float:
        code, out, _ = run_command("run", net, "--json", *words)
        assert code == 0
        (row,) = json.loads(out)["outputs"]
        assert row["shape"] == [3, 9]
        return float(row["norm"])

    first = norm("--dim", "batch=3")
    assert norm("--dim", "batch=3") == first
    assert "more is slower" in run_command("run", net, "--threads", "999")[2]
    assert norm("--dim", "batch=3", "--seed", "1") != first


def test_a_dimension_that_no_input_has_is_told_alike(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.so"
    assert run_command("compile", net, "-o", target)[0] == 0
    for command in (
        ("run", net, "--dim", "width=2"),
        ("run", target, "--dim", "width=2"),
        ("verify", net, "--sizes", "width=2"),
        ("inspect", net, "--emit", "memory", "--at", "width=2"),
        ("compile", net, "-o", target, "--memory", "1M", "--at", "width=2"),
    ):
        code, _, err = run_command(*command)
        assert code == 1
        assert "no dimension is called 'width'; its symbolic dimensions: batch" in err


def test_a_limit_of_memory_may_be_for_a_size_that_stays_free(tmp_path: Path) -> None:
    net = tmp_path / "net.onnx"
    text = "(float[batch, 8] x, float[8, 8] w) => (y) { a = MatMul (x, w) y = MatMul (a, w) }"
    onnx.save(parsed(f"g {text}"), net)
    words = ("compile", net, "-o", tmp_path / "net.o", "--at", "batch=64")
    assert run_command(*words)[0] == 2  # for no limit
    code, _, err = run_command(*words, "--memory", "8")
    assert (code, "memory=8 is too little: the smallest plan" in err) == (1, True)
    code, out, _ = run_command(*words, "--memory", "1M", "--json")
    assert code == 0 and json.loads(out)["symbols"] == ["batch"]


def test_an_artifact_runs_without_llvm_and_onnx(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.so"
    assert run_command("compile", net, "-o", target)[0] == 0
    assert _loaded_after("run", target, "--dim", "batch=2") == set()
    for option in (("-O", 1), ("--precision", "bfloat16")):
        code, _, err = run_command("run", target, *option)
        assert (code, "--precision and -O do nothing" in err) == (2, True)


def test_a_file_that_is_no_artifact_ends_with_1(tmp_path: Path) -> None:
    code, _, err = run_command("run", tmp_path / "missing.so")
    assert code == 1 and "There is no file" in err


def test_inputs_that_do_not_fit_end_with_4(net: Path, tmp_path: Path) -> None:
    given = tmp_path / "in.npz"
    np.savez(given, x=np.zeros((2, 31), np.float32))
    code, _, err = run_command("run", net, "--inputs", given)
    assert code == 4
    assert "'x'" in err
    given.write_bytes(b"PK nonsense")
    assert run_command("run", net, "--inputs", given)[0] == 1


# check


def test_check_lists_all_problems_at_once(unsupported: Path) -> None:
    code, out, _ = run_command("check", unsupported, "--json")
    report = json.loads(out)
    assert code == 3
    assert report["status"] == "unsupported"
    problems = "\n".join(report["problems"])
    assert "Sharpen 'left'" in problems and "Sharpen 'right'" in problems


def test_check_describes_a_model_that_is_fine(net: Path) -> None:
    code, out, _ = run_command("check", net, "--json")
    report = json.loads(out)
    assert (code, report["status"], report["problems"]) == (0, "ok", [])
    assert report["inputs"] == {"x": "f32[batch,30]"}
    assert report["symbols"] == ["batch"]
    assert report["weights_bytes"] == (30 * 9 + 9) * 4
    code, out, _ = run_command("check", net)
    assert "f32[batch,30]" in out
    code, out, _ = run_command("check", net, "--target", "nvptx:sm_80", "--json")
    assert json.loads(out) == report
