"""What the image store is keyed by: whose pixels a run gets, whatever names and times are."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from malformed import WHOLE as WHOLE_RECIPE
from PIL import Image

from xraygan import Dataset, UserError
from xraygan.data import datamodule as store
from xraygan.data import file_digests as contents
from xraygan.data.datamodule import ImageData, prepare
from xraygan.data.file_digests import BLOCK, ENDS, WHOLE, digest_cache, file_identity
from xraygan.data.images import read_grey
from xraygan.recipe.loading import Recipe, load

RECIPE = (
    WHOLE_RECIPE.replace('"phantom"', '"csv"\nroot = "setA"\ncache = "cache"')
    .replace("images = 60\n", "")
    .replace('classes = ["Edema", "Mass"]\n', "")
)


def write_set(folder: Path, grey: int, time_ns: int = 10**18) -> Path:
    """16 BMP files of 64 x 64, of about one grey, with the same names and times everywhere."""
    (folder / "images").mkdir(parents=True)
    rows = ["path,label,patient,split"]
    for i in range(16):
        file = folder / f"images/{i:04}.bmp"
        noise = np.random.default_rng(i).integers(-20, 20, (64, 64))
        Image.fromarray((grey + noise).astype(np.uint8)).save(file)
        os.utime(file, ns=(time_ns, time_ns))
        rows.append(f"images/{file.name},{'ab'[i % 2]},p{i},{('train', 'test')[i // 12]}")
    (folder / "images.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(RECIPE)
    write_set(tmp_path / "setA", 50)
    return tmp_path


def recipe(root: str = "setA", *overrides: str) -> Recipe:
    return load("own.toml", [f"data.root={root}", "data.image_size=16", *overrides])


def mean(data: ImageData) -> float:
    return float(data.splits["train"].images[:].float().mean())


@pytest.fixture
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not be seconds old for their digests to be remembered."""
    monkeypatch.setattr(contents, "SETTLED", -1.0)


# -- whose pixels ----------------------------------------------------------------------------------


def test_a_store_is_never_that_of_another_folder(place: Path) -> None:
    """The same table, names, sizes and times, with other pixels."""
    write_set(place / "setB", 209)
    first, second = prepare(recipe("setA")), prepare(recipe("setB"))
    assert abs(mean(first) - 50) < 2 and abs(mean(second) - 209) < 2
    assert second.store.seconds is not None
    assert first.fingerprint != second.fingerprint
    assert prepare(recipe("setA")).fingerprint == first.fingerprint


def test_a_folder_of_the_same_content_may_share_the_store(place: Path) -> None:
    write_set(place / "elsewhere" / "copy", 50)
    first, second = prepare(recipe("setA")), prepare(recipe("elsewhere/copy"))
    assert second.store.seconds is None
    assert second.fingerprint == first.fingerprint


@pytest.mark.usefixtures("_settled")
@pytest.mark.parametrize("how", ["written over", "moved there"])
def test_a_file_that_was_replaced_with_its_time_kept_is_seen(place: Path, how: str) -> None:
    first = prepare(recipe())
    assert list((place / "cache").glob("*.digests.json"))
    for file in sorted((place / "setA/images").iterdir()):
        about = file.stat()
        new = file if how == "written over" else place / "new.bmp"
        Image.fromarray(np.full((64, 64), 209, dtype=np.uint8)).save(new, "BMP")
        os.utime(new, ns=(about.st_atime_ns, about.st_mtime_ns))
        new.replace(file)
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)
    assert mean(prepare(recipe())) == 209
    assert abs(mean(first) - 50) < 2  # what a run has opened stays as it was


def test_files_that_change_while_they_are_decoded_make_no_store(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changing(Dataset):
        classes = ("a", "b")

        def __init__(self, root: Path | None) -> None:
            self.table = opened.index()

        def index(self) -> pd.DataFrame:
            return self.table

        def load(self, path: str, size: int) -> np.ndarray:
            os.utime(place / "setA/images/0003.bmp", ns=(1, time.time_ns()))
            return read_grey(place / "setA" / path, size)

        def identity(self, path: str) -> str:
            return file_identity(place / "setA", path)

    opened = store.open_dataset(recipe())
    changing = Changing(None)
    monkeypatch.setattr(store, "open_dataset", lambda recipe: changing)
    with pytest.raises(UserError, match=r"1 of 16 images changed .*first is 'images/0003.bmp'"):
        prepare(recipe())
    assert not [path for path in (place / "cache").iterdir() if path.is_dir()]


class Theirs(Dataset):
    """Somebody else's, which says nothing of what files hold."""

    classes = ("a", "b")

    def __init__(self, root: Path | None, *, negative: bool = False) -> None:
        self.root, self.negative = root or Path(), negative

    def index(self) -> pd.DataFrame:
        table = pd.read_csv(self.root / "images.csv", dtype=str)
        table["labels"] = [(name,) for name in table["label"]]
        return table.assign(age=float("nan"), sex="", view="")

    def load(self, path: str, size: int) -> np.ndarray:
        pixels = read_grey(self.root / path, size)
        return 255 - pixels if self.negative else pixels


class Stamped(Theirs):
    def identity(self, path: str) -> str:
        return "1"


@pytest.mark.parametrize("cls", [Theirs, Stamped])
def test_a_dataset_that_says_nothing_of_content_gets_its_own_pixels(
    cls: type[Theirs], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(place / "setB", 209)

    def theirs(root: str, **options: Any) -> ImageData:
        ours = recipe(root)
        choice = ours.choices["data"]
        part = dataclasses.replace(choice.part, distribution="their-data", version="1.0")
        data = dataclasses.replace(choice, part=part, options=options)
        monkeypatch.setattr(store, "open_dataset", lambda recipe: cls(Path(root), **options))
        return prepare(dataclasses.replace(ours, choices={**ours.choices, "data": data}))

    assert abs(mean(theirs("setA")) - 50) < 2
    assert abs(mean(theirs("setB")) - 209) < 2
    assert abs(mean(theirs("setB", negative=True)) - 46) < 2
    assert theirs("setB").store.seconds is None


def test_a_link_out_of_the_folder_is_refused_with_a_store_too(place: Path) -> None:
    prepare(recipe())
    (place / "setA/images").rename(place / "outside")
    (place / "setA/images").symlink_to(place / "outside")
    with pytest.raises(UserError, match="leads out of this folder by a symbolic link"):
        prepare(recipe())


# -- digests of files ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, WHOLE, WHOLE + 1, 10 * WHOLE])
def test_bytes_of_the_head_the_tail_and_between_count(size: int, tmp_path: Path) -> None:
    def identity(content: bytes) -> str:
        (tmp_path / "a").write_bytes(content)
        os.utime(tmp_path / "a", ns=(1, 1))
        return file_identity(tmp_path, "a")

    content = np.random.default_rng(0).bytes(size)
    before = identity(content)
    assert before == identity(content)
    places = {0, ENDS - 1, size - ENDS, size - 1, *(size * i // 5 for i in range(1, 5))}
    places |= {size * i // 5 + BLOCK - 1 for i in range(1, 5)}
    if size <= WHOLE:
        places |= set(range(0, size, 97))
    for at in sorted(p for p in places if 0 <= p < size):
        changed = bytearray(content)
        changed[at] ^= 1
        assert identity(bytes(changed)) != before, at


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    for i in range(5):
        (tmp_path / f"root/{i}").write_bytes(bytes([i]) * 100)
    return tmp_path


def identities(files: Path) -> list[str]:
    with digest_cache(files / "cache"):
        return [file_identity(files / "root", str(i)) for i in range(5)]


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read from now on."""
    found: list[str] = []
    digest = contents._digest

    def noting(root: Path, path: str, about: os.stat_result) -> str:
        found.append(path)
        return digest(root, path, about)

    monkeypatch.setattr(contents, "_digest", noting)
    return found


@pytest.mark.usefixtures("_settled")
def test_a_file_is_read_once_until_it_changes(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reads(monkeypatch)
    first = identities(files)
    assert len(read) == 5
    assert identities(files) == first
    assert len(read) == 5
    about = (files / "root/3").stat()
    (files / "root/3").write_bytes(b"x" * 100)
    os.utime(files / "root/3", ns=(about.st_atime_ns, about.st_mtime_ns))
    changed = identities(files)
    assert read[5:] == ["3"]
    assert [i for i in range(5) if changed[i] != first[i]] == [3]


def test_a_file_that_is_too_new_to_be_trusted_is_read_again(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the clock a file may change twice."""
    read = reads(monkeypatch)
    identities(files)
    identities(files)
    assert len(read) == 10


@pytest.mark.usefixtures("_settled")
@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"root": 3}', '{"root": ROOT, "kind": "file1:", "files": {"3": 5}}']
)
def test_a_damaged_table_of_digests_is_not_used(
    files: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = identities(files)
    [table] = (files / "cache").glob("*.digests.json")
    table.write_text(damage.replace("ROOT", json.dumps(str((files / "root").resolve()))))
    read = reads(monkeypatch)
    assert identities(files) == first
    assert len(read) == 5


@pytest.mark.usefixtures("_settled")
def test_a_table_of_another_folder_is_not_used(files: Path) -> None:
    identities(files)
    (files / "other").mkdir()
    for i in range(5):
        (files / f"other/{i}").write_bytes(b"y" * 100)
    [table] = (files / "cache").glob("*.digests.json")
    content = table.read_text()
    with digest_cache(files / "cache"):
        right = [file_identity(files / "other", str(i)) for i in range(5)]
    for path in (files / "cache").iterdir():
        path.write_text(content)
    with digest_cache(files / "cache"):
        assert [file_identity(files / "other", str(i)) for i in range(5)] == right


def test_digests_are_not_needed_where_the_cache_cannot_be_written(files: Path) -> None:
    (files / "cache").write_text("a file")
    assert identities(files) == identities(files)
