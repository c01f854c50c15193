"""What is there: the recipes, their schema, and what an editor would make of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli_w
from conftest import SMALL
from installed_command import xraygan

from xraygan.parts.options import options_of
from xraygan.parts.registry import KINDS, installed
from xraygan.recipe.files import shipped
from xraygan.recipe.json_schema import recipe_schema
from xraygan.recipe.loading import load


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    found = recipe_schema()
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_fits_the_schema_and_so_does_what_it_resolves_to(
    name: str, schema: jsonschema.Draft7Validator
) -> None:
    schema.validate(tomllib.loads(shipped()[name].read_text(encoding="utf-8")))
    schema.validate(tomllib.loads(tomli_w.dumps(load(name).resolved())))


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": {"stepz": 1}},
        {"run": {"steps": 0}},
        {"runn": {}},
        {"generator": {"plugin": "dcgann"}},
        {"generator": {"plugin": "dcgan", "widht": 3}},
        {"generator": {"plugin": "dcgan", "width": -3}},
        {"scores": {"mmd": {"weight": "much"}}},
        {"scores": {"mine": {"bandwidth": 1.0}}},
        {"extends": 3},
    ],
)
def test_the_schema_refuses(wrong: dict[str, Any], schema: jsonschema.Draft7Validator) -> None:
    assert not schema.is_valid(wrong)


def test_the_schema_takes_what_a_recipe_may_say(schema: jsonschema.Draft7Validator) -> None:
    for right in (
        {"extends": "ucgan_full.toml", "metrics": {"fid": False}, "schedule": False},
        {"scores": {"second": {"plugin": "mmd", "weight": 0.1}}},
        {"labeler": {"threshold": 0.9}},
    ):
        schema.validate(right)


def test_the_schema_has_every_option_with_its_default_and_what_its_docstring_says() -> None:
    definitions = recipe_schema()["definitions"]
    for part in installed().parts():
        if part.error or KINDS[part.kind].instance:
            continue
        table = definitions[f"{part.kind} {part.name}"]["properties"]
        assert set(options_of(part.cls)) <= set(table)
        if part.distribution == "xraygan":
            for name in options_of(part.cls):
                assert table[name].get("description"), f"{part.kind} {part.name}: {name}"
    assert definitions["labeler confidence"]["properties"]["threshold"]["default"] == 0.75


def test_recipes_are_listed_with_what_they_are_and_copied_to_be_edited(tmp_path: Path) -> None:
    listed = xraygan("recipes").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(shipped())
    assert all(len(line.split()) > 5 for line in listed)
    mine = tmp_path / "mine.toml"
    xraygan("recipes", "copy", "quickstart", mine)
    mine.write_text(mine.read_text() + "\n[scores.second]\nplugin = 'mmd'\nweight = 0.5\n")
    small = [word for text in SMALL for word in ("--set", text)]
    assert "second" in xraygan("check", mine, *small).stdout

    again = xraygan("recipes", "copy", "quickstart", mine, code=2)
    assert "mine.toml already exists" in again.stderr
    assert "second" in mine.read_text()
    assert "did you mean 'quickstart'" in xraygan("recipes", "copy", "quikstart", code=2).stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("xraygan des", {"describe"}),
        ("xraygan exp", {"explain", "export"}),
        ("xraygan run ucgan", {"ucgan_full", "ucgan_as_released"}),
        ("xraygan describe sc", {"score"}),
        ("xraygan describe score m", {"mmd", "mean_teacher", "mixture_mmd"}),
        ("xraygan run quickstart --res", {"--resume"}),
    ],
)
def test_a_shell_completes(typed: str, offered: set[str]) -> None:
    asked = {
        "_XRAYGAN_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    script = Path(sys.executable).with_name("xraygan")
    done = subprocess.run(
        [script], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} - {
        typed.split()[-1]
    } == offered
