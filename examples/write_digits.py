"""Writes scikit-learn's digits for train_lenet.c: write_digits.py FILE [SIZE]

Four int32: pictures to learn from, pictures to test with, height, width. Then of both in turn the
pictures as float32, pixels between 0 and 1, and what they show as int64.
"""

import sys

import numpy as np

from bessemer.frontends.train.datasets import digits

if len(sys.argv) < 2:
    sys.exit(__doc__)
train, test = digits(size=int(sys.argv[2]) if len(sys.argv) > 2 else 16)
with open(sys.argv[1], "wb") as file:
    counts = [len(train["label"]), len(test["label"]), *train["image"].shape[2:]]
    file.write(np.array(counts, "<i4").tobytes())
    for part in (train, test):
        file.write(part["image"].astype("<f4").tobytes())
        file.write(part["label"].astype("<i8").tobytes())
