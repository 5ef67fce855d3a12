"""Mini-batches: rows of the data in a random order, with augmentation of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.given_sizes import is_number
from bessemer.frontends.settings import require_count, require_not_negative

Data = Mapping[str, Array]


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images [N, C, H, W] of one input before every step.

    `shift`: pixels that an image moves at most, up or down and sideways (zeros come in). `flip`:
    half of them are mirrored. `noise`: the deviation of normal noise that is added.
    """

    input: str
    shift: int = 0
    flip: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        require_count("Augmentation", "shift", self.shift, 0)
        require_not_negative(self, "noise")

    def check(self, data: Data) -> None:
        """Raises CompileError where it cannot be done to the data."""
        images = data.get(self.input)
        if images is None:
            raise CompileError(f"There is no {self.input} to augment; there is {', '.join(data)}.")
        if (self.shift or self.flip) and images.ndim < 3:
            raise CompileError(
                f"{self.input} is {images.dtype}{list(images.shape)}, no images to shift or flip."
            )
        if self.noise and images.dtype.kind != "f":
            raise CompileError(f"{self.input} is {images.dtype}; noise is added to floats.")

    def apply(self, images: Array, generator: np.random.Generator) -> Array:
        """The images moved, as new arrays."""
        result = images.copy()
        if self.flip:
            mirrored = generator.random(len(images)) < 0.5
            result[mirrored] = result[mirrored][..., ::-1]
        if self.shift:
            result = _shifted(result, self.shift, generator)
        if self.noise:
            noise = generator.standard_normal(result.shape, dtype=np.float32) * self.noise
            result = (result + noise).astype(images.dtype)
        return result


def _shifted(images: Array, most: int, generator: np.random.Generator) -> Array:
    height, width = images.shape[-2:]
    margins = [(0, 0)] * (images.ndim - 2) + [(most, most), (most, most)]
    padded = np.pad(images, margins)
    result = np.empty_like(images)
    for image, (down, right) in enumerate(generator.integers(0, 2 * most + 1, (len(images), 2))):
        result[image] = padded[image, ..., down : down + height, right : right + width]
    return result


@dataclass(frozen=True)
class Batches:
    """Batches of `size` rows; the last one has what is left. Without a seed, in order.

    Raises CompileError where arrays are missing, empty, or of different lengths.
    """

    data: Data
    names: Sequence[str]
    size: int
    seed: int | None
    augmentation: Augmentation | None

    def __post_init__(self) -> None:
        missing = [name for name in self.names if name not in self.data]
        if missing:
            raise CompileError(
                f"The data has no {', '.join(missing)}; it must have {', '.join(self.names)}."
            )
        counts = {name: len(self.data[name]) for name in self.names}
        if len(set(counts.values())) != 1:
            raise CompileError(f"The data's arrays have different numbers of rows: {counts}.")
        if not self.rows:
            raise CompileError("The data has no rows.")
        if not isinstance(self.size, Integral) or self.size < 1:
            raise CompileError(f"A batch has a number of rows, one at least, not {self.size}.")
        if self.augmentation is not None:
            self.augmentation.check(self.data)

    @property
    def rows(self) -> int:
        return len(self.data[self.names[0]])

    @property
    def count(self) -> int:
        """Batches in an epoch."""
        return -(-self.rows // self.size)

    def epoch(self, number: int, first: int = 0) -> Iterator[dict[str, Array]]:
        """All rows once, from batch `first` on. What is in a batch depends on the seed, the
        epoch's number and the batch's own, so that training can be taken up anywhere."""
        order = np.arange(self.rows)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, number]).permutation(self.rows)
        for place in range(first, self.count):
            chosen = order[place * self.size : (place + 1) * self.size]
            batch = {name: np.ascontiguousarray(self.data[name][chosen]) for name in self.names}
            if self.augmentation is not None:
                name = self.augmentation.input
                generator = np.random.default_rng([self.seed or 0, number, place])
                batch[name] = self.augmentation.apply(batch[name], generator)
            yield batch


def split_rows(data: Data, share: object, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Two parts of the data, the second with `share` of the rows, chosen by the seed."""
    if not is_number(share) or not 0 < share < 1:
        raise CompileError(f"The share kept for validation is {share}; it lies between 0 and 1.")
    counts = {name: len(array) for name, array in data.items()}
    if len(set(counts.values())) != 1:
        raise CompileError(f"The data's arrays have different numbers of rows: {counts}.")
    rows = next(iter(counts.values()))
    order = np.random.default_rng([seed, rows]).permutation(rows)
    kept = max(1, round(rows * share))
    if kept >= rows:
        raise CompileError(
            f"Of {rows} rows, a share of {share} for validation leaves none to learn from."
        )
    first, second = order[kept:], order[:kept]
    return (
        {name: array[first] for name, array in data.items()},
        {name: array[second] for name, array in data.items()},
    )
