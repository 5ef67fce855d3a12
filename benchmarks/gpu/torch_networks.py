"""ResNet-50 and BERT-base in torch, for their times only: the weights are as torch draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def in_precision(torch: Any, network: Any, is_bfloat16: bool) -> Callable[..., Any]:
    """A network as a function of arrays as they come, on their device."""
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    network = network.to(dtype).eval()
    placed: list[Any] = []

    def run(*arrays: Any) -> Any:
        # The first call is torch's own: what torch.compile sees later has its weights in place.
        if not placed:
            placed.append(network.to(arrays[0].device))
        given = [x.to(dtype) if x.is_floating_point() else x for x in arrays]
        return placed[0](*given)

    return run


def resnet(torch: Any) -> Any:
    """ResNet-50, channels last."""
    nn = torch.nn

    def unit(before: int, after: int, kernel: int, stride: int, last: bool = False) -> Any:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        parts = [conv, nn.BatchNorm2d(after)]
        return nn.Sequential(*parts) if last else nn.Sequential(*parts, nn.ReLU(inplace=True))

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            narrow = after // 4
            self.body = nn.Sequential(
                unit(before, narrow, 1, 1),
                unit(narrow, narrow, 3, stride),
                unit(narrow, after, 1, 1, last=True),
            )
            is_same = stride == 1 and before == after
            self.shortcut = nn.Identity() if is_same else unit(before, after, 1, stride, last=True)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    layers = [unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        after = 256 << stage
        for place in range(count):
            layers.append(Block(before, after, 2 if stage and not place else 1))
            before = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def bert(torch: Any) -> Any:
    """BERT-base's encoder, with torch's own attention."""
    nn = torch.nn

    class Encoder(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(30522, 768), nn.Embedding(512, 768)
            self.kind, self.norm = nn.Embedding(2, 768), nn.LayerNorm(768, 1e-12)
            layer = nn.TransformerEncoderLayer(
                768, 12, 3072, 0.0, "gelu", 1e-12, batch_first=True, norm_first=False
            )
            self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)

        def forward(self, tokens: Any, mask: Any, kinds: Any) -> Any:
            places = torch.arange(tokens.shape[1], device=tokens.device)
            x = self.norm(self.token(tokens) + self.place(places) + self.kind(kinds))
            return self.layers(x, src_key_padding_mask=~mask)

    return Encoder()
