"""The first 50 losses of training digits are torch's, for every network and every optimizer."""

import itertools

import numpy as np
import pytest

from benchmarks.training.measure import CURVES
from bessemer.compiler.ir.types import DType, f32, f64
from bessemer.frontends.builder import Input, Network, Tensor
from bessemer.frontends.builder.initializers import Normal
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.train.trainer import Trainer

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
curves = pytest.importorskip("benchmarks.training.loss_curves")
subjects = pytest.importorskip("benchmarks.training.subjects")
optimizers = pytest.importorskip("benchmarks.training.optimizers")
single_steps = pytest.importorskip("benchmarks.training.single_steps")

NAMES, OPTIMIZERS = list(subjects.SUBJECTS), list(optimizers.OPTIMIZERS)
QUICK = {("MLP", "AdamW"), ("MLP", "lectures' momentum"), ("LeNet", "Adam"), ("LSTM", "Adam")}
"""What differs from optimizer to optimizer is in the test of them below."""
PAIRS = [
    pytest.param(*pair, marks=[] if pair in QUICK else [pytest.mark.lectures])
    for pair in itertools.product(NAMES, OPTIMIZERS)
]


def test_the_benchmark_measures_all_of_them() -> None:
    assert list(CURVES) == NAMES


@pytest.mark.parametrize(("name", "optimizer"), PAIRS)
def test_in_float64_a_curve_is_torchs(name: str, optimizer: str) -> None:
    subject = subjects.SUBJECTS[name]
    ours = curves.our_losses(subject, optimizer, "f64")
    theirs = curves.torch_losses(subject, optimizer, "f64")
    assert np.ptp(theirs) > 0.3  # it moves
    assert curves.difference(ours, theirs) < 1e-10


@pytest.mark.parametrize(("name", "optimizer"), PAIRS)
def test_in_float32_a_curve_is_torchs(name: str, optimizer: str) -> None:
    subject = subjects.SUBJECTS[name]
    ours = curves.our_losses(subject, optimizer, "f32")
    theirs = curves.torch_losses(subject, optimizer, "f32")
    assert curves.difference(ours, theirs) < 1e-4


@pytest.mark.lectures
def test_each_step_of_a_usual_resnet_is_as_exact_as_torchs() -> None:
    """At usual rates and from usual weights, where curves part: each step by itself."""
    ours, theirs = single_steps.step_errors(single_steps.usual_resnet())
    assert ours.loss.max() < 1e-5
    assert np.median(ours.velocity) < 2 * np.median(theirs.velocity)
    # In some steps, of ours and of torch's, rounding turns the sign of a unit near 0.
    assert (ours.velocity > 1e-5).mean() < 0.2


class _Given(Layer):
    """A weight whose gradient is the input, whatever the weight is."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * x.parameter("weight", (SIZE,), Normal(1.0))).sum()


SIZE, STEPS = 40, 100


@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_torchs_for_100_steps(name: str, dtype: DType) -> None:
    """Of the same gradients, of sizes from 1e-4 to 1: parameters within 1e-6 of torch's in float32,
    or of those in float64, which are nearer to the formula."""
    network = Network(_Given(), Input("x", (SIZE,), dtype), seed=3)
    ours, theirs = optimizers.OPTIMIZERS[name](1.0)
    trainer = Trainer(network, lambda y: y, [], optimizer=ours, threads=1)
    first = network.array("weight")
    weights = [
        torch.tensor(first.astype(each), requires_grad=True) for each in (np.float32, np.float64)
    ]
    steppers = [theirs([weight]) for weight in weights]
    rng = np.random.default_rng(2)
    sizes = 10.0 ** rng.uniform(-4, 0, SIZE)
    for _ in range(STEPS):
        gradient = (rng.standard_normal(SIZE) * sizes).astype(dtype.numpy)
        trainer.step({"x": gradient})
        for weight, optimizer in zip(weights, steppers, strict=True):
            weight.grad = torch.tensor(gradient).to(weight.dtype)
            optimizer.step()
    single, exact = (weight.detach().numpy() for weight in weights)
    found = trainer.state["weight"]
    assert np.abs(exact - first).max() > 0.01
    if dtype is f64:
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-13)
    else:
        scale = np.maximum(np.abs(exact), 1)
        assert min((np.abs(found - each) / scale).max() for each in (single, exact)) < 1e-6
