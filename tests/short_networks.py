"""Networks for images with each kind of block once or twice.

Whole ones have the same in more sizes, and take seconds each time that they are compiled.
"""

from typing import Any
from unittest.mock import patch

from bessemer.frontends import zoo
from bessemer.frontends.builder import Network
from bessemer.frontends.zoo import mobile, residual


def short_resnet(**options: Any) -> Network:
    """A ResNet of a block with a shortcut of its own and one without; options as in zoo.resnet."""
    with patch.dict(residual.STAGES, {18: (1, 1)}):
        return zoo.resnet(18, 10, width=16, **options)


def short_mobilenet(size: int) -> Network:
    """A MobileNet of 6 blocks: with and without a wider inside, strides, and sums."""
    with patch.object(mobile, "STAGES", ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2))):
        return zoo.mobilenet_v2(10, size=size, width=0.5)
