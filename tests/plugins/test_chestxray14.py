"""The chestxray14 dataset, on the official layout and on every fault it can have."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from xraygan_chestxray14.dataset import ChestXray14

from xraygan import UserError
from xraygan.data.datamodule import prepare
from xraygan.recipe.loading import load

REAL = Path(__file__).parents[3] / "shared" / "data" / "chestxray14"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no ChestX-ray14 at {REAL}")

TAIL = "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
START = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"
HEADER_2017 = f"{START},Patient Gender,View Position,{TAIL},"
HEADER_2020 = f"{START},Patient Gender,View Position,{TAIL}"

ROWS = [
    "00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,Cardiomegaly|Emphysema,1,1,59,M,AP,2894,2729,0.143,0.143",
    "00000002_000.png,No Finding,0,2,81,F,PA,2500,2048,0.171,0.171",
    "00000003_000.png,Hernia,0,3,74,F,PA,2500,2048,0.168,0.168",
]


def write(root: Path, name: str, *lines: str) -> None:
    root.joinpath(name).write_text("\n".join([*lines, ""]))


def picture(root: Path, path: str, value: int = 100, mode: str = "L") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    colour = {"L": value, "RGBA": (value, value, value, 255)}[mode]
    Image.new(mode, (8, 8), colour).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A part of the download: three of the four rows have an image, in two archives."""
    write(tmp_path, "Data_Entry_2017_v2020.csv", HEADER_2020, *ROWS)
    write(tmp_path, "train_val_list.txt", "00000001_000.png", "00000001_001.png")
    write(tmp_path, "test_list.txt", "00000002_000.png", "00000003_000.png")
    picture(tmp_path, "images_001/images/00000001_000.png", 100, "L")
    picture(tmp_path, "images_001/images/00000001_001.png", 150, "RGBA")
    picture(tmp_path, "images_002/images/00000002_000.png")
    return tmp_path


def test_index_of_a_part_of_the_download(root: Path) -> None:
    picture(root, "images_002/images/00000009_000.png")  # in no list
    picture(root, "images_002/thumbnails/00000003_000.png")  # no folder of images
    (root / "images_002/images/00000003_000.png").symlink_to(root / "gone")  # not fetched yet
    table = ChestXray14(root).index()
    assert table.to_dict("records") == [
        {"path": "images_001/images/00000001_000.png", "labels": ("Cardiomegaly",),
         "patient": "1", "split": "train", "age": 58.0, "sex": "M", "view": "PA"},
        {"path": "images_001/images/00000001_001.png", "labels": ("Cardiomegaly", "Emphysema"),
         "patient": "1", "split": "train", "age": 59.0, "sex": "M", "view": "AP"},
        {"path": "images_002/images/00000002_000.png", "labels": ("No Finding",),
         "patient": "2", "split": "test", "age": 81.0, "sex": "F", "view": "PA"},
    ]  # fmt: skip


def test_a_finding_that_is_named_twice_is_one(root: Path) -> None:
    """Or its image would count as one with two findings, and be left out."""
    rows = [ROWS[0].replace("Cardiomegaly", "Cardiomegaly|Cardiomegaly"), *ROWS[1:]]
    write(root, "Data_Entry_2017_v2020.csv", HEADER_2020, *rows)
    assert ChestXray14(root).index()["labels"][0] == ("Cardiomegaly",)


def test_what_is_left_out_is_counted(root: Path) -> None:
    picture(root, "images_002/images/00000009_000.png")  # without a row
    write(root, "test_list.txt", "00000003_000.png")  # and 00000002_000.png in neither list
    data = ChestXray14(root)
    assert len(data.index()) == 2
    assert data.left_out == {
        "rows of Data_Entry_2017_v2020.csv without an image file": 1,
        "images in neither train_val_list.txt nor test_list.txt": 1,
        "image files without a row in Data_Entry_2017_v2020.csv": 1,
    }


@pytest.mark.parametrize("header", [HEADER_2017, HEADER_2020, f"\ufeff{HEADER_2020}"])
def test_the_2017_table_and_its_ages(root: Path, header: str) -> None:
    (root / "Data_Entry_2017_v2020.csv").unlink()
    ages = {"058Y": 58.0, "410Y": math.nan, "018M": 1.5, "": math.nan}
    rows = [
        f"{row},".replace(f",{row.split(',')[4]},", f",{age},")
        for row, age in zip(ROWS, ages, strict=True)
    ]
    write(root, "Data_Entry_2017.csv", header, *rows)
    picture(root, "images_001/images/00000003_000.png")
    table = ChestXray14(root).index()
    np.testing.assert_array_equal(table["age"], list(ages.values()))
    assert list(table["patient"]) == ["1", "1", "2", "3"]
    assert list(table["labels"])[1] == ("Cardiomegaly", "Emphysema")


def test_a_release_that_says_patient_sex(root: Path) -> None:
    header = HEADER_2020.replace("Gender", "Sex")
    write(root, "Data_Entry_2017_v2020.csv", header, *ROWS)
    assert list(ChestXray14(root).index()["sex"]) == ["M", "M", "F"]


def test_the_later_table_is_read_where_both_are(root: Path) -> None:
    write(root, "Data_Entry_2017.csv", "not the table that is read")
    assert len(ChestXray14(root).index()) == 3


def test_a_flat_folder_of_images(root: Path) -> None:
    (root / "images").mkdir()
    for file in sorted(root.glob("images_*/images/*.png")):
        file.rename(root / "images" / file.name)
    paths = list(ChestXray14(root).index()["path"])
    assert paths == [f"images/0000000{n}.png" for n in ("1_000", "1_001", "2_000")]


def test_a_table_cannot_name_a_file_outside_the_root(root: Path, tmp_path: Path) -> None:
    inner = root / "inner"
    inner.mkdir()
    for file in root.glob("*.*"):
        file.rename(inner / file.name)
    (root / "images_001").rename(inner / "images_001")
    picture(root, "secret.png")
    names = ["../secret.png", "../../../secret.png", str(root / "secret.png")]
    rows = [f"{name},Mass,0,{i},50,M,PA,1,1,1,1" for i, name in enumerate(names, 7)]
    write(inner, "Data_Entry_2017_v2020.csv", HEADER_2020, *ROWS, *rows)
    write(inner, "train_val_list.txt", "00000001_000.png", *names)
    assert list(ChestXray14(inner).index()["path"]) == ["images_001/images/00000001_000.png"]


def test_load_and_identity(root: Path) -> None:
    data = ChestXray14(root)
    path = "images_001/images/00000001_001.png"
    np.testing.assert_array_equal(data.load(path, 4), np.full((4, 4), 150, dtype=np.uint8))
    before = data.identity(path)
    assert data.identity(path) == before
    picture(root, path, 151, "RGBA")
    os.utime(root / path, ns=(1, 1))
    assert data.identity(path) != before


# -- faults ----------------------------------------------------------------------------------------


def message(root: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        ChestXray14(root).index()
    return str(caught.value)


def test_without_data_the_message_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train_val_list.txt").touch()
    for root, what in {
        None: "data.root is not set",
        tmp_path / "gone": "gone: there is no such folder",
        tmp_path / "file": "file: there is no such folder",
        tmp_path / "empty": "empty: the folder is empty",
        tmp_path / "other": "missing: Data_Entry_2017*.csv, test_list.txt, a folder of images\n",
    }.items():
        text = message(root)
        assert what in text
        for hint in (
            "https://nihcc.app.box.com/v/ChestXray-NIHCC",
            "images_001/images/00000001_000.png",
            "--set data.root=DIR",
            "--set data.plugin=phantom",
        ):
            assert hint in text


def test_lists_without_any_of_their_images(root: Path) -> None:
    for file in root.glob("images_*/images/*.png"):
        file.unlink()
    picture(root, "images_001/images/00000009_000.png")
    text = message(root)
    assert "no image of train_val_list.txt or test_list.txt is here" in text
    assert "name 4 images, but none of them is among the 1 files of images_001/images" in text
    assert "--set data.plugin=phantom" in text


TABLE_FAULTS = {
    "unknown finding": (
        [ROWS[0], ROWS[1].replace("Emphysema", "Emphysem")],
        "line 3 (00000001_001.png): unknown finding 'Emphysem'; known: No Finding, Atelectasis",
    ),
    "no finding": (
        [ROWS[0].replace("Cardiomegaly", "")],
        "line 2 (00000001_000.png): unknown finding ''",
    ),
    "duplicate row, after a blank line": (
        [ROWS[0], "", ROWS[1], ROWS[0]],
        "line 5 (00000001_000.png): this image has a row above",
    ),
    "no finding and a finding": (
        [ROWS[0], ROWS[1].replace("Emphysema", "No Finding")],
        "line 3 (00000001_001.png): the labels 'Cardiomegaly|No Finding' are 'No Finding' and a "
        "finding; remove one of them",
    ),
    "age": (
        [ROWS[0].replace(",58,", ",old,")],
        "line 2 (00000001_000.png): the Patient Age is 'old'; expected a number such as 58 or 058Y",
    ),
    "no patient": ([*ROWS[:3], ROWS[3].replace(",0,3,", ",0,,")], "line 5 (00000003_000.png): no "),
    "cut short": ([*ROWS[:3], "00000003_000.png"], "line 5: 1 fields, and the header has 11"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_fault_in_the_table_names_file_line_and_image(root: Path, fault: str) -> None:
    rows, expected = TABLE_FAULTS[fault]
    write(root, "Data_Entry_2017_v2020.csv", HEADER_2020, *rows)
    assert f"{root / 'Data_Entry_2017_v2020.csv'}, {expected}" in message(root)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a CSV table"),
        (b"\x89PNG\xff\xfe\x00", "not a CSV table"),
        (b"<!DOCTYPE html>\n<html>\n", "line 1: no column 'Image Index'"),
        (HEADER_2020.replace("Patient Gender", "Gender").encode(), "no column 'Patient Gender';"),
        (f"{HEADER_2020},Patient Sex".encode(), "the column 'Patient Gender' is there twice"),
        ("\n".join([HEADER_2020, *ROWS]).encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (
            "\n".join([HEADER_2020, *ROWS, "\xe4"]).encode("latin-1"),
            "line 6: not a CSV table (not UTF",
        ),
        ("\n".join([HEADER_2020, *ROWS, '"']).encode(), "line 6: not a CSV table"),
    ],
)
def test_what_is_not_the_table(root: Path, content: bytes, expected: str) -> None:
    (root / "Data_Entry_2017_v2020.csv").write_bytes(content)
    text = message(root)
    assert text.startswith(f"{root / 'Data_Entry_2017_v2020.csv'}")
    assert expected in text


def test_a_list_that_names_an_unknown_image(root: Path) -> None:
    write(root, "test_list.txt", "00000002_000.png", "", "00000004_000.png")
    expected = "line 3: '00000004_000.png' is not in Data_Entry_2017_v2020.csv"
    assert f"{root / 'test_list.txt'}, {expected}" in message(root)


def test_an_image_in_both_lists(root: Path) -> None:
    write(root, "test_list.txt", "00000002_000.png", "00000001_001.png")
    expected = "line 2: '00000001_001.png' is in train_val_list.txt and in test_list.txt"
    assert f"{root / 'test_list.txt'}, {expected}" in message(root)


@pytest.mark.parametrize("name", ["Data_Entry_2017_v2020.csv", "test_list.txt"])
def test_lines_that_end_in_another_way(root: Path, name: str) -> None:
    before = ChestXray14(root).index()
    for end in (b"\r\n", b"\r"):
        (root / name).write_bytes((root / name).read_bytes().replace(b"\n", end))
        assert ChestXray14(root).index().equals(before)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe0\0", "UTF-16"),
        (b"a\n\0", "line 2: not a list (a zero byte)"),
        (b"\xe4", "UTF-8"),
    ],
)
def test_a_list_that_is_no_text(root: Path, content: bytes, words: str) -> None:
    (root / "test_list.txt").write_bytes(content)
    assert words in message(root)


def test_what_is_no_file_is_not_waited_for(root: Path) -> None:
    (root / "Data_Entry_2017_v2020.csv").unlink()
    os.mkfifo(root / "Data_Entry_2017_v2020.csv")
    assert "not a regular file" in message(root)


def test_a_link_out_of_the_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "images_002"
    (root / "images_002").rename(elsewhere)
    (root / "images_002").symlink_to(elsewhere)
    sets = [f"data.root={root}", f"data.cache={root / 'cache'}", "run.batch_size=2"]
    with pytest.raises(UserError, match=r"'images_002/images/00000002_000\.png' leads out of this"):
        prepare(load("ucgan_full", [*sets, 'data.classes=["Cardiomegaly","No Finding"]']))


# -- the real files --------------------------------------------------------------------------------


@needs_real
def test_the_real_subset_agrees_with_a_plain_reading_of_its_files() -> None:
    with (REAL / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        rows = {row["Image Index"]: row for row in csv.DictReader(file)}
    files = {path.name: path for path in REAL.glob("images_*/images/*.png")}
    expected = {}
    for name, split in {"train_val_list.txt": "train", "test_list.txt": "test"}.items():
        for image in (REAL / name).read_text().split():
            row = rows[image]
            expected[files[image].relative_to(REAL).as_posix()] = (
                tuple(row["Finding Labels"].split("|")), row["Patient ID"], split,
                float(row["Patient Age"]), row["Patient Gender"], row["View Position"],
            )  # fmt: skip
    table = ChestXray14(REAL).index().set_index("path")
    assert dict(zip(table.index, table.itertuples(index=False, name=None), strict=True)) == expected
    assert len(rows) == 112_120
    assert table["split"].value_counts().to_dict() == {"train": 751, "test": 249}
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert set(table["labels"].explode()) <= set(ChestXray14.classes)


@needs_real
def test_real_pictures_of_every_mode() -> None:
    data = ChestXray14(REAL)
    modes = {}
    for path in data.index()["path"]:
        with Image.open(REAL / path) as image:
            modes.setdefault(image.mode, (path, np.array(image)[..., 0]))
    assert set(modes) == {"RGB", "RGBA"}
    for path, channel in modes.values():  # the channels are equal, so any of them is the grey
        np.testing.assert_array_equal(data.load(path, 64), channel)
