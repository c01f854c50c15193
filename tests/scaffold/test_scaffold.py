"""A new plugin's project works as it is written, for every kind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installed_command import xraygan

from xraygan import UserError
from xraygan.parts.registry import KINDS
from xraygan.scaffold import write_project


def test_the_test_of_each_kind_passes(tmp_path: Path) -> None:
    folders = [write_project(kind, f"my_{kind}", tmp_path / kind) for kind in KINDS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{len(KINDS)} passed" in done.stdout


@pytest.mark.slow
def test_it_installs_is_listed_and_takes_part_in_a_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "xraygan-my-part"
    said = xraygan("new-plugin", "score", "my_part", "--out", folder).stdout
    assert f"pytest {folder}" in said
    # As pip would lay it out, without a build that needs the network.
    site = tmp_path / "site"
    about = site / "xraygan_my_part-0.1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(folder / "xraygan_my_part.py", site)
    project = (folder / "pyproject.toml").read_text()
    points = project.partition('[project.entry-points."xraygan"]')[2].partition("[")[0]
    (about / "entry_points.txt").write_text("[xraygan]" + points.replace('"', ""))
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: xraygan-my-part\nVersion: 0.1.0\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    assert "my_part" in xraygan("list-plugins", "score", **environment).stdout
    described = xraygan("describe", "score", "my_part", **environment).stdout
    assert "power = 2.0    # number > 0" in described
    recipe = tmp_path / "mine.toml"
    text = (folder / "README.md").read_text().partition("```toml\n")[2].partition("```")[0]
    recipe.write_text(text)
    assert "my_part" in xraygan("check", recipe, **environment).stdout


def test_what_cannot_be_is_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no kind of part is named 'skore'; did you mean 'score'"):
        write_project("skore", "mine", tmp_path / "p")
    for name in ("Mine", "my-part", "1st", "", "a__b", "../x"):
        with pytest.raises(UserError, match="cannot be a part's name"):
            write_project("score", name, tmp_path / "p")
    for kind, name in (("score", "mmd"), ("command", "run"), ("command", "export")):
        with pytest.raises(UserError, match=f"xraygan .* already has a {kind} '{name}'"):
            write_project(kind, name, tmp_path / "p")
    (tmp_path / "p").mkdir()
    with pytest.raises(UserError, match="already exists"):
        write_project("score", "mine", tmp_path / "p")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_project("score", "mine", tmp_path / "file" / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "p"]
