"""Networks on texts, which are integers [batch, time]: an LSTM and transformers."""

from __future__ import annotations

from bessemer.frontends.builder import (
    LSTM,
    Dense,
    Embedding,
    Input,
    Layer,
    LayerNorm,
    Network,
    Normal,
    Sequential,
    Tensor,
    TransformerBlock,
    arange,
    unsqueeze,
)


def lstm_text(
    vocabulary: int = 10_000, classes: int = 10_000, *, features: int = 128, hidden: int = 256,
    layers: int = 2, bidirectional: bool = False, whole: bool = False, seed: int = 0,
) -> Network:  # fmt: skip
    """An LSTM on embedded tokens: logits [batch, time, classes], or [batch, classes] of the whole.

    With as many classes as words it guesses the next word; with `whole` it classifies texts.
    """
    chain = Sequential(
        embed=Embedding(vocabulary, features),
        lstm=LSTM(hidden, layers, bidirectional, outputs="last" if whole else "sequence"),
        classify=Dense(classes),
    )
    tokens = Input("tokens", ("batch", "time"), "i64")
    return Network(chain, tokens, name="lstm_text", outputs=["logits"], seed=seed)


class Embedded(Layer):
    """Tokens and their places as vectors of features; also kinds of token, if there are any."""

    def __init__(self, vocabulary: int, positions: int, features: int, kinds: int = 0) -> None:
        self.token = Embedding(vocabulary, features, weights=Normal(0.02))
        self.position = Embedding(positions, features, weights=Normal(0.02))
        self.kind = Embedding(kinds, features, weights=Normal(0.02)) if kinds else None

    def forward(self, tokens: Tensor, kinds: Tensor | None = None) -> Tensor:
        x = self.token(tokens) + self.position(arange(tokens, tokens.shape[1]))
        return x if self.kind is None or kinds is None else x + self.kind(kinds)


class CausalTransformer(Layer):
    """GPT-2: what comes next is said in terms of the same vectors that tokens have."""

    def __init__(
        self, vocabulary: int, positions: int, features: int, heads: int, layers: int
    ) -> None:
        self.embed = Embedded(vocabulary, positions, features)
        self.blocks = [TransformerBlock(features, heads, causal=True) for _ in range(layers)]
        self.norm = LayerNorm()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.token.logits(self.norm(x))


def causal_transformer(
    vocabulary: int = 50_257, *, positions: int = 1024, features: int = 768, heads: int = 12,
    layers: int = 12, seed: int = 0,
) -> Network:  # fmt: skip
    """GPT-2 (Radford et al., 2019): tokens to logits of the next; 124,439,808 parameters."""
    network = CausalTransformer(vocabulary, positions, features, heads, layers)
    tokens = Input("tokens", ("batch", "time"), "i64")
    return Network(network, tokens, name="causal_transformer", outputs=["logits"], seed=seed)


class TransformerEncoder(Layer):
    """BERT without its pooler: normalized after each sum, and before the first block."""

    def __init__(
        self, vocabulary: int, positions: int, kinds: int, features: int, heads: int, layers: int
    ) -> None:
        self.embed = Embedded(vocabulary, positions, features, kinds)
        self.norm = LayerNorm(epsilon=1e-12)
        self.blocks = [
            TransformerBlock(features, heads, norm_first=False, epsilon=1e-12)
            for _ in range(layers)
        ]

    def forward(self, tokens: Tensor, mask: Tensor, kinds: Tensor | None = None) -> Tensor:
        x = self.norm(self.embed(tokens, kinds))
        is_seen = unsqueeze(mask, 1, 2)  # for all heads and all queries
        for block in self.blocks:
            x = block(x, mask=is_seen)
        return x


def transformer_encoder(
    vocabulary: int = 30_522, *, positions: int = 512, kinds: int = 2, features: int = 768,
    heads: int = 12, layers: int = 12, seed: int = 0,
) -> Network:  # fmt: skip
    """BERT's encoder (Devlin et al., 2018): 108,891,648 parameters.

    Inputs tokens i64, mask bool (true where there is a token) and, unless `kinds` is 0, kinds i64,
    all [batch, time]; output [batch, time, features].
    """
    network = TransformerEncoder(vocabulary, positions, kinds, features, heads, layers)
    shape = ("batch", "time")
    inputs = [Input("tokens", shape, "i64"), Input("mask", shape, "bool")]
    if kinds:
        inputs.append(Input("kinds", shape, "i64"))
    return Network(network, *inputs, name="transformer_encoder", outputs=["features"], seed=seed)
