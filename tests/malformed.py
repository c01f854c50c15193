"""A whole small recipe, and commands that must refuse what is wrong with it."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest
from conftest import DCGAN_TABLES

from xraygan import cli

WHOLE = (
    """
[run]
steps = 2
batch_size = 4
save_every = 1
[data]
plugin = "phantom"
images = 60
image_size = 32
classes = ["Edema", "Mass"]
"""
    + DCGAN_TABLES
    + """[classifier]
plugin = "resnet18"
[labeler]
plugin = "confidence"
threshold = 0.7
[scores.mmd]
weight = 0.1
[evaluation]
generated = 4
bootstrap = 0
"""
)


def with_line(old: str, new: str) -> str:
    assert WHOLE.count(old) >= 1, old
    return WHOLE.replace(old, new, 1)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must exit with 2; returns its message."""
    sys.argv = ["xraygan", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "Traceback" not in said
    return said


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder and its digest; the lock is the operating system's affair.

    Of one that is too large to be read it is the beginning's.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.sha256(file.read(2**22)).hexdigest()
    return found


def without_change(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], *arguments: str
) -> str:
    """Run a command that must exit with 2, name the culprit and leave a folder as it is."""
    before = contents(folder)
    said = refused(capsys, *arguments)
    for word in words:
        assert word in said, said
    assert "\n" not in re.sub(r"^Usage: .*\nTry .*\n\n", "", said).strip() or "fault" in said
    assert len(said) < 1500, said
    assert contents(folder) == before
    return said
