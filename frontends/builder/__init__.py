"""Networks written in Python: layers, functions of tensors, and `Network`, which joins them.

For instance, with `from bessemer.frontends import builder as nn`:

    layers = nn.Sequential(nn.Conv(8, 3, padding=1), nn.relu, nn.Flatten(), nn.Dense(10))
    network = nn.Network(layers, nn.Input("image", ("batch", 1, 28, 28)))
"""

from bessemer.frontends.builder.activations import (
    celu,
    elu,
    gaussian,
    gelu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_softmax,
    mish,
    prelu,
    ramp,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    step,
    tanh,
    thresholded_relu,
)
from bessemer.frontends.builder.functions import (
    arange,
    arg_max,
    arg_min,
    clip,
    concat,
    cos,
    cumulative_sum,
    einsum,
    equal,
    erf,
    exp,
    flip,
    full,
    gather,
    log,
    logsumexp,
    matmul,
    maximum,
    minimum,
    not_equal,
    one_hot,
    pad,
    sin,
    split,
    sqrt,
    squeeze,
    stack,
    tile,
    top_k,
    unsqueeze,
    where,
)
from bessemer.frontends.builder.initializers import (
    ONES,
    ZEROS,
    Constant,
    Fans,
    Given,
    He,
    Initializer,
    Normal,
    Orthogonal,
    Parts,
    Uniform,
    Xavier,
)
from bessemer.frontends.builder.layer import (
    DenseConnection,
    Layer,
    Parallel,
    Residual,
    Sequential,
)
from bessemer.frontends.builder.layers_activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    Activation,
    Gaussian,
    HardSigmoid,
    HardSwish,
    HardTanh,
    LeakyReLU,
    LogSoftmax,
    Mish,
    PReLU,
    Ramp,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Step,
    Tanh,
    ThresholdedReLU,
)
from bessemer.frontends.builder.layers_attention import (
    FeedForward,
    MultiHeadAttention,
    TransformerBlock,
    attend,
)
from bessemer.frontends.builder.layers_dense import Dense, Dropout, Embedding, Flatten, Reshape
from bessemer.frontends.builder.layers_image import (
    AveragePool,
    Conv,
    ConvTranspose,
    DepthwiseConv,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Upsample,
)
from bessemer.frontends.builder.layers_normalization import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
)
from bessemer.frontends.builder.layers_recurrent import GRU, LSTM, RNN
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.randomness import normal, uniform
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.builder.trace import Parameter

__all__ = [
    "CELU", "ELU", "GELU", "GRU", "LSTM", "ONES", "RNN", "SELU", "ZEROS", "Activation",
    "AveragePool", "BatchNorm", "Constant", "Conv", "ConvTranspose", "Dense", "DenseConnection",
    "DepthwiseConv", "Dropout", "Embedding", "Fans", "FeedForward", "Flatten", "Gaussian", "Given",
    "GlobalAveragePool", "GlobalMaxPool", "GroupNorm", "HardSigmoid", "HardSwish", "HardTanh", "He",
    "Initializer", "Input", "InstanceNorm", "Layer", "LayerNorm", "LeakyReLU", "LocalResponseNorm",
    "LogSoftmax", "MaxPool", "Mish", "MultiHeadAttention", "Network", "Normal", "Orthogonal",
    "PReLU", "Parallel", "Parameter", "Parts", "RMSNorm", "Ramp", "ReLU", "ReLU6", "Reshape",
    "Residual", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Softsign", "Step", "Tanh",
    "Tensor", "ThresholdedReLU", "TransformerBlock", "Uniform", "Upsample", "Xavier", "arange",
    "arg_max", "arg_min", "attend", "celu", "clip", "concat", "cos", "cumulative_sum", "einsum",
    "elu", "equal", "erf", "exp", "flip", "full", "gather", "gaussian", "gelu", "hard_sigmoid",
    "hard_swish", "hard_tanh", "leaky_relu", "log", "log_softmax", "logsumexp", "matmul", "maximum",
    "minimum", "mish", "normal", "not_equal", "one_hot", "pad", "prelu", "ramp", "relu", "relu6",
    "selu", "sigmoid", "silu", "sin", "softmax", "softplus", "softsign", "split", "sqrt", "squeeze",
    "stack", "step", "tanh", "thresholded_relu", "tile", "top_k", "uniform", "unsqueeze", "where",
]  # fmt: skip
