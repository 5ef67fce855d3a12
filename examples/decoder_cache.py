"""A decoder that keeps its keys and values: python examples/decoder_cache.py

One compilation reads the whole prompt, then a token a step. With `grow_in_place` the cache is one
array with room for more: a step writes the new places behind those that are used, and copies none.
The weights are random, so the text says nothing; it is that of the same network without a cache.
"""

import numpy as np

import bessemer
from bessemer.frontends import builder as nn
from bessemer.runtime.model import CompiledModel

HEADS, WIDTH, LAYERS, TOKENS, ROOM = 4, 64, 2, 128, 64
CACHE = ("batch", HEADS, "past", WIDTH // HEADS)


class Block(nn.Layer):
    """Attention to the past and to the new tokens up to one's own, then a feed-forward network."""

    def __init__(self) -> None:
        self.norm, self.joint, self.output = nn.LayerNorm(), nn.Dense(3 * WIDTH), nn.Dense(WIDTH)
        self.feed_norm, self.feed = nn.LayerNorm(), nn.FeedForward(4 * WIDTH, WIDTH)

    def forward(
        self, x: nn.Tensor, past_keys: nn.Tensor, past_values: nn.Tensor
    ) -> tuple[nn.Tensor, nn.Tensor, nn.Tensor]:
        parts = nn.split(self.joint(self.norm(x)), 3, axis=2)
        query, new_keys, new_values = (
            part.reshape(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)
            for part in parts
        )
        keys = nn.concat([past_keys, new_keys], 2)
        values = nn.concat([past_values, new_values], 2)
        seen = nn.attend(query, keys, values, causal=True)  # the last query sees all keys
        x = x + self.output(seen.transpose(0, 2, 1, 3).reshape(*x.shape))
        return x + self.feed(self.feed_norm(x)), keys, values


class Decoder(nn.Layer):
    """The logits of the token after each, and the caches: the past ones, continued."""

    def __init__(self) -> None:
        self.embedding, self.norm = nn.Embedding(TOKENS, WIDTH), nn.LayerNorm()
        self.head = nn.Dense(TOKENS)
        self.blocks = [Block() for _ in range(LAYERS)]

    def forward(self, tokens: nn.Tensor, *past: nn.Tensor) -> dict[str, nn.Tensor]:
        x, present = self.embedding(tokens), dict[str, nn.Tensor]()
        for number, block in enumerate(self.blocks):
            x, keys, values = block(x, *past[2 * number : 2 * number + 2])
            present |= {f"keys{number}": keys, f"values{number}": values}
        return {"logits": self.head(self.norm(x)), **present}


def continued(model: CompiledModel, prompt: list[int], count: int) -> list[int]:
    """The prompt and the likeliest tokens after it; each step reads what is new only."""
    names = [info.name for info in model.outputs[1:]]
    caches = {name: np.zeros((1, HEADS, ROOM, WIDTH // HEADS), np.float32) for name in names}
    tokens, used = list(prompt), 0
    for _ in range(count):
        new = np.array([tokens[used:]])
        past = {f"past_{name}": cache[:, :, :used] for name, cache in caches.items()}
        used = len(tokens)
        present = {name: cache[:, :, :used] for name, cache in caches.items()}
        logits, *_ = model.run({"tokens": new, **past}, out=present)
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


def main() -> None:
    """Continues a text with the cache, and without: by reading all of it again in each step."""
    names = [f"past_{kind}{number}" for number in range(LAYERS) for kind in ("keys", "values")]
    inputs = [nn.Input("tokens", ("batch", "new"), "i64"), *(nn.Input(n, CACHE) for n in names)]
    model = bessemer.compile(nn.Network(Decoder(), *inputs), grow_in_place=True)
    tokens = continued(model, [3, 1, 4, 1, 5], 12)
    print(f"with a cache:    {tokens}")
    again = tokens[:5]
    nothing = {name: np.zeros((1, HEADS, 0, WIDTH // HEADS), np.float32) for name in names}
    while len(again) < len(tokens):
        logits, *_ = model.run({"tokens": np.array([again]), **nothing})
        again.append(int(logits[0, -1].argmax()))
    print(f"without a cache: {again}")
    print("the same" if tokens == again else "NOT the same")


if __name__ == "__main__":
    main()
