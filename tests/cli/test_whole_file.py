"""Files that appear whole or not at all, and what killed processes leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bessemer.runtime.whole_file import folder_beside, whole_file

WRITER = """
import sys, time
from pathlib import Path
from bessemer.runtime.whole_file import folder_beside, whole_file
with whole_file(Path(sys.argv[1])) as part, folder_beside(Path(sys.argv[1])) as folder:
    part.write_text("half")
    (folder / "file").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_the_usual_permissions_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with whole_file(tmp_path / "file") as part:
        part.write_text("new")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert _names(tmp_path) == ["file", "plain"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="stop"), whole_file(tmp_path / "file") as part:
        part.write_text("half")
        raise ValueError("stop")
    assert (tmp_path / "file").read_text() == "old"
    assert _names(tmp_path) == ["file"]


def test_what_a_killed_process_left_goes_with_the_next_write_and_not_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file[1].so"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        with whole_file(path) as part:  # two at once: the other one's are held
            part.write_text("mine")
        assert len(_names(tmp_path)) == 3
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    assert len(_names(tmp_path)) == 3
    with folder_beside(path):
        assert len(_names(tmp_path)) == 2
    assert _names(tmp_path) == [path.name]
    assert path.read_text() == "mine"
