"""Commands that are killed at any moment and started again: `tests/fuzz/storm.py` kills more."""

from __future__ import annotations

import random

import pytest
from fuzz.storm import COMMANDS, Storm


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    return Storm(tmp_path_factory.mktemp("storm"), classifier=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_and_started_again_leaves_what_it_would_have(
    name: str, storm: Storm
) -> None:
    assert storm.check(name, 1, random.Random(0)) == []
