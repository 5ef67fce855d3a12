"""Loss curves of networks that learn digits, by Bessemer and by torch from the same weights.

Both see the same batches of 8 for 50 steps. float64 says whether the two compute the same function;
float32, how far rounding carries them apart. Where a network's steps enlarge rounding, torch parts
from itself when it adds in another order, without oneDNN: that distance stands beside ours.

    python -m benchmarks.training.loss_curves NETWORK

prints it for every optimizer, as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from torch import nn

from benchmarks.training.optimizers import OPTIMIZERS
from benchmarks.training.subjects import BATCH, SUBJECTS, Subject
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder import Input
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.trainer import Trainer


def our_losses(subject: Subject, name: str, dtype: str, threads: int = 1) -> Array:
    """The loss before each step with one of the optimizers."""
    optimizer, _ = OPTIMIZERS[name](subject.pace)
    target = Input("label", (BATCH,), "i64")
    trainer = Trainer(
        subject.network(dtype), cross_entropy, [target], optimizer=optimizer, threads=threads
    )
    return np.array([trainer.step(batch)["loss"] for batch in subject.batches(dtype)])


def torch_losses(subject: Subject, name: str, dtype: str, with_onednn: bool = True) -> Array:
    """Torch's; without oneDNN its convolutions and products add in another order."""
    with torch.backends.mkldnn.flags(enabled=with_onednn):
        return _torch_losses(subject, name, dtype)


def _torch_losses(subject: Subject, name: str, dtype: str) -> Array:
    torch.set_num_threads(1)
    model = subject.model(dtype).train()
    _, make = OPTIMIZERS[name](subject.pace)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    found = []
    for batch in subject.batches(dtype):
        optimizer.zero_grad()
        logits = model(torch.tensor(batch["x"]))
        loss = nn.functional.cross_entropy(logits, torch.tensor(batch["label"]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(loss.item())
    return np.array(found)


def difference(one: Array, other: Array) -> float:
    """The largest relative distance of two curves."""
    return float((np.abs(one - other) / np.abs(other)).max())


def main() -> None:
    """Each optimizer's greatest distance: ours from torch's, and of torch's two float32."""
    subject = SUBJECTS[sys.argv[1]]
    found: dict[str, dict[str, float]] = {"f32": {}, "f64": {}, "torch": {}}
    for name in OPTIMIZERS:
        theirs = {dtype: torch_losses(subject, name, dtype) for dtype in ("f32", "f64")}
        for dtype, curve in theirs.items():
            found[dtype][name] = difference(our_losses(subject, name, dtype), curve)
        otherwise = torch_losses(subject, name, "f32", with_onednn=False)
        found["torch"][name] = difference(otherwise, theirs["f32"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
