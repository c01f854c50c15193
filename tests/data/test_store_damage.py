"""An image store that was damaged or forged: written anew, never wrong pixels, never a crash."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from malformed import WHOLE
from saved_run import xraygan
from xraygan_phantom.dataset import Phantom

from xraygan.cli import cli
from xraygan.data.cache_folder import STORE_VERSION
from xraygan.data.datamodule import ImageData, prepare
from xraygan.data.file_digests import stamp
from xraygan.data.image_store import with_seal
from xraygan.recipe.loading import load

COUNT, SIZE = 24, 16
HEAD = 128  # bytes of the header of images.npy


def open_store(cache: Path) -> ImageData:
    sets = [f"data.cache={cache}", f"data.image_size={SIZE}", f"data.images={COUNT}"]
    return prepare(load("quickstart", [*sets, "run.batch_size=2", "data.on_bad_image=skip"]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageData]:
    cache = tmp_path_factory.mktemp("store") / "cache"
    return cache, open_store(cache)


def about(**changed: Any) -> Callable[[Path], None]:
    """Says something else of itself, with a seal that fits."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "store.json").read_text())
        (folder / "store.json").write_text(json.dumps(with_seal(found | changed)))

    return change


def unsealed(folder: Path, **changed: Any) -> None:
    found = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(found | changed))


def header(text: bytes) -> Callable[[Path], None]:
    """Another header of as many bytes, of a file whose times are those that store.json has."""

    def change(folder: Path) -> None:
        images = folder / "images.npy"
        content = images.read_bytes()
        images.write_bytes(content[:10] + text.ljust(HEAD - 11) + b"\n" + content[HEAD:])
        about(written=stamp(images.stat()))(folder)

    return change


def bits(name: str, place: float) -> Callable[[Path], None]:
    """One bit turned round."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        (folder / name).write_bytes(content)

    return change


def cut(name: str, share: float) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * share))


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def longer(folder: Path) -> None:
    with (folder / "images.npy").open("ab") as file:
        file.write(bytes(SIZE**2))
    about(written=stamp((folder / "images.npy").stat()))(folder)


def zipped(folder: Path) -> None:
    np.savez(folder / "x.npz", np.zeros((COUNT, SIZE, SIZE), np.uint8))
    (folder / "x.npz").rename(folder / "images.npy")
    about(written=stamp((folder / "images.npy").stat()))(folder)


def shape(*sides: int) -> bytes:
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {sides}, }}".encode()


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"{n}, a bit at {p}": bits(n, p) for n in ("images.npy", "store.json")
       for p in (0, 0.003, 0.1, 0.5, 0.9, 0.999)},
    **{f"{n}, cut at {s}": cut(n, s) for n in ("images.npy", "store.json")
       for s in (0, 0.01, 0.5, 0.99)},
    "a file of its name in its place": replaced("store.json", Path.mkdir),
    "a pipe": replaced("images.npy", os.mkfifo),
    "a pipe that says what it is": replaced("store.json", os.mkfifo),
    "a link to nothing": replaced("images.npy", lambda path: path.symlink_to("gone")),
    "another version": about(version=STORE_VERSION + 1),
    "the version before": about(version=STORE_VERSION - 1),
    "a huge count": about(count=10**30),
    "a row beyond the end": longer,
    "a header of more rows": header(shape(COUNT + 10**6, SIZE, SIZE)),
    "a header of endless rows": header(shape(10**25, SIZE, SIZE)),
    "a header of negative rows": header(shape(-COUNT, SIZE, SIZE)),
    "a header in Fortran's order": header(shape(COUNT, SIZE, SIZE).replace(b"False", b"True")),
    "a header that is no literal": header(b"__import__('os').abort()"),
    "a header of brackets": header(b"(" * 100),
    "an archive": zipped,
    "bad images that are a number": about(bad=5),
    "bad images of numbers": about(bad={"1": 5}),
    "bad images that are in no table": about(bad={"nowhere.png": "damaged"}),
    "bad images that are well": about(
        bad={Phantom(None, images=COUNT).index()["path"][3]: "damaged"}
    ),
    "doubtful images of a word": about(doubtful={"wide": {"images": "many", "first": ["a"]}}),
    "doubtful images of numbers": about(doubtful={"wide": {"images": 1, "first": [1]}}),
    "doubtful images of no list": about(doubtful={"wide": {"images": 1, "first": 7}}),
    "doubtful images in an unknown way": about(doubtful={"\x1b[2J": {"images": 1, "first": []}}),
    "no digest": about(sha256=None),
    "no time": about(written=None),
    "another digest": lambda folder: unsealed(folder, sha256="0" * 64),
    "escape codes": about(plugin="\x1b[2J", root="\x1b[2J", count=1, size="\x1b[2J"),
    "tables": about(plugin={"a": [1]}, root=[{}], count=[], size={}),
    "JSON without end": lambda folder: (folder / "store.json").write_text("[" * 10**5),
    "not UTF-8": lambda folder: (folder / "store.json").write_bytes(b"\xff\xfe{}"),
    "a time that is none": lambda folder: os.utime(folder / "store.json", (2**40, 2**40)),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_store_gives_the_same_images_or_is_written_anew(
    name: str, whole: tuple[Path, ImageData], tmp_path: Path
) -> None:
    made, expected = whole
    cache = tmp_path / "cache"
    folder = cache / expected.store.folder.name
    shutil.copytree(made, cache)
    open_store(cache)  # so that the times that it knows are those of the copy
    DAMAGES[name](folder)
    assert folder.name in said("list", cache)
    again = open_store(cache)
    assert again.fingerprint == expected.fingerprint
    assert again.summary() == expected.summary()
    assert torch.equal(again.store.pixels, expected.store.pixels)
    DAMAGES[name](folder)
    said("clear", cache, "--outdated")


def said(command: str, cache: Path, *words: str) -> str:
    done = CliRunner().invoke(cli, ["data", command, "--cache", str(cache), *words])
    assert done.exit_code == 0 and done.exception is None, (done.output, done.exception)
    assert "\x1b" not in done.output
    return done.output


def test_run_and_evaluate_open_a_damaged_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(WHOLE.replace("[generator]", 'cache = "cache"\n[generator]'))
    prepare(load("a.toml"))
    [folder] = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    pixels = np.load(folder / "images.npy")
    figures = []
    for name in ("images.npy, a bit at 0.5", "doubtful images of a word", "a header of brackets"):
        DAMAGES[name](folder)
        xraygan(capsys, *(("evaluate", "runs/a") if figures else ("run", "a.toml")))
        np.testing.assert_array_equal(np.load(folder / "images.npy"), pixels)
        figures.append(json.loads((tmp_path / "runs/a/evaluation.json").read_text())["metrics"])
    assert figures[0] == figures[1] == figures[2]
