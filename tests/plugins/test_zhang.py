"""The zhang dataset, on the official layout and on every fault it can have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from xraygan_zhang.dataset import Zhang

from xraygan import UserError
from xraygan.data.datamodule import prepare
from xraygan.recipe.loading import load

REAL = Path(__file__).parents[3] / "shared" / "data" / "zhang"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no Zhang Lab images at {REAL}")

FILES = {  # path below chest_xray/ -> patient
    "train/NORMAL/IM-0115-0001.jpeg": "IM-0115",
    "train/NORMAL/NORMAL2-IM-0115-0001-0002.jpeg": "NORMAL2-IM-0115",
    "train/PNEUMONIA/person1_bacteria_2.jpeg": "person1_bacteria",
    "train/PNEUMONIA/person1_virus_7.jpeg": "person1_virus",
    "val/PNEUMONIA/person1946_bacteria_4874.jpeg": "person1946_bacteria",
    "test/NORMAL/scan.jpeg": "chest_xray/test/NORMAL/scan.jpeg",
    "test/PNEUMONIA/person3_virus_15.jpeg": "person3_virus",
    "test/PNEUMONIA/person3_virus_16.jpeg": "person3_virus",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in FILES:
        file = tmp_path / "chest_xray" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 6), (90, 90, 90)).save(file)
    return tmp_path


def test_index(root: Path) -> None:
    folder = root / "chest_xray"
    for leftover in (".DS_Store", "train/NORMAL/.DS_Store", "train/NORMAL/._IM-0115-0001.jpeg"):
        (folder / leftover).write_bytes(b"\0\5\x16\7")
    (root / "__MACOSX/chest_xray/train/NORMAL").mkdir(parents=True)
    (root / "__MACOSX/chest_xray/train/NORMAL/._IM-0115-0001.jpeg").touch()
    table = Zhang(root).index()
    assert dict(zip(table["path"], table["patient"], strict=True)) == {
        f"chest_xray/{path}": patient for path, patient in FILES.items()
    }
    for row in table.itertuples():
        _, split, label, _ = row.path.split("/")
        assert (row.split, row.labels) == (split, (label,))
    assert table["age"].isna().all()
    assert set(table["sex"]) == {""}
    assert set(table["view"]) == {"AP"}


def test_the_root_may_be_chest_xray_itself(root: Path) -> None:
    data = Zhang(root / "chest_xray")
    paths = list(data.index()["path"])
    assert paths == list(FILES)
    np.testing.assert_array_equal(data.load(paths[0], 4), np.full((4, 4), 90, dtype=np.uint8))


def test_identity_changes_with_the_file(root: Path) -> None:
    data, path = Zhang(root), "chest_xray/test/NORMAL/scan.jpeg"
    before = data.identity(path)
    assert data.identity(path) == before
    os.utime(root / path, ns=(1, 1))
    assert data.identity(path) != before


def message(root: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        Zhang(root).index()
    return str(caught.value)


def test_without_data_the_message_says_what_to_do(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "chest_xray/test/PNEUMONIA").rename(root / "chest_xray/test/SICK")
    for place, what in {
        None: "data.root is not set",
        root / "gone": "gone: there is no such folder",
        root / "empty": "empty: the folder is empty",
        root: "missing: chest_xray/test/PNEUMONIA\n",
        root / "chest_xray": "missing: test/PNEUMONIA\n",
    }.items():
        text = message(place)
        assert what in text
        for hint in (
            "https://data.mendeley.com/datasets/rscbjbr9sj/2",
            "train/NORMAL/*.jpeg",
            "--set data.root=DIR",
            '--set data.plugin=phantom --set \'data.classes=["No Finding","Pneumonia"]\'',
        ):
            assert hint in text


def test_a_folder_without_pictures(root: Path) -> None:
    (root / "chest_xray/test/NORMAL/scan.jpeg").unlink()
    assert f"{root / 'chest_xray/test/NORMAL'}: the folder has no .jpeg file" in message(root)


def test_names_and_links_that_are_not_read(root: Path) -> None:
    sets = [f"data.root={root}", f"data.cache={root / 'cache'}", "run.batch_size=2"]
    folder = root / "chest_xray/test/NORMAL"
    odd = folder / "a\x1b[2J.jpeg"
    odd.write_bytes((folder / "scan.jpeg").read_bytes())
    with pytest.raises(UserError, match="which holds a control character; expected a path below"):
        prepare(load("cgan_zhang", sets))
    odd.unlink()
    (folder / "scan.jpeg").rename(root.parent / "outside.jpeg")
    (folder / "scan.jpeg").symlink_to(root.parent / "outside.jpeg")
    with pytest.raises(UserError, match=r"NORMAL/scan\.jpeg' leads out of this folder by a symb"):
        prepare(load("cgan_zhang", sets))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_folder_of_another_class_is_refused(root: Path, split: str) -> None:
    other = root / "chest_xray" / split / "COVID"
    other.mkdir()
    for place in (root, root / "chest_xray"):
        text = message(place)
        assert f"{split}/COVID: a folder of another class; expected only NORMAL and " in text
        assert "Move it out of the folder" in text and 'data.plugin = "csv"' in text
    other.rename(other.with_name(".COVID"))
    Zhang(root)


def test_files_that_are_not_read_are_counted(root: Path) -> None:
    data = Zhang(root)
    before = list(data.index()["path"])
    assert data.left_out == {}
    for name in ("train/NORMAL/IM-0117-0001.jpg", "train/NORMAL/notes.txt", "test/list.csv"):
        (root / "chest_xray" / name).touch()
    (root / "chest_xray/train/NORMAL/._IM-0115-0001.jpeg").touch()
    (root / "chest_xray/test/PNEUMONIA/more").mkdir()
    assert list(data.index()["path"]) == before
    assert data.left_out == {"files in the image folders that are no .jpeg": 4}


def test_what_is_not_known_of_patients_is_said(root: Path) -> None:
    data = Zhang(root)
    data.index()
    normal, unnamed = data.notes
    assert normal.startswith("the patients of the 3 NORMAL images are not published")
    assert unnamed.startswith("1 file names give no patient")
    (root / "chest_xray/test/NORMAL/scan.jpeg").rename(
        root / "chest_xray/test/NORMAL/IM-0001-0001.jpeg"
    )
    data.index()
    assert len(data.notes) == 1


def test_images_of_val_are_for_validation_or_for_training(root: Path) -> None:
    sets = [f"data.root={root}", f"data.cache={root / 'cache'}", "run.batch_size=2"]
    images = prepare(load("cgan_zhang", sets)).summary()["images"]
    assert images == {"train": 4, "val": 1, "test": 3}
    images = prepare(load("cgan_zhang", [*sets, "data.val=train"])).summary()["images"]
    assert images == {"train": 5, "test": 3}
    scan = (root / "chest_xray/test/NORMAL/scan.jpeg").read_bytes()
    for i in range(10):
        (root / f"chest_xray/train/NORMAL/IM-{i:04}-0001.jpeg").write_bytes(scan)
        (root / f"chest_xray/train/PNEUMONIA/person{i + 50}_virus_1.jpeg").write_bytes(scan)
    drawn = prepare(load("cgan_zhang", [*sets, "data.val=train", "data.validation=0.3"])).splits
    assert 1 < len(drawn["val"]) < 15
    assert any(path.startswith("chest_xray/train/") for path in drawn["val"].paths)
    assert len(drawn["val"]) + len(drawn["train"]) == 25


@needs_real
def test_the_real_set() -> None:
    table = Zhang(REAL).index()
    on_disk = {p.relative_to(REAL).as_posix() for p in REAL.glob("chest_xray/*/*/*.jpeg")}
    assert set(table["path"]) == on_disk
    counts = table["path"].str.split("/").str[1:3].str.join("/").value_counts().to_dict()
    assert counts == {
        "train/NORMAL": 1341,
        "train/PNEUMONIA": 3875,
        "test/NORMAL": 234,
        "test/PNEUMONIA": 390,
    }
    # The bare number stands in both splits; with the cause it does not, and neither does IM-.
    person = table[table["patient"].str.startswith("person")]
    number = person["patient"].str.extract(r"person(\d+)_", expand=False)
    split = {name: set(number[person["split"] == name]) for name in ("train", "test")}
    assert (len(split["test"]), len(split["test"] & split["train"])) == (202, 170)
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert not table["patient"].str.contains("/").any()  # every name was understood
