"""From pixels to digits, for several callers at once: python examples/digit_service.py

What surrounds a network can be compiled with it: here bytes become scaled numbers before it, and
logits a digit and its probability behind it. Threads that have a request each use one model.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import bessemer
from bessemer.frontends import builder as nn
from bessemer.frontends.train.from_onnx import network_from_onnx

LENET = network_from_onnx(Path(__file__).with_name("lenet.onnx"))


def recognize(pixels: nn.Tensor) -> dict[str, nn.Tensor]:
    """Digits of images, u8[batch, 28, 28, 1], as a camera gives them."""
    images = pixels.cast("f32").transpose(0, 3, 1, 2) / 255.0
    shares = nn.softmax(LENET.forward(images)["logits"], axis=1)
    return {"digit": nn.arg_max(shares, 1), "probability": shares.max(1)}


def main() -> None:
    """Compiles once, and answers three requests of one to three images on two threads."""
    network = nn.Network(recognize, nn.Input("pixels", ("batch", 28, 28, 1), "u8"))
    model = bessemer.compile(network, threads=1)  # a call stays on its caller's thread
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 256, (count, 28, 28, 1), np.uint8) for count in (1, 2, 3)]
    with ThreadPoolExecutor(2) as callers:
        for digits, probabilities in callers.map(model, requests):
            print(*(f"{d} ({p:.1%})" for d, p in zip(digits, probabilities)))


if __name__ == "__main__":
    main()
