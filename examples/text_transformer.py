"""A small causal transformer that goes on with a text: python examples/text_transformer.py

Its weights are random, so it says nothing sensible; the point is that one compilation serves texts
of every length, as `batch` and `time` are symbols.
"""

import numpy as np

import bessemer
from bessemer.frontends import zoo
from bessemer.runtime.model import CompiledModel


def continued(model: CompiledModel, text: str, count: int) -> str:
    """The text and the characters that the model finds likeliest after it."""
    tokens = [ord(character) % 128 for character in text]
    for _ in range(count):
        (logits,) = model.run({"tokens": np.array([tokens], dtype=np.int64)})
        tokens.append(int(logits[0, -1].argmax()))
    return "".join(chr(token) if 32 <= token < 127 else "?" for token in tokens)


def main() -> None:
    """Compiles once and lets texts of two lengths go on."""
    network = zoo.causal_transformer(128, positions=64, features=64, heads=4, layers=2)
    print(network)
    model = bessemer.compile(network)
    for text in ("Once upon a time", "Hello"):
        print(continued(model, text, 10))


if __name__ == "__main__":
    main()
