"""What the README and docs/ say is so: commands, quotes of the tour, names, links, the example."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops
from bessemer.compiler.codegen.artifact.header import header_text
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.options import Options
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.targets.nvptx import SM80
from bessemer.frontends.builder.layer import Sequential
from bessemer.frontends.builder.layers_dense import Dense, Flatten
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.compile_device import build_model_for_device
from bessemer.frontends.models_in import build_model
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.trainer import Trainer
from tests.pass_runs import Case, changed, lines

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {
    path.name: path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
LENET = ROOT / "examples" / "lenet.onnx"

each_page = pytest.mark.parametrize("name", PAGES)


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_two_commands_are_what_ci_runs() -> None:
    setup, test = fences(README, "sh")[:2]
    script = (ROOT / ".ci" / "run").read_text()
    install = "pip install '.[test]'"
    assert install in setup and install.replace("install", "install --quiet") in script
    assert setup.split(" && ")[-1] == "bessemer bench examples/lenet.onnx\n" and LENET.exists()
    assert test == "python -m pytest\n" and script.splitlines()[-1] == test.strip()


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump of the README's tour."""
    folder = tmp_path_factory.mktemp("dump")
    build_model(LENET, Options(target="x86_64-avx2", dump=folder))
    return folder


def squeezed(line: str) -> str:
    return " ".join(line.split())


def quotes(text: str) -> list[tuple[str, str]]:
    """What a page quotes, with the names of the dump's files, whose numbers are left open."""
    return re.findall(r"^`((?:\w+/)?\*-[\w.]+)`\n```\n(.*?)```", text, re.DOTALL | re.MULTILINE)


QUOTES, MORE_QUOTES = quotes(README), quotes(PAGES["tours.md"])


@pytest.mark.parametrize(("file", "quote"), QUOTES)
def test_the_tour_quotes_the_dump(dump: Path, file: str, quote: str) -> None:
    check_quote(dump, file, quote)


@pytest.fixture(scope="module")
def more_dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dumps of docs/tours.md: the code of its first tour, and the command of its second."""
    folder = tmp_path_factory.mktemp("tours")
    (folder / "build").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BESSEMER_DUMP", str(folder))
        exec(fences(PAGES["tours.md"], "python")[0], {})
    build_model_for_device(LENET, Options(dump=folder / "gpu"), SM80)
    return folder


@pytest.mark.parametrize(("file", "quote"), MORE_QUOTES)
def test_the_other_tours_quote_their_dumps(more_dumps: Path, file: str, quote: str) -> None:
    """But for numbers: those of values and tiles change with any pass or schedule."""
    assert len(MORE_QUOTES) == 9
    check_quote(more_dumps, file, quote, unnumbered)


def unnumbered(line: str) -> str:
    return re.sub(r"\d+", "0", squeezed(line))


def check_quote(dump: Path, file: str, quote: str, plain: Callable[[str], str] = squeezed) -> None:
    """In this order, with lines left out; of a pass that runs twice, what it did the second time.
    Registers' names change with anything that is before them."""
    last = max(dump.glob(file))
    plain = unnumbered if file.endswith(".ll") else plain
    lines = [plain(line) for line in last.read_text().splitlines()]
    wanted = [plain(line) for line in quote.splitlines()]
    if file.endswith((".s", ".ptx")):
        lines, wanted = ([line.split(" ")[0] for line in text] for text in (lines, wanted))
    place = 0
    for line in wanted:
        assert line in lines[place:], f"{file} has no (further) line {line!r}"
        place = lines.index(line, place) + 1


def test_the_tour_visits_every_kind_of_file(dump: Path) -> None:
    assert len(QUOTES) == 5
    files = [path.name for file, _ in QUOTES for path in dump.glob(file)]
    assert files == sorted(set(files))
    assert {path.suffix for path in dump.iterdir()} == {".txt", ".ll", ".s"}


def test_the_long_tests_exist() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    marks = re.findall(r"`(?:python -m pytest )?-m (\w+)", README)
    assert marks and all(f"mark.{mark}" in tests for mark in marks)


@each_page
def test_files_that_a_page_names_exist(name: str) -> None:
    stated = re.findall(r"`([\w./*]+/[\w.*/]*)`", PAGES[name])
    for path in stated:
        if path.startswith(("build/", "benchmarks/results/", "~", "/")):  # made by commands
            continue
        assert list(ROOT.glob(path.rstrip("/"))), f"{name} names {path}"


@each_page
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "docs"
    text = re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert (folder / target).exists(), f"{name} links to {target}"


@each_page
def test_names_of_the_c_interface_are_the_header_s(name: str) -> None:
    words = set(re.findall(r"\blenet_\w+", PAGES[name]))
    if not words:
        return
    header = _header()
    if "lenet_training" in PAGES[name]:
        header += _training_header() + "lenet_training "
    for word in words:
        assert re.search(rf"\b{word}\b", header), f"{name} speaks of {word}"


@cache
def _header() -> str:
    return header_text(build_model(LENET, Options()).code.signature, "lenet.weights")


@cache
def _training_header() -> str:
    """The header of a small training library; the names do not depend on the network."""
    network = Network(Sequential(Flatten(), Dense(3)), Input("image", ("batch", 1, 4, 4)))
    targets = [Input("label", ("batch",), "i64")]
    with TemporaryDirectory() as folder:
        trainer = Trainer(network, cross_entropy, targets)
        return trainer.export(Path(folder) / "lenet_training.o")[1].read_text()


def test_the_example_of_an_operator_works() -> None:
    """The code of docs/adding_an_operator.md, compiled and run, with a symbolic size."""
    before = dict(OPS)
    code = fences(PAGES["adding_an_operator.md"], "python")[0]
    try:
        exec(code, {"__name__": "roll"})
        x = np.arange(15, dtype=np.float32).reshape(3, 5)
        for axis, shift in ((0, -7), (1, 2)):
            b = GraphBuilder("rolled")
            rows = b.input("x", TensorType(f32, (symbol("rows"), 5)))
            graph = b.finish([b.apply("roll", rows, axis=axis, shift=shift)], ["y"])
            y = bessemer.compile(graph, cache=False)(x)
            np.testing.assert_array_equal(y, np.roll(x, shift, axis))
    finally:
        OPS.clear()
        OPS.update(before)


def test_the_example_of_a_pass_works(rng: np.random.Generator) -> None:
    """The code of docs/extending.md."""
    found: dict[str, Any] = {"__name__": "cancel_negations"}
    exec(fences(PAGES["extending.md"], "python")[0], found)
    case = Case()
    x = case.x(3)
    twice = case.of("neg", case.of("neg", x))
    graph = case.b.finish([case.of("exp", case.of("neg", twice))])
    after = changed(graph, (found["cancel_negations"], remove_dead), rng)
    assert lines(after) == ["%1 = neg(%0)", "%2 = exp(%1)", "return %2"]


@pytest.mark.slow
def test_the_passes_may_be_watched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of docs/finding_your_way.md: no pass changes what LeNet says."""
    monkeypatch.chdir(ROOT)
    exec(fences(PAGES["finding_your_way.md"], "python")[0], {})
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert "fold_constants" in told and max(map(float, told.values())) < 1e-6


@pytest.mark.slow
def test_the_calls_in_python_are_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of docs/python.md, but for that with torch."""
    monkeypatch.chdir(ROOT)
    calls, _, whole = fences(PAGES["python.md"], "python")
    found: dict[str, Any] = {"images": np.ones((2, 1, 28, 28), np.float32)}
    exec(calls, found)
    (logits,) = found["outputs"]
    np.testing.assert_array_equal(logits, found["logits"])
    exec(whole, found)
    pixels = np.full((2, 28, 28, 1), 255, np.uint8)
    np.testing.assert_array_equal(found["model"](pixels), logits.argmax(1))


def test_so_many_files_know_an_instruction() -> None:
    (stated,) = re.findall(
        r"`grep -r (\w+) compiler` lists four files", PAGES["adding_a_target.md"]
    )
    files = [path for path in (ROOT / "compiler").rglob("*.py") if stated in path.read_text()]
    assert len(files) == 4, files


def test_the_page_of_figures_links_to_sections() -> None:
    folder = ROOT / "benchmarks" / "results"
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", (folder / "README.md").read_text())
    assert len(links) > 20
    for file, section in links:
        heads = re.findall(r"^#+ (.*)$", (folder / file).read_text(), re.MULTILINE)
        plain = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
        assert not section or section in plain, f"{file}#{section}"


def test_pages_are_short() -> None:
    shorts = (
        "adding_an_operator", "amx", "architecture", "benchmarks", "command_line", "embedding",
        "extending", "finding_your_way", "gpu", "models", "python", "tours", "training",
        "training_in_c",
    )  # fmt: skip
    for name in shorts:
        assert len(PAGES[f"{name}.md"].splitlines()) <= 130, name
