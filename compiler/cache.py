"""The compile cache: finished models, addressed by the content of everything they depend on.

An entry is a folder `KEY` of three files: the object code, the weights, and a manifest with the
signature and the SHA-256 of all. It is written beside its place and renamed, so several
processes may share a cache; an entry that does not match its manifest is dropped and made anew.
The digest of weights that have been checked before is known by the file's time (known_files.py).
The manifest's time is that of the last use: what was not used for longest goes when room is short.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite
import numpy as np

from bessemer.compiler.codegen.artifact.link import Bytes, Code, weights_digest
from bessemer.compiler.known_files import known_of_file
from bessemer.runtime.artifact import Signature
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.whole_file import folder_beside, is_unfinished, remove_abandoned


@dataclass(frozen=True)
class Cache:
    """A folder of compiled models, of at most about `limit` bytes."""

    folder: Path
    limit: int = 2 << 30

    def load(self, key: str) -> tuple[Code, Bytes] | None:
        """The entry of a key; None if there is none, or a damaged one (which is removed)."""
        place = self.folder / key
        if not os.path.isdir(place):  # also where the folder may not be entered
            return None
        try:
            manifest = json.loads((place / "manifest.json").read_text())
            code = (place / "model.o").read_bytes()
            weights = _mapped(place / "model.weights")
            signature = Signature.from_json(manifest["signature"])
            intact = manifest["sha256"] == _digests(key, signature, code)
            intact = intact and self._weights_digest(place, weights) == signature.weights_sha256
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArtifactError):
            intact = False
        if not intact:
            shutil.rmtree(place, ignore_errors=True)
            return None
        with suppress(OSError):
            os.utime(place / "manifest.json")
        return Code(signature, code), weights

    def _weights_digest(self, place: Path, weights: Bytes) -> str:
        path = place / "model.weights"
        return known_of_file(self.folder, path, "weights", lambda: [weights_digest(weights)])[0]

    @contextmanager
    def new(self, key: str) -> Iterator[NewEntry]:
        """An entry to fill. What is not filled, or cannot be written, is not kept."""
        with ExitStack() as stack:
            place: Path | None = None
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                place = stack.enter_context(folder_beside(self.folder / key))
            yield NewEntry(self, key, place)

    def trim(self, newest: str = "") -> None:
        """Removes the entries that were not used for longest, until the others fit, and what killed
        processes have left.

        `newest` is kept whatever it takes. An entry disappears at once; who has it open keeps it.
        """
        remove_abandoned(self.folder)
        room = self.limit
        for place, _, size in sorted(
            _entries(self.folder), key=lambda e: (e[0].name != newest, -e[1])
        ):
            room -= size
            if room < 0 and place.name != newest:
                _remove(place)


@dataclass(eq=False)
class NewEntry:
    """An entry that is being written; a folder that cannot be written keeps nothing."""

    cache: Cache
    key: str
    place: Path | None

    def write_weights(self, weights: Bytes) -> None:
        """Writes the weights, which may be done long before the rest."""
        if self.place is None:
            return
        try:
            with (self.place / "model.weights").open("wb") as file:
                file.write(weights.data)
        except OSError:
            # The disk is full: the cache is only a convenience.
            self.place = None

    def finish(self, code: Code) -> None:
        """Writes the rest and puts the entry in its place; then the cache is trimmed."""
        if self.place is None:
            return
        with suppress(OSError):
            (self.place / "model.o").write_bytes(code.object)
            digests = _digests(self.key, code.signature, code.object)
            manifest = {"sha256": digests, "signature": code.signature.to_json()}
            (self.place / "manifest.json").write_text(json.dumps(manifest))
            # Fails where another process was first: its entry is as good.
            os.replace(self.place, self.cache.folder / self.key)
        self.cache.trim(self.key)


def _entries(folder: Path) -> list[tuple[Path, float, int]]:
    """The finished entries: folder, time of last use, bytes."""
    found = []
    with suppress(OSError), os.scandir(folder) as places:
        for place in places:
            with suppress(OSError):
                used = os.stat(Path(place) / "manifest.json").st_mtime
                size = sum(file.stat().st_size for file in os.scandir(place))
                if not is_unfinished(Path(place)):
                    found.append((Path(place), used, size))
    return found


def _remove(place: Path) -> None:
    """Moves an entry away, then removes it: no process finds half of one."""
    with suppress(OSError), folder_beside(place) as at:
        os.replace(place, at / "entry")


def _mapped(path: Path) -> Bytes:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r")


def _digests(key: str, signature: Signature, code: bytes) -> list[str]:
    """The two digests in a manifest: of the key and the signature, and of the code. Because of the
    key no entry passes for another; the signature has the digest of the weights."""
    parts = (f"{key} {signature.to_json()}".encode(), code)
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
