"""`xraygan data list` and `data clear`: which image stores there are, and nothing else removed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from xraygan import UserError
from xraygan.cli import cli
from xraygan.data.cache_folder import STORE_VERSION, store_lock
from xraygan.data.datamodule import prepare
from xraygan.recipe.loading import load

OLD = "0123456789abcdef" * 2
KILLED = "f" * 32


def make(cache: Path, images: int = 60) -> str:
    """Decode phantoms; the key of their store."""
    sets = [f"data.cache={cache}", "data.image_size=16", f"data.images={images}"]
    return prepare(load("quickstart", [*sets, "run.batch_size=2"])).store.folder.name


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def data(*words: str) -> str:
    done = CliRunner().invoke(cli, ["data", *words])
    if done.exception:
        raise done.exception
    return done.output


def write_old(cache: Path) -> None:
    """A store as the version before wrote it."""
    (cache / OLD).mkdir(parents=True)
    np.save(cache / OLD / "images.npy", np.zeros((3, 16, 16), dtype=np.uint8))
    about = {"sha256": "0", "count": 3, "size": 16, "bad": {}, "written": 1}
    (cache / OLD / "store.json").write_text(json.dumps(about))


def test_list_says_what_each_store_is(cache: Path) -> None:
    assert "0 image stores" in data("list", "--cache", str(cache))
    key = make(cache)
    write_old(cache)
    (cache / f".{KILLED}.building").mkdir()
    (cache / f".{KILLED}.building/images.npy").write_bytes(bytes(2000))
    said = data("list", "--cache", str(cache))
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert "60 images of 16 x 16, whole, 16 kB, last used" in lines[key]
    assert ", phantom " in lines[key]
    assert "3 images of 16 x 16, outdated" in lines[OLD]
    assert "left over, 2 kB" in lines[KILLED]
    assert said.splitlines()[-1] == f"3 image stores, 19 kB, in {cache}"


def test_list_names_the_folder_and_when_a_store_was_used(tmp_path: Path, cache: Path) -> None:
    key = make(cache)
    about = cache / key / "store.json"
    stored = json.loads(about.read_text())
    assert stored["version"] == STORE_VERSION and stored["plugin"] == "phantom"
    about.write_text(json.dumps(stored | {"plugin": "zhang", "root": "/data/zhang"}))
    os.utime(about, (0, 0))
    said = data("list", "--cache", str(cache))
    assert "last used 1970-01-01, zhang /data/zhang" in said
    make(cache)
    assert "1970" not in data("list", "--cache", str(cache))


def test_clear_removes_the_stores_that_are_named(cache: Path) -> None:
    first, second = make(cache, 60), make(cache, 61)
    said = data("clear", first[:8], "--cache", str(cache))
    assert re.search(rf"^removed  {first}  60 images of 16 x 16", said, re.M)
    assert said.splitlines()[-1].startswith("1 image stores removed, 16 kB, from")
    assert not (cache / first).exists() and (cache / second).exists()
    for keys, words in (
        (["0" * 32], "no image store is called"),
        ([""], "no image store is called ''"),
        ([], "name the image stores to remove"),
    ):
        with pytest.raises(UserError, match=words):
            data("clear", *keys, "--cache", str(cache))
    assert make(cache, 61) == second
    assert make(cache, 60) == first  # decoded again


def test_clear_refuses_a_beginning_of_several_keys(cache: Path) -> None:
    write_old(cache)
    (cache / OLD).rename(cache / ("ab" + OLD[2:]))
    write_old(cache)
    (cache / OLD).rename(cache / ("ac" + OLD[2:]))
    with pytest.raises(UserError, match="several image stores begin with 'a'"):
        data("clear", "a", "--cache", str(cache))
    assert len(list(cache.iterdir())) == 2


def test_clear_all_leaves_what_is_not_ours(cache: Path, tmp_path: Path) -> None:
    make(cache)
    write_old(cache)
    (cache / f".{KILLED}.building").mkdir()
    (cache / f".{KILLED}.lock").touch()
    (cache / f"{KILLED}.digests.json").write_text("{}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "store.json").write_text("{}")
    kept = {
        "notes.txt": lambda path: path.write_text("mine"),
        "a" * 32: lambda path: (path.mkdir(), (path / "thesis.pdf").write_text("mine")),
        "b" * 32: lambda path: path.symlink_to(outside),
        "c" * 32: lambda path: path.write_text("mine"),
        "weights": lambda path: (path.mkdir(), (path / "store.json").write_text("{}")),
    }
    for name, write in kept.items():
        write(cache / name)
    said = data("clear", "--all", "--cache", str(cache))
    assert said.splitlines()[-1].startswith("3 image stores removed")
    assert {path.name for path in cache.iterdir()} == {*kept}
    assert (outside / "store.json").exists()
    assert (cache / ("a" * 32) / "thesis.pdf").exists()


def test_clear_outdated_keeps_what_runs_can_use(cache: Path) -> None:
    key = make(cache)
    write_old(cache)
    damaged = cache / ("d" * 32)
    damaged.mkdir()
    (damaged / "images.npy").write_bytes(b"")
    said = data("clear", "--outdated", "--cache", str(cache))
    assert OLD in said and damaged.name in said and key not in said
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [key]


def test_clear_leaves_a_store_that_is_being_written(cache: Path) -> None:
    """Another process holds its lock, as one that decodes does."""
    key = make(cache)
    (cache / f".{key}.building").mkdir()
    code = "import sys; from xraygan.cli import cli; cli(sys.argv[1:], standalone_mode=False)"
    with store_lock(cache / key):
        done = subprocess.run(
            [sys.executable, "-c", code, "data", "clear", "--all", "--cache", str(cache)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert done.stdout.count(f"left  {key}  is being written by another process") == 2
    assert (cache / key / "images.npy").exists() and (cache / f".{key}.building").exists()


def test_a_run_keeps_what_it_has_opened(cache: Path) -> None:
    sets = [f"data.cache={cache}", "data.image_size=16", "data.images=60", "run.batch_size=2"]
    opened = prepare(load("quickstart", sets))
    before = opened.splits["train"].images[:].clone()
    data("clear", "--all", "--cache", str(cache))
    assert (opened.splits["train"].images[:] == before).all()


def test_listing_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from xraygan.cli import cli; "
        "cli(['data', 'list', '--cache', sys.argv[1]], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
