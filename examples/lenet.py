"""LeNet as layers in a row; writes the model that lies beside this file: python examples/lenet.py

The weights are not trained: they are what the seed gives, the same on every machine.
"""

from pathlib import Path

from bessemer.frontends import zoo
from bessemer.frontends.onnx_writer.write import write_onnx


def main() -> None:
    """Writes lenet.onnx; its batch is a symbol, so one compilation serves every batch size."""
    network = zoo.lenet(seed=0)
    print(network)
    write_onnx(network.graph, Path(__file__).with_name("lenet.onnx"))


if __name__ == "__main__":
    main()
