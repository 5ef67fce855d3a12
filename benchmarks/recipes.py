"""The inputs of the corpus's models: sizes for two runs, and plausible values.

A recipe is found by a model's id; a model without one gets random numbers and sizes of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Sizes = Mapping[str | tuple[str, int], tuple[int, int]]
Maker = Callable[[np.random.Generator, tuple[int, ...]], Array]
"""Makes an array of a shape; its dtype is changed to the input's."""


@dataclass(frozen=True)
class Recipe:
    """`sizes`: for a dimension by its name, by (input, axis), or "*" for all others, its size in
    the first and in the second run. `values`: by the input's name, "*" for all others. `fixed`:
    inputs that are compiled in where the model cannot be compiled without knowing them."""

    sizes: Sizes = field(default_factory=dict)
    values: Mapping[str, Maker] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape)


def audio(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return 0.1 * rng.standard_normal(shape)


def image(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.random(shape)


def caffe_image(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return 255 * rng.random(shape) - 120


def between(low: float, high: float) -> Maker:
    return lambda rng, shape: rng.uniform(low, high, shape)


def below(limit: int) -> Maker:
    return lambda rng, shape: rng.integers(0, limit, shape)


def constant(value: float) -> Maker:
    return lambda _, shape: np.full(shape, value)


def sparse(share: float) -> Maker:
    """Ones among zeros."""
    return lambda rng, shape: rng.random(shape) < share


def edges(nodes: int) -> Maker:
    """A graph's edges as two rows of node numbers, none to itself."""

    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        start = rng.integers(0, nodes, shape[1])
        return np.stack([start, (start + rng.integers(1, nodes, shape[1])) % nodes])

    return make


def sequence_length(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Marks a length; `inputs.make_inputs` puts the size of the sequence in."""
    return np.full(shape, -1)


_SILERO_VALUES: Mapping[str, Maker] = {
    "input": audio, "h": constant(0), "c": constant(0), "state": constant(0), "sr": constant(16000),
}  # fmt: skip
_SILERO = Recipe(
    {
        "batch": (1, 2), "sequence": (576, 576), "?": (1, 2), ("input", 1): (576, 576),
        "seq_len": (31, 12), "sequence_length": (31, 12),
    },
    _SILERO_VALUES,
    ("sr",),
)  # fmt: skip
_WORDS = Recipe({"*": (64, 33)}, {"*": below(10)})
_TASHKEEL = Recipe({"batch_size": (1, 2), "batch": (1, 2), "sequence": (80, 50), "seq": (80, 50)})
_SPEECH = Recipe({"N": (1, 2)}, {"*": audio})
_DDDDOCR = Recipe({"image_width": (160, 120)})
_TABLE = Recipe({"?": (1, 5)})
_SURFACES = Recipe({"?": (1, 5)}, {"*": image})
_EEG = Recipe({"batch_size": (1, 2)})
_PICTURE = Recipe({}, {"*": image})

RECIPES: dict[str, Recipe] = {
    "terrain-unet": Recipe({"batch": (1, 2)}, {"sigma": between(0.1, 1), "difficulty": image}),
    "atspm-decode": _TABLE,
    "atspm-lane": _TABLE,
    "atspm-phase": _TABLE,
    "atspm-funcnet-head": Recipe({"D": (6, 4), "K": (5, 7)}),
    "atspm-funcnet-pair": Recipe({"N": (8, 5), "T": (120, 96)}),
    "basic-pitch": Recipe({"*": (1, 2)}, {"*": audio}),
    "eeg-spindle": _EEG,
    "ieeg-spindle": _EEG,
    "caustic-painn": Recipe(
        {"num_atoms": (400, 300), "num_edges": (6000, 4000), "num_residues": (50, 40)},
        {
            "edge_index": edges(300),
            "target_indices": below(300),
            "target_mask": constant(1),
            "edge_dist": between(1, 6),
            "element": below(4),
            "seq_sep": below(8),
            "same_residue": sparse(0.5),
        },
    ),
    "credsweeper": Recipe(
        {
            "unk__1572": (1, 3), "unk__1573": (1, 3), "unk__1575": (1, 3), "unk__1577": (1, 3),
            "unk__1574": (80, 60), "unk__1576": (40, 30), "unk__1578": (20, 25),
        },
        {"*": sparse(0.02)},
    ),
    "ddddocr-rec": _DDDDOCR,
    "ddddocr-rec-int8": _DDDDOCR,
    "silero-v6": _SILERO,
    "khmer-seg": Recipe({"batch": (1, 1), "seq": (128, 100)}, {"mask": constant(1)}),
    "lac-bigru": Recipe(
        {
            "DynamicDimension.0": (1, 2), "DynamicDimension.1": (40, 25),
            "DynamicDimension.2": (1, 2),
        },
        {"length": sequence_length},
    ),
    "deepcut": _WORDS,
    "oskut-deepcut": _WORDS,
    "oskut-scads": _WORDS,
    "oskut-tl-deepcut-tnhc": _WORDS,
    "oskut-tl-deepcut-ws": _WORDS,
    "oskut-tnhc": _WORDS,
    "oskut-ws-augment-60p": _WORDS,
    "oskut-ws": _WORDS,
    "silero-v5": _SILERO,
    "silero-v5-16k-op15": _SILERO,
    "silero-v5-seq": _SILERO,
    "silero-v5-half": _SILERO,
    "silero-v5-op18": _SILERO,
    "silero-v5-ov": _SILERO,
    "magika": Recipe({"*": (1, 3)}, {"bytes": below(257)}),
    "megnet": Recipe({"*": (1, 2)}),
    "nudenet-yolov8n": Recipe(
        {"batch": (1, 2), "height": (320, 256), "width": (320, 192)}, {"*": image}
    ),
    "ppocr5-cls": Recipe({"d0": (1, 2)}),
    "ppocr5-det": Recipe({"d0": (1, 2), "d1": (640, 320), "d2": (640, 480)}),
    "ppocr5-rec": Recipe({"d0": (1, 2), "d1": (320, 240)}),
    "voicefilter-embedder": Recipe({"batch": (1, 3)}),
    "oww-melspec": Recipe({"batch_size": (1, 2), "samples": (16000, 12800)}, {"*": caffe_image}),
    "smart-turn-whisper-int8": Recipe({"s6": (1, 2)}, {"*": between(0.6, 1.4)}),
    "piper-tashkeel": Recipe(
        {"batch": (1, 2), "seq": (64, 40)}, {"input_lengths": sequence_length}
    ),
    "nani-trees": Recipe({"?": (1, 4)}, {"input": sparse(0.1)}),
    "orientation-pplcnet": Recipe({"*": (1, 3)}),
    "ppocr4-det": Recipe(
        {
            "p2o.DynamicDimension.0": (1, 2), "p2o.DynamicDimension.1": (640, 320),
            "p2o.DynamicDimension.2": (640, 480),
        }
    ),
    "ppocr4-rec": Recipe(
        {"p2o.DynamicDimension.0": (1, 2), ("x", 2): (48, 48), "p2o.DynamicDimension.1": (320, 240)}
    ),
    "dnsmos-bak-ovr": _SPEECH,
    "dnsmos-p808": _SPEECH,
    "dnsmos-sig": _SPEECH,
    "dnsmos-sig-bak-ovr": _SPEECH,
    "pdnsmos": _SPEECH,
    # Squeezes its batch away where that is 1: another batch would be an output of another rank.
    "plcmos": Recipe({"batch_size": (1, 1), "frames": (500, 300)}),
    "surfaces-gb": _SURFACES,
    "surfaces-knn-c": _SURFACES,
    "surfaces-knn-r": _SURFACES,
    "tashkeel-rawi-int8": _TASHKEEL,
    "tashkeel-rawi_ensemble-int8": _TASHKEEL,
    "tashkeel-rawi_v2-int8": _TASHKEEL,
    "tashkeel-rawi_v3-int8": _TASHKEEL,
    "titler-t5-encoder-int8": Recipe(
        {"batch_size": (1, 2), "encoder_sequence_length": (48, 30)}, {"attention_mask": constant(1)}
    ),
    "minilm-l3": Recipe(
        {"batch_size": (1, 2), "sequence_length": (64, 40)}, {"attention_mask": constant(1)}
    ),
    "open-nsfw-resnet50": Recipe({"batch": (1, 2)}, {"*": caffe_image}),
    "light-alexnet": _PICTURE,
    "light-inception-v1": _PICTURE,
    "light-resnet50": _PICTURE,
    "light-squeezenet": _PICTURE,
    "light-vgg19": _PICTURE,
}  # fmt: skip
