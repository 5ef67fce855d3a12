"""Every optimizer, ours and torch's with the same settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from bessemer.frontends.train.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSProp


class LecturesMomentum(torch.optim.Optimizer):
    """v = share * v + (1 - share) * g from v = 0, p -= rate * v; torch has no such form."""

    def __init__(self, parameters: Iterable[Any], rate: float, share: float) -> None:
        super().__init__(parameters, {"rate": rate, "share": share})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in (each for each in group["params"] if each.grad is not None):
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(group["share"]).add_(p.grad, alpha=1 - group["share"])
                p.sub_(velocity, alpha=group["rate"])


Pair = tuple[Optimizer, Callable[[Any], Any]]
OPTIMIZERS: dict[str, Callable[[float], Pair]] = {
    "SGD": lambda pace: (SGD(0.05 * pace), lambda p: torch.optim.SGD(p, 0.05 * pace)),
    "momentum": lambda pace: (
        SGD(0.01 * pace, 0.9), lambda p: torch.optim.SGD(p, 0.01 * pace, 0.9)
    ),
    "lectures' momentum": lambda pace: (
        SGD(0.05 * pace, 0.9, averaging=True), lambda p: LecturesMomentum(p, 0.05 * pace, 0.9)
    ),
    "Nesterov": lambda pace: (
        SGD(0.01 * pace, 0.9, nesterov=True, weight_decay=0.001),
        lambda p: torch.optim.SGD(p, 0.01 * pace, 0.9, nesterov=True, weight_decay=0.001),
    ),
    "Adagrad": lambda pace: (
        Adagrad(0.01 * pace), lambda p: torch.optim.Adagrad(p, 0.01 * pace)
    ),
    "RMSProp": lambda pace: (
        RMSProp(0.001 * pace), lambda p: torch.optim.RMSprop(p, 0.001 * pace)
    ),
    "Adam": lambda pace: (Adam(0.001 * pace), lambda p: torch.optim.Adam(p, 0.001 * pace)),
    "AdamW": lambda pace: (AdamW(0.001 * pace), lambda p: torch.optim.AdamW(p, 0.001 * pace)),
}  # fmt: skip
"""Ours and torch's, by a factor of the learning rate."""
