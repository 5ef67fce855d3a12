"""Makes a network of `export_recipes.py` and exports it, with inputs beside it.

    python -m benchmarks.export_worker NAME FILE.onnx FILE.npz

It is a process of its own, so that torch's threads and memory are gone when systems are measured.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.export_recipes import EXPORTS, SIZES, Export
from bessemer.frontends.array_files import write_arrays


def main() -> None:
    name, model, inputs = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with torch.no_grad():
        export(EXPORTS[name], Path(model), Path(inputs))


def export(recipe: Export, model: Path, inputs: Path) -> None:
    """Writes the ONNX file and the inputs that it was exported with."""
    given = {name: _tensor(text) for name, text in recipe.inputs.items()}
    names, values = list(given), tuple(given.values())
    free = {name: _free_axes(text) for name, text in recipe.inputs.items()}
    network = _Called(_made(recipe), names, recipe.outputs).eval()
    _vary(network)
    options: dict[str, Any] = {"input_names": names, "dynamo": recipe.dynamo}
    if recipe.dynamo:
        sizes = {word: torch.export.Dim(word) for word in SIZES}
        axes = [{axis: sizes[word] for axis, word in free[name].items()} for name in names]
        # One entry for the one parameter, which is `*values`.
        options |= {"dynamic_shapes": (tuple(axes),), "external_data": False}
    else:
        options |= {"dynamic_axes": free, "opset_version": 17}
    torch.onnx.export(network, values, str(model), **options)
    write_arrays(inputs, {name: value.numpy() for name, value in given.items()})


class _Called(torch.nn.Module):
    """A network called by the inputs' names, of whose outputs only some are wanted."""

    def __init__(self, network: Any, names: list[str], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names, self.outputs = network, names, outputs

    def forward(self, *values: Any) -> Any:
        found = self.network(**dict(zip(self.names, values, strict=True)))
        return tuple(found[name] for name in self.outputs) if self.outputs else found


def _made(recipe: Export) -> Any:
    module = importlib.import_module(recipe.module)
    maker = getattr(module, recipe.name)
    if recipe.module != "transformers":
        return maker(**recipe.arguments)
    return maker(maker.config_class(**_with_configurations(module, recipe.arguments)))


def _with_configurations(module: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            inner = {key: entry for key, entry in value.items() if key != "is"}
            found[name] = getattr(module, value["is"])(**inner)
    return found


def _vary(network: Any) -> None:
    """Biases, scales and statistics as after training: zeros and ones would be compiled away."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.mul_(1 + 0.2 * torch.rand_like(tensor)).add_(0.05 * torch.rand_like(tensor))


def _tensor(text: str) -> torch.Tensor:
    kind, _, sizes = text.rpartition(":")
    shape = [SIZES.get(word) or int(word) for word in sizes.split()]
    if kind.startswith("<"):
        return torch.randint(int(kind[1:]), shape)
    return torch.ones(shape, dtype=torch.int64) if kind else torch.randn(shape)


def _free_axes(text: str) -> dict[int, str]:
    sizes = text.rpartition(":")[2].split()
    return {axis: word for axis, word in enumerate(sizes) if word in SIZES}


if __name__ == "__main__":
    main()
