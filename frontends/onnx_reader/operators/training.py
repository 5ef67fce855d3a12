"""Gradients and steps of optimizers: the preview of ONNX's training operators."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import binary, where
from bessemer.compiler.passes.differentiation.differentiate import gradients
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "ai.onnx.preview.training"
Terms = list[Value]


def _tensors(context: NodeContext, each: int) -> list[Terms]:
    """The inputs after rate and count: for every tensor itself, its gradient, and its state."""
    values = context.tensors()[2:]
    count, rest = divmod(len(values), each)
    if rest:
        context.wrong(f"{len(values)} inputs after the first two are not a multiple of {each}")
    return [values[number::count] for number in range(count)]


def _by_role(results: list[Terms]) -> Terms:
    """All new tensors, then all first states, and so on."""
    return [value for role in zip(*results) for value in role]


def _rate(context: NodeContext, x: Value) -> tuple[Value, Value]:
    """The learning rate and the count of steps as scalars of x's type."""
    rate, steps = (context.reshape(context.input(place), ()) for place in range(2))
    return context.cast(rate, x.type.dtype), context.cast(steps, x.type.dtype)


def _regularized(context: NodeContext, x: Value, gradient: Value) -> Value:
    b, factor = context.builder, context.number("norm_coefficient")
    return binary(b, "add", binary(b, "mul", x, factor), gradient)


def _mixed(context: NodeContext, old: Value, new: Value, kept: float) -> Value:
    b = context.builder
    return binary(b, "add", binary(b, "mul", old, kept), binary(b, "mul", new, 1 - kept))


@rule("Gradient", domain=_DOMAIN)
def read_gradient(context: NodeContext) -> list[Value]:
    """The derivatives of a tensor that the graph computes from the inputs."""
    names = context.texts("xs")
    if list(context.node.input) != [*names, *context.texts("zs", ())]:
        context.unsupported("inputs that are not those named in xs and zs")
    loss = context.subgraphs.find(context.text("y"))
    if not isinstance(loss, Value):
        context.wrong(f"y is {context.text('y')!r}, which is not a tensor")
    return gradients(context.builder, loss, context.tensors()[: len(names)])


@rule("Adagrad", domain=_DOMAIN)
def read_adagrad(context: NodeContext) -> list[Value]:
    b, results = context.builder, []
    for x, gradient, sums in _tensors(context, 3):
        rate, steps = _rate(context, x)
        decay = binary(b, "mul", steps, context.number("decay_factor"))
        rate = binary(b, "div", rate, binary(b, "add", decay, 1.0))
        slope = _regularized(context, x, gradient)
        sums = binary(b, "add", sums, binary(b, "mul", slope, slope))
        size = binary(b, "add", b.apply("sqrt", sums), context.number("epsilon"))
        change = binary(b, "div", binary(b, "mul", rate, slope), size)
        results.append([binary(b, "sub", x, change), sums])
    return _by_role(results)


@rule("Adam", domain=_DOMAIN)
def read_adam(context: NodeContext) -> list[Value]:
    b, results = context.builder, []
    alpha, beta = context.number("alpha"), context.number("beta")
    for x, gradient, mean, square in _tensors(context, 4):
        rate, steps = _rate(context, x)
        slope = _regularized(context, x, gradient)
        mean = _mixed(context, mean, slope, alpha)
        square = _mixed(context, square, binary(b, "mul", slope, slope), beta)
        size = binary(b, "add", b.apply("sqrt", square), context.number("epsilon"))
        corrected = _corrected(context, rate, steps, alpha, beta)
        new = binary(b, "sub", x, binary(b, "mul", corrected, binary(b, "div", mean, size)))
        left = 1 - context.number("norm_coefficient_post")
        results.append([binary(b, "mul", new, left), mean, square])
    return _by_role(results)


def _corrected(context: NodeContext, rate: Value, steps: Value, alpha: float, beta: float) -> Value:
    """The rate with the bias of young averages taken out, from the first step on."""
    b = context.builder
    old, young = (binary(b, "sub", 1.0, binary(b, "pow", base, steps)) for base in (beta, alpha))
    corrected = binary(b, "div", binary(b, "mul", rate, b.apply("sqrt", old)), young)
    return where(b, binary(b, "gt", steps, 0.0), corrected, rate)


@rule("Momentum", domain=_DOMAIN)
def read_momentum(context: NodeContext) -> list[Value]:
    b, results = context.builder, []
    alpha, mode = context.number("alpha"), context.text("mode")
    if mode not in ("standard", "nesterov"):
        context.wrong(f"mode is {mode!r}")
    for x, gradient, speed in _tensors(context, 3):
        rate, steps = _rate(context, x)
        slope = _regularized(context, x, gradient)
        later = context.like(steps, context.number("beta"))
        beta = where(b, binary(b, "gt", steps, 0.0), later, 1.0)
        speed = binary(b, "add", binary(b, "mul", speed, alpha), binary(b, "mul", beta, slope))
        change = speed
        if mode == "nesterov":
            change = binary(b, "add", slope, binary(b, "mul", speed, alpha))
        results.append([binary(b, "sub", x, binary(b, "mul", rate, change)), speed])
    return _by_role(results)
