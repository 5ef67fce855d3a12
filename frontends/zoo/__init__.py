"""Networks written with the builder, ready to compile.

Every function takes sizes and gives a Network with new parameters, drawn from its seed.
"""

from bessemer.frontends.zoo.boltzmann import boltzmann_machine
from bessemer.frontends.zoo.convolutional import alexnet, lenet, vgg
from bessemer.frontends.zoo.densely_connected import densenet
from bessemer.frontends.zoo.generative import dcgan_discriminator, dcgan_generator, dense_gan
from bessemer.frontends.zoo.mobile import mobilenet_v2
from bessemer.frontends.zoo.perceptrons import autoencoder, mlp, perceptron
from bessemer.frontends.zoo.residual import resnet
from bessemer.frontends.zoo.text import causal_transformer, lstm_text, transformer_encoder
from bessemer.frontends.zoo.u_net import unet
from bessemer.frontends.zoo.vision_transformer import vision_transformer

__all__ = [
    "alexnet",
    "autoencoder",
    "boltzmann_machine",
    "causal_transformer",
    "dcgan_discriminator",
    "dcgan_generator",
    "dense_gan",
    "densenet",
    "lenet",
    "lstm_text",
    "mlp",
    "mobilenet_v2",
    "perceptron",
    "resnet",
    "transformer_encoder",
    "unet",
    "vgg",
    "vision_transformer",
]
