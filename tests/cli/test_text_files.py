"""Text files replace files only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends.text_files import write_text


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "file.txt", tmp_path / "link.txt"
    link.symlink_to(file)
    for text in ("a longer one", "short"):
        write_text(link, text)
        assert (link.is_symlink(), file.read_text()) == (True, text)


def test_a_pipe_gets_the_text(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "text")
        assert os.read(end, 100) == b"text"
    finally:
        os.close(end)
    assert pipe.is_fifo()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"Cannot write .*: Is a directory"):
        write_text(tmp_path, "text")


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.txt"
    write_text(file, "text")
    assert [each.name for each in file.parent.iterdir()] == ["file.txt"]
    assert file.read_text() == "text"
