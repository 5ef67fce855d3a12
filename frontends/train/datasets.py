"""Small real data sets, from packages that carry them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.train.batches import split_rows

DIGITS_TEST_SHARE = 0.2


def digits(seed: int = 0, size: int = 8) -> tuple[dict[str, Array], dict[str, Array]]:
    """Handwritten digits, pixels between 0 and 1, to learn from and to test with.

    (Alpaydin & Kaynak 1998, as scikit-learn ships them.) Arrays image [rows, 1, size, size] f32 and
    label [rows] i64: 1438 rows, and 359 that the seed has chosen. The digits have 8x8 pixels; in
    larger pictures, of a multiple of 8, each pixel is repeated.
    """
    if size < 8 or size % 8:
        raise CompileError(f"Digits have a size of 8, 16, 24 and so on, not {size}.")
    try:
        module: Any = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise CompileError(
            "The digits come with scikit-learn: pip install 'bessemer[train]'."
        ) from None
    found = module.load_digits()
    image = np.asarray(found.images[:, None] / 16, np.float32)
    image = image.repeat(size // 8, axis=2).repeat(size // 8, axis=3)
    data = {"image": image, "label": found.target.astype(np.int64)}
    return split_rows(data, DIGITS_TEST_SHARE, seed)
