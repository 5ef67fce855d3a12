"""The compile cache: finished models, addressed by the content of everything they depend on.

An entry is a folder `KEY` of three files: the object code, the weights, and a manifest with the
signature and the SHA-256 of all three. It is written beside its place and renamed, so several
processes may share a cache; an entry that does not match its manifest is dropped and made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite
import numpy as np

from bessemer.compiler.codegen.link import Bytes, Code
from bessemer.runtime.artifact import Signature


@dataclass(frozen=True)
class Cache:
    """A folder of compiled models."""

    folder: Path

    def load(self, key: str) -> tuple[Code, Bytes] | None:
        """The entry of a key; None if there is none, or a damaged one (which is removed)."""
        place = self.folder / key
        if not place.is_dir():
            return None
        try:
            manifest = json.loads((place / "manifest.json").read_text())
            code = (place / "model.o").read_bytes()
            weights = _mapped(place / "model.weights")
            signature = manifest["signature"]
            intact = manifest["sha256"] == _digests(key, signature, code, weights)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            intact = False
        if not intact:
            shutil.rmtree(place, ignore_errors=True)
            return None
        return Code(Signature.from_json(signature), code), weights

    def store(self, key: str, code: Code, weights: Bytes) -> None:
        """Keeps a compiled model; a folder that cannot be written keeps nothing."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new.") as name:
                entry = Path(name) / "entry"
                entry.mkdir()
                (entry / "model.o").write_bytes(code.object)
                weights.tofile(entry / "model.weights")
                signature = code.signature.to_json()
                digests = _digests(key, signature, code.object, weights)
                manifest = {"sha256": digests, "signature": signature}
                (entry / "manifest.json").write_text(json.dumps(manifest))
                os.replace(entry, self.folder / key)
        except OSError:
            # Another process was first, or the disk is full: the cache is only a convenience.
            return


def _mapped(path: Path) -> Bytes:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r")


def _digests(key: str, signature: str, code: bytes, weights: Bytes) -> list[str]:
    """Of all parts; the key is in it, so that no entry passes for another."""
    parts = (f"{key} {signature}".encode(), code, weights.data)
    return [hashlib.sha256(part).hexdigest() for part in parts]


def key_of(parts: Iterable[bytes]) -> str:
    """The key of everything that a compilation depends on, the compiler itself included."""
    digest = hashlib.sha256(compiler_fingerprint().encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


@cache
def compiler_fingerprint() -> str:
    """A digest of the compiler's own source and LLVM's version: another compiler, other entries."""
    digest = hashlib.sha256(llvmlite.__version__.encode())
    root = Path(__file__).parent.parent
    for folder in ("compiler", "frontends", "runtime"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
