"""Input that is wrong, through the command: recipes, names, numbers, options, runs.

Each case is one of its own in test_malformed_*.py. It ends with exit code 2 and one message that
names the culprit, without a traceback, and changes nothing on the disk. Here is what they share.
Images, tables and lists are in test_images.py, test_csv_dataset.py and test_chestxray14.py, plugins
in test_plugins.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest


class _Cases:
    """Counts what pytest finds in files."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.count = sum(hasattr(item, "callspec") for item in session.items)


def test_the_page_says_how_many_cases_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    here = Path(__file__).parents[1]
    cases = _Cases()
    files = map(str, sorted(here.rglob("test_malformed_*.py")))
    quiet = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    assert pytest.main([*quiet, "-o", "addopts=", *files], plugins=[cases]) == 0
    capsys.readouterr()
    page = (here.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    said = re.search(r"`test_malformed_\*\.py` \(([0-9,]+) cases\)", page)
    assert said, "docs/reliability.md does not say how many cases test_malformed_*.py have"
    assert said[1] == f"{cases.count:,}"
    assert cases.count >= 400
