"""The restricted Boltzmann machine (Smolensky, 1986), trained by contrastive divergence."""

from __future__ import annotations

from bessemer.frontends.builder import Input, Layer, Network, Tensor, sigmoid, softplus, uniform
from bessemer.frontends.builder.initializers import ZEROS, Normal


class BoltzmannMachine(Layer):
    """Units that are seen and hidden ones, all 0 or 1, that influence each other.

    Parameters weight [seen, hidden], bias_seen and bias_hidden. `chain`: how often the machine
    goes to the hidden units and back to dream up something (Hinton, 2002: k).
    """

    def __init__(self, hidden: int, chain: int = 1) -> None:
        self.hidden = hidden
        self.chain = chain

    def forward(self, seen: Tensor) -> dict[str, Tensor]:
        """`hidden`: the probabilities that they are 1; `rebuilt`: those of what is seen, from the
        hidden ones; `contrast`: what training makes smaller, one number.

        The free energy of what was seen falls, that of what was dreamt up rises. Dreams are drawn
        numbers, 0 or 1, so no gradient goes through them: what is left is contrastive divergence.
        """
        weight = seen.parameter("weight", (seen.shape[-1], self.hidden), Normal(0.05))
        bias_seen = seen.parameter("bias_seen", (seen.shape[-1],), ZEROS)
        bias_hidden = seen.parameter("bias_hidden", (self.hidden,), ZEROS)

        def up(x: Tensor) -> Tensor:
            return sigmoid(x @ weight + bias_hidden)

        def down(x: Tensor) -> Tensor:
            return sigmoid(x @ weight.transpose(1, 0) + bias_seen)

        def energy(x: Tensor) -> Tensor:
            return -(x * bias_seen).sum(-1) - softplus(x @ weight + bias_hidden).sum(-1)

        hidden = up(seen)
        dream = seen
        for _ in range(self.chain):
            dream = drawn(down(drawn(up(dream))))
        contrast = (energy(seen) - energy(dream)).mean()
        return {"hidden": hidden, "rebuilt": down(hidden), "contrast": contrast}


def drawn(probabilities: Tensor) -> Tensor:
    """0 or 1 with these probabilities; without training, which is more likely."""
    bounds: Tensor | float = 0.5
    if probabilities.trace.step is not None:
        bounds = uniform(probabilities, probabilities.shape, probabilities.dtype)
    return (probabilities > bounds).cast(probabilities.dtype)


def boltzmann_machine(
    inputs: int = 784, hidden: int = 256, *, chain: int = 1, seed: int = 0
) -> Network:
    """x [batch, inputs] between 0 and 1 to hidden [batch, hidden], rebuilt, and contrast.

    Its loss is `contrast` itself: `lambda hidden, rebuilt, contrast: contrast`.
    """
    x = Input("x", ("batch", inputs))
    return Network(BoltzmannMachine(hidden, chain), x, name="boltzmann_machine", seed=seed)
