"""What all tests share: reproducible randomness, a fresh compile cache, the models' folders."""

import gc
import os
import signal
import sys
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# A failure on one machine is a failure on all; a shared machine's pauses are not failures.
settings.register_profile("bessemer", derandomize=True, deadline=None)
settings.load_profile("bessemer")


# A shell ignores Ctrl-C in what it runs in the background, and programs inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Thousands of tests are made of some hundred thousand objects, all of which stay: the collector of
# garbage need not look at them.
@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `in_turn`, each case stays for one of its targets; with the others it is
    slow. So every target has cases of all kinds, and none has them all. A test of a few cases stays
    as it is."""
    tests: dict[str, dict[str, list[pytest.Function]]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("in_turn"):
            target: Any = item.callspec.params["target"]
            case = item.name.replace(target.name, "")
            test = item.nodeid.partition("[")[0]
            tests.setdefault(test, {}).setdefault(case, []).append(item)
    for cases in tests.values():
        for number, same in enumerate(cases.values()):
            kept = same[_digit_sum(number, len(same)) % len(same)]
            for item in same:
                if len(cases) >= 2 * len(same) and item is not kept:
                    item.add_marker(pytest.mark.slow)


def _digit_sum(number: int, base: int) -> int:
    """In whatever steps one goes through the numbers, it takes all values modulo the base."""
    return number if number < base else number % base + _digit_sum(number // base, base)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--models", type=Path, help="folder of the exported benchmark networks")


@pytest.fixture(scope="session", autouse=True)
def fresh_compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache for this run: what an earlier version compiled must not pass today's tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "BESSEMER_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def kept_bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where no bytecode may lie beside the sources, the processes that tests start have a folder
    for it: most of them take less time to do their work than to compile all modules again."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delitem(os.environ, "PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setitem(os.environ, "PYTHONPYCACHEPREFIX", str(_shared(tmp_path_factory)))
        yield


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for bytecode that all workers of a run have."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "bytecode"


@pytest.fixture
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name and its file's, not on the order of tests."""
    name = f"{request.node.path.name}::{request.node.name}"
    return np.random.default_rng(zlib.crc32(name.encode()))


@pytest.fixture
def models_folder(request: pytest.FixtureRequest) -> Path:
    return _folder(request, "--models")


def _folder(request: pytest.FixtureRequest, option: str) -> Path:
    folder: Path | None = request.config.getoption(option)
    if folder is None:
        pytest.skip(f"needs {option} FOLDER")
    if not folder.is_dir():
        pytest.fail(f"{option} {folder}: no such folder")
    return folder
