"""The other model of two_models.c, an autoencoder for images: python examples/cleaner.py FILE

Its weights are not trained: they are what the seed gives, the same on every machine.
"""

import sys

from bessemer.frontends import zoo
from bessemer.frontends.onnx_writer.write import write_onnx

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    write_onnx(zoo.autoencoder(784, (256, 64, 16), seed=0).graph, sys.argv[1])
