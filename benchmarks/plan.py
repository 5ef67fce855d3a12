"""What a run of the benchmarks measures: the models, the systems, how long and how often."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from benchmarks.chosen_names import chosen
from benchmarks.record import Record
from bessemer.frontends import zoo
from bessemer.frontends.builder.network import Network
from bessemer.frontends.cli.output import write_note
from bessemer.frontends.onnx_writer.write import write_onnx

ZOO: dict[str, Callable[[], Network]] = {
    "lenet": zoo.lenet,
    "mlp": zoo.mlp,
    "resnet50": lambda: zoo.resnet(50),
    "mobilenetv2": zoo.mobilenet_v2,
    "unet": lambda: zoo.unet(size=256),
    "dcgan": zoo.dcgan_generator,
    "lstm": zoo.lstm_text,
    "bert_base": lambda: zoo.transformer_encoder(kinds=0),
    "minilm": lambda: zoo.transformer_encoder(kinds=0, features=384, layers=6),
    "vit_b16": zoo.vision_transformer,
}
"""The models that are measured where no folder of exported ones is given."""


PAUSE = 0.3
"""Seconds before a system runs: threads of the one before go on looking for work for a while,
torch's for 0.2 s."""
PAUSE_WITHOUT_TORCH = 0.06
"""The same where torch takes no part: onnxruntime's threads look for some 0.05 s."""


@dataclass(frozen=True)
class Plan:
    """The choices of one run. `models` and `corpus` are folders of ONNX files, or None."""

    record: Record
    models: Path | None = None
    corpus: Path | None = None
    only: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 5
    seconds: float = 0.5

    def files(self) -> dict[str, Path]:
        """The models by name: the folder's, or the zoo's, written once."""
        if self.models is None:
            return {name: zoo_file(name) for name in self.chosen("models", ZOO)}
        files = dict(named_models(self.models))
        return {name: files[name] for name in self.chosen("models", files)}

    def chosen(self, section: str, names: Iterable[str]) -> list[str]:
        """Those of a section's names that `only` asks for."""
        return chosen(section, names, self.only)


def named_models(folder: Path) -> Iterator[tuple[str, Path]]:
    """The ONNX files of a folder and of its folders; one that is alone in its folder has that
    folder's name."""
    for path in sorted([*folder.glob("*.onnx"), *folder.glob("*/*.onnx")]):
        if path.parent == folder:
            yield path.stem, path
        elif len(list(path.parent.glob("*.onnx"))) == 1:
            yield path.parent.name, path
        else:
            yield f"{path.parent.name}-{path.stem}", path


def zoo_file(name: str) -> Path:
    """A network of the zoo as an ONNX file, in the system's folder for temporary files."""
    path = kept_files() / f"{name}.onnx"
    if not path.exists():
        write_note(f"writing {path}")
        part = path.with_name(f".{name}.onnx")
        write_onnx(ZOO[name]().graph, part)
        part.rename(path)
    return path


def kept_files() -> Path:
    """The folder for models that are written once, among the system's temporary files."""
    folder = Path(tempfile.gettempdir()) / f"bessemer-zoo-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def possible_threads(wanted: str) -> tuple[int, ...]:
    """Of numbers by commas, those of threads that there are processors for.

    Raises typer.BadParameter where they are not numbers.
    """
    counts = [int(word) if word.strip().isdecimal() else 0 for word in wanted.split(",")]
    if 0 in counts:
        raise typer.BadParameter(f"--threads={wanted} is not like 1,2.")
    allowed = len(os.sched_getaffinity(0))
    return tuple(count for count in counts if count <= allowed) or (allowed,)


def is_installed(package: str) -> bool:
    """Whether a package, or a part of one, can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package of the part
        return False


def not_installed(*packages: str) -> list[str]:
    """Those that cannot be imported."""
    return [package for package in packages if not is_installed(package)]
