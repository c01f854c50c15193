"""The image store: decoded at once, kept until a file changes, never half, read by rows."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from xraygan_zhang.dataset import Zhang

from xraygan import UserError
from xraygan.cli import cli
from xraygan.data import datamodule as store
from xraygan.data import decode, image_store
from xraygan.data.datamodule import prepare
from xraygan.data.image_splits import StoredImages
from xraygan.recipe.loading import Recipe, load

SPLITS = ("train", "test")
CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """100 radiographs of the Zhang Lab's layout, of a grey each but for a white corner."""
    for i in range(100):
        folder = tmp_path / "zhang/chest_xray" / SPLITS[i >= 60] / CLASSES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (20, 20), (2 * i,) * 3)
        picture.paste((255,) * 3, (0, 0, 6, 6))  # or its greys would be said to be too few
        picture.save(folder / f"{i:03}.jpeg", quality=100)
    return tmp_path / "zhang"


def recipe(root: Path, *overrides: str) -> Recipe:
    return load("cgan_zhang", sets(root, *overrides))


def sets(root: Path, *overrides: str) -> list[str]:
    small = ["data.image_size=16", "run.batch_size=2", f"data.cache={root.parent / 'cache'}"]
    return [f"data.root={root}", *small, *overrides]


def greys(images: StoredImages) -> list[int]:
    """The middle pixel of each."""
    return images[:][:, 8, 8].tolist()


# -- rows ------------------------------------------------------------------------------------------

ROWS = st.lists(st.integers(0, 11), max_size=20)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, data=st.data())
def test_stored_images_are_indexed_as_their_rows_would_be(
    rows: list[int], data: st.DataObject
) -> None:
    pixels = torch.arange(12 * 4, dtype=torch.uint8).view(12, 2, 2)
    taken = pixels.numpy()[np.array(rows, dtype=np.int64)]
    images = StoredImages(pixels, torch.tensor(rows, dtype=torch.int64))
    assert len(images) == len(taken)
    assert images.nbytes == taken.nbytes
    np.testing.assert_array_equal(images.to(torch.device("cpu")), taken)
    part = data.draw(st.slices(len(rows)).filter(lambda s: s.step is None or s.step > 0))
    np.testing.assert_array_equal(images[part], taken[part])
    if rows:
        which = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
        np.testing.assert_array_equal(images[torch.tensor(which, dtype=torch.int64)], taken[which])
        np.testing.assert_array_equal(images[which[0] if which else 0], taken[which[:1] or [0]][0])


def test_a_large_split_reaches_a_device_in_parts() -> None:
    pixels = torch.arange(9000)[:, None, None].remainder(251).byte()
    rows = torch.arange(9000).flip(0)
    assert torch.equal(StoredImages(pixels, rows).to(torch.device("cpu")), pixels[rows])


def test_splits_share_one_memory_map(root: Path) -> None:
    """However scattered its rows are: copying the pixels of ChestX-ray14 would take seconds."""
    splits = prepare(recipe(root, "data.limit=20", "data.unlabelled=true")).splits
    assert {*splits} == {"train", "test", "unlabelled"}
    rows = splits["train"].images.rows
    assert (rows.diff() > 1).any()
    assert len({split.images.pixels.data_ptr() for split in splits.values()}) == 1
    for split in splits.values():
        names = [2 * int(Path(path).stem) for path in split.paths]
        np.testing.assert_allclose(greys(split.images), names, atol=1)


# -- decoding once ---------------------------------------------------------------------------------


def test_a_store_lasts_until_a_file_changes(root: Path) -> None:
    first = prepare(recipe(root))
    assert first.store.seconds is not None
    again = prepare(recipe(root))
    assert again.store.seconds is None
    assert again.fingerprint == first.fingerprint
    folder = root / "chest_xray/train/NORMAL"
    Image.new("L", (20, 20), 77).save(folder / "000.jpeg")
    changed = prepare(recipe(root))
    assert greys(changed.splits["train"].images)[0] == 77
    (folder / "002.jpeg").unlink()
    removed = prepare(recipe(root))
    Image.new("L", (20, 20), 78).save(folder / "new.jpeg")
    added = prepare(recipe(root))
    counts = [len(data.splits["train"]) for data in (changed, removed, added)]
    assert counts == [60, 59, 60]
    assert None not in [data.store.seconds for data in (changed, removed, added)]
    assert len({data.fingerprint for data in (first, changed, removed, added)}) == 4


def flip(folder: Path) -> None:
    content = bytearray((folder / "images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images.npy").write_bytes(content)


def flip_and_keep_the_time(folder: Path) -> None:
    about = (folder / "images.npy").stat()
    flip(folder)
    os.utime(folder / "images.npy", ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        flip_and_keep_the_time,
        lambda folder: os.truncate(folder / "images.npy", 5000),
        lambda folder: (folder / "images.npy").write_bytes(b""),
        lambda folder: np.save(folder / "images.npy", np.zeros((100, 16, 16), dtype=np.int8)),
        lambda folder: (folder / "images.npy").unlink(),
        lambda folder: (folder / "store.json").unlink(),
        lambda folder: (folder / "store.json").write_text('{"sha256": 0'),
        lambda folder: (folder / "store.json").write_text("{}"),
        lambda folder: (folder / "store.json").write_text("[]"),
    ],
)
def test_a_damaged_store_is_written_anew(root: Path, damage: Callable[[Path], object]) -> None:
    first = prepare(recipe(root))
    (first.store.folder / "images.npy").chmod(0o644)  # it is read-only
    damage(first.store.folder)
    again = prepare(recipe(root))
    assert again.store.seconds is not None
    assert again.fingerprint == first.fingerprint
    names = [2 * int(Path(path).stem) for path in again.splits["train"].paths]
    np.testing.assert_allclose(greys(again.splits["train"].images), names, atol=1)


def test_a_store_that_was_copied_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(recipe(root))
    os.utime(first.store.folder / "images.npy", ns=(1, 1))
    read: list[int] = []

    def noting(pixels: np.ndarray) -> str:
        read.append(len(pixels))
        return decode.digest_pixels(pixels)

    monkeypatch.setattr(image_store, "digest_pixels", noting)
    for _ in range(2):
        again = prepare(recipe(root))
        assert again.store.seconds is None
        assert again.fingerprint == first.fingerprint
    assert read == [100]  # once, and not at every start


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda size: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda size: sys.exit(3), "raised SystemExit: 3"),
        (lambda size: [[0] * size] * size, "returned list; expected uint8 of shape (16, 16)"),
        (lambda size: np.zeros((size, size)), "returned float64 of shape (16, 16); expected uint8"),
        (lambda size: np.zeros((size, 8), dtype=np.uint8), "returned uint8 of shape (16, 8)"),
    ],
)
def test_a_dataset_that_loads_what_it_must_not_is_named(
    answer: Callable[[int], object], words: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that somebody else wrote; of our own the traceback is seen."""
    ours = recipe(root)
    choice = ours.choices["data"]
    part = dataclasses.replace(choice.part, distribution="their-data", version="1.0")
    theirs = dataclasses.replace(
        ours, choices={**ours.choices, "data": dataclasses.replace(choice, part=part)}
    )
    monkeypatch.setattr(Zhang, "load", lambda self, path, size: answer(size))
    with pytest.raises(UserError) as caught:
        prepare(theirs)
    assert "the dataset 'zhang' of their-data 1.0: load('chest_xray/" in str(caught.value)
    assert words in str(caught.value)
    with pytest.raises(decode.LoadFault):
        prepare(ours)


class Noting(Zhang):
    """Notes which processes and threads decode."""

    log: Path
    seconds = 0.0

    def load(self, path: str, size: int) -> np.ndarray:
        with self.log.open("a") as log:
            log.write(f"{os.getpid()}/{threading.get_ident()}\n")
        time.sleep(self.seconds)
        return super().load(path, size)


def test_processes_and_threads_decode_the_same(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "CHUNK", 7)
    digests = set()
    for way, count, forks in (("processes", 3, True), ("threads", 3, False), ("one", 1, True)):
        monkeypatch.setattr(decode, "processors", lambda count=count: count)
        monkeypatch.setattr(decode, "_can_fork", lambda forks=forks: forks)
        dataset = noting(root, tmp_path / f"{way}.log", seconds=0.003)
        paths = list(dataset.index()["path"])
        (root / paths[5]).write_bytes(b"")
        found = decode.decode(dataset, paths, 16, tmp_path / "x.npy", store.no_progress)
        digest, bad = found.sha256, found.bad
        digests.add(digest)
        assert {*bad} == {paths[5]}
        pixels = np.load(tmp_path / "x.npy")
        names = [2 * int(Path(path).stem) if path not in bad else 0 for path in paths]
        np.testing.assert_allclose(pixels[:, 8, 8], names, atol=1)
        workers = [line.split("/") for line in dataset.log.read_text().split()]
        mine = {process == str(os.getpid()) for process, _ in workers}
        assert mine == {way != "processes"}
        assert (len({*map(tuple, workers)}) > 1) == (count > 1)
    assert len(digests) == 1


def test_a_killed_preparation_leaves_nothing_that_counts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = noting(root, tmp_path / "log", seconds=0.05)
    monkeypatch.setattr(store, "open_dataset", lambda recipe: slow)
    child = multiprocessing.get_context("fork").Process(target=prepare, args=(recipe(root),))
    child.start()
    wait_for(lambda: slow.log.exists() and len(slow.log.read_text().split()) > 3)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    workers = {int(line.split("/")[0]) for line in slow.log.read_text().split()}
    wait_for(lambda: not any(is_alive(pid) for pid in workers))
    assert not list(tmp_path.glob("cache/*/store.json"))
    slow.seconds = 0.0
    assert prepare(recipe(root)).store.seconds is not None
    assert prepare(recipe(root)).store.seconds is None
    assert not list(tmp_path.glob("cache/.*.building"))


def test_two_that_prepare_the_same_decode_it_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = noting(root, tmp_path / "log", seconds=0.01)
    monkeypatch.setattr(store, "open_dataset", lambda recipe: slow)
    child = multiprocessing.get_context("fork").Process(target=prepare, args=(recipe(root),))
    child.start()
    wait_for(slow.log.exists)
    assert prepare(recipe(root)).store.seconds is None
    child.join()
    assert len(slow.log.read_text().split()) == 100


def test_a_worker_that_is_killed_is_said_to_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: Zhang, path: str, size: int) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(decode, "processors", lambda: 2)
    monkeypatch.setattr(Zhang, "load", die)
    with pytest.raises(UserError, match="has been killed, probably because memory ran out"):
        prepare(recipe(root))


def test_a_full_disk_is_said_to_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: decode.DecodeJob, start: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode.DecodeJob, "decode_chunk", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space .*data\.cache=DIR"):
        prepare(recipe(root))
    assert not [path for path in root.parent.glob("cache/*") if path.is_dir()]


def noting(root: Path, log: Path, seconds: float) -> Noting:
    dataset = Noting(root)
    dataset.log, dataset.seconds = log, seconds
    return dataset


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- the command -----------------------------------------------------------------------------------


def data_prepare(root: Path, *overrides: str) -> str:
    words = [word for text in sets(root, *overrides) for word in ("--set", text)]
    done = CliRunner().invoke(cli, ["data", "prepare", "cgan_zhang", *words])
    if done.exception:
        raise done.exception
    return done.output


def test_data_prepare_says_what_it_did(root: Path) -> None:
    first, second = data_prepare(root), data_prepare(root)
    [folder] = [path for path in (root.parent / "cache").iterdir() if path.is_dir()]
    assert re.search(r"^100 images of 16 x 16 decoded in \d+\.\d s: [\d,]+ images/s$", first, re.M)
    assert first.endswith(f"{folder}\n")
    assert second.endswith(f"\n100 images of 16 x 16 are there already\n{folder}\n")


def test_data_prepare_counts_images_and_what_is_left_out(root: Path) -> None:
    """By split and class; the run's environment.json has the same."""
    (root / "chest_xray/train/notes.txt").touch()
    (root / "chest_xray/train/NORMAL/000.jpeg").write_bytes(b"no image")
    sets_ = ["data.on_bad_image=skip", "data.limit=15", "data.validation=0.2"]
    said = data_prepare(root, *sets_)
    found = prepare(recipe(root, *sets_)).summary()
    cells = [[word.strip() for word in line.split("│")[1:-1]] for line in said.splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    assert rows["images"] == [str(found["images"][name]) for name in ("train", "val", "test")]
    assert rows["patients"] == rows["images"]
    for label in CLASSES:
        counts = [found["classes"][name][label] for name in ("train", "val", "test")]
        assert rows[label] == [str(count) for count in counts] and counts[0] == 15
    left = {
        "files in the image folders that are no .jpeg": 1,
        "images that cannot be read": 1,
        "training images beyond data.limit": 59 - found["images"]["train"] - found["images"]["val"],
    }
    assert left["training images beyond data.limit"] > 0
    assert found["left_out"] == left
    for reason, count in left.items():
        assert f"left out: {reason}: {count}\n" in said


def test_images_that_a_label_policy_leaves_out_are_counted() -> None:
    sets_ = ["data.plugin=phantom", "data.images=200", "data.multiple=0.5", "data.image_size=16"]
    sets_ += ['data.classes=["Mass", "Edema", "Hernia"]', "run.batch_size=2"]
    whole = [*sets_, "evaluation.protocol=official"]
    single = prepare(load("baseline_resnet50", whole)).summary()
    assert {*single["left_out"]} == {
        "training images without exactly one finding (data.label_policy)",
        "training images of none of the classes of data.classes",
    }
    paper = prepare(load("baseline_resnet50", [*sets_, "evaluation.protocol=paper"])).summary()
    assert {*paper["left_out"]} == {*single["left_out"]} | {
        'test images without exactly one finding (evaluation.protocol = "paper")',
        "test images of none of the classes of data.classes",
    }
    for found in (single, paper):
        assert sum(found["images"].values()) + sum(found["left_out"].values()) == 200


def test_data_prepare_names_what_cannot_be_read(root: Path) -> None:
    names = [f"{i:03}.jpeg" for i in range(0, 14, 2)]
    for name in names:
        (root / "chest_xray/train/NORMAL" / name).write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        data_prepare(root)
    text = str(caught.value)
    assert text.startswith("7 of 100 images cannot be read:")
    assert all(f"{name}: not a readable image" in text for name in names[:5])
    assert "and 2 more" in text and 'data.on_bad_image="skip"' in text
    said = data_prepare(root, "data.on_bad_image=skip")
    assert "7 of them cannot be read and are left out:" in said
    assert all(f"{name}: not a readable image" in said for name in names)
