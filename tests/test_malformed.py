"""Input that is wrong, through the command: recipes, names, numbers, options, runs.

Each case is one of its own in test_malformed_*.py. It ends with exit code 2 and one message that
names the culprit, without a traceback, and changes nothing on the disk. Here is what they share.
Images, tables and lists are in test_images.py, test_csv_dataset.py and test_chestxray14.py, plugins
in test_plugins.py.
"""

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


class _Cases:
    """Counts what pytest finds in files."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.count = sum(hasattr(item, "callspec") for item in session.items)


def test_the_page_says_how_many_cases_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    here = Path(__file__).parent
    cases = _Cases()
    files = map(str, sorted(here.glob("test_malformed_*.py")))
    quiet = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    assert pytest.main([*quiet, "-o", "addopts=", *files], plugins=[cases]) == 0
    capsys.readouterr()
    page = (here.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    said = re.search(r"`test_malformed_\*\.py` \(([0-9,]+) cases\)", page)
    assert said, "docs/reliability.md does not say how many cases test_malformed_*.py have"
    assert said[1] == f"{cases.count:,}"
    assert cases.count >= 400
