"""The csv dataset, every fault that a table can have, and paths that leave the data's folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import WHOLE, refused
from malformed_images import NOISE, dicom
from PIL import Image
from xraygan_csv.dataset import Csv

from xraygan import UserError
from xraygan.data.datamodule import prepare
from xraygan.data.index import check_classes, read_index
from xraygan.parts.part_config import PartConfig
from xraygan.parts.registry import Part
from xraygan.recipe.loading import load
from xraygan.utils.paths import path_fault

HEADER = "path,label,patient,split"
ROWS = (
    "a/1.png,Mass,p1,train",
    "a/2.png,Mass|Edema,p1,train",
    "3.dcm,No Finding,p2,test",
    "4.jpeg,Edema,p3,val",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    (folder / "a").mkdir(parents=True)
    Image.fromarray(NOISE).save(folder / "a/1.png")
    Image.fromarray(NOISE).save(folder / "a/2.png")
    dicom(folder / "3.dcm", NOISE, WindowCenter=128, WindowWidth=256)
    Image.fromarray(NOISE).save(folder / "4.jpeg")
    write(folder, HEADER, *ROWS)
    return folder


def write(root: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> None:
    (root / "images.csv").write_bytes(end.join([*lines, ""]).encode(encoding))


def rows(root: Path, **options: Any) -> list[tuple[Any, ...]]:
    table = Csv(root, **options).index()
    assert table["age"].isna().all() and {*table["sex"], *table["view"]} == {""}
    return list(table[["path", "labels", "patient", "split"]].itertuples(index=False, name=None))


EXPECTED = [
    ("a/1.png", ("Mass",), "p1", "train"),
    ("a/2.png", ("Mass", "Edema"), "p1", "train"),
    ("3.dcm", ("No Finding",), "p2", "test"),
    ("4.jpeg", ("Edema",), "p3", "val"),
]

# -- tables that are well --------------------------------------------------------------------------


def test_the_default_columns(root: Path) -> None:
    data = Csv(root)
    assert rows(root) == EXPECTED
    assert data.classes == ("Edema", "Mass", "No Finding")
    for path in ("a/1.png", "3.dcm"):
        np.testing.assert_array_equal(data.load(path, 16), NOISE)
    assert data.identity("a/1.png") and not data.identity("gone.png")


@pytest.mark.parametrize(
    "changed",
    [
        {"end": "\r\n"},
        {"end": "\r"},
        {"encoding": "utf-8-sig"},
        {"lines": ["", HEADER.join(["", ""]), "", ROWS[0], "", ",,,", *ROWS[1:]][1:]},
        {"lines": [HEADER + ",", *(f"{row}," for row in ROWS)]},  # as a spreadsheet may write it
        {"lines": [HEADER, *(f"{row},," for row in ROWS)]},
        {"lines": ["split,more, patient ,label,path"] + [
            ",".join([*row.split(",")[::-1][:1], '"x,\n""y"', *row.split(",")[::-1][1:]])
            for row in ROWS
        ]},
        {"lines": [HEADER, *(row.replace("a/", ".\\a\\") for row in ROWS)]},
        {"lines": [HEADER, *(row.replace("a/", "./a//").replace(",", " , ") for row in ROWS)]},
        {"lines": [HEADER, *(row.replace("|", " | ") for row in ROWS)]},
    ],
)  # fmt: skip
def test_the_same_table_written_in_another_way(root: Path, changed: dict[str, Any]) -> None:
    lines = changed.pop("lines", [HEADER, *ROWS])
    write(root, *lines, **changed)
    assert rows(root) == EXPECTED


def test_other_columns_and_delimiters(root: Path) -> None:
    (root / "images.csv").unlink()
    (root / "t").mkdir()
    lines = ["who;file;set;finding", "p1;a/1.png;train;Mass+Edema", "p2;4.jpeg;test;Mass"]
    (root / "t/all.txt").write_text("\n".join(lines), encoding="utf-8")
    found = rows(
        root, table="t/all.txt", delimiter=";", path="file", label="finding", separator="+",
        patient="who", split="set", findings=("Mass", "Edema", "Hernia"),
    )  # fmt: skip
    assert found == [
        ("a/1.png", ("Mass", "Edema"), "p1", "train"), ("4.jpeg", ("Mass",), "p2", "test"),
    ]  # fmt: skip


def test_a_column_for_each_finding(root: Path) -> None:
    write(
        root, "path,Mass,Edema,patient,split", "a/1.png,1,0,p1,train", "a/2.png,1.0,1,p1,train",
        "3.dcm,0,0.0,p2,test", "4.jpeg,0,1,p3,val",
    )  # fmt: skip
    assert rows(root, label="", findings=("Mass", "Edema")) == EXPECTED
    assert Csv(root, label="", findings=("Edema", "Mass")).classes == (
        "Edema",
        "Mass",
        "No Finding",
    )


@pytest.mark.parametrize("split", ["split", ""])
def test_patients_of_a_pattern_of_the_paths(root: Path, split: str) -> None:
    lines = [f"img/p{i // 3}_{i}.png,a,{'train' if i < 60 else 'test'}" for i in range(120)]
    write(root, "path,label,split", *lines)
    data = Csv(root, patient="", patient_pattern=r"/(p\d+)_", split=split)
    table = data.index()
    assert list(table["patient"]) == [f"p{i // 3}" for i in range(120)]
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert set(table["split"]) == {"train", "test"} and not data.notes


def test_age_sex_and_view_of_columns(root: Path) -> None:
    given = ("58,M,PA", "018M,female,ap", ",,", "61.5,f,Lateral")
    write(root, HEADER + ",years,gender,position", *map(",".join, zip(ROWS, given, strict=True)))
    table = Csv(root, age="years", sex="gender", view="position").index()
    np.testing.assert_array_equal(table["age"], [58, 1.5, math.nan, 61.5])
    assert list(table["sex"]) == ["M", "F", "", "F"]
    assert list(table["view"]) == ["PA", "AP", "", "LATERAL"]
    assert rows(root) == EXPECTED  # unless they are named


def test_a_label_may_have_signs_in_it(root: Path) -> None:
    """If it is listed, or if no part of it is a label."""
    write(root, HEADER, *(row.replace("Mass|Edema", "Mass/Edema") for row in ROWS))
    listed = Csv(root, findings=("Mass", "Edema", "Mass/Edema", "No Finding"))
    assert listed.index()["labels"][1] == ("Mass/Edema",)
    write(root, HEADER, *(row.replace("Mass|Edema", '"Tube, in place"') for row in ROWS))
    assert Csv(root).index()["labels"][1] == ("Tube, in place",)


def test_without_patients_a_run_says_that_splits_cannot_be_checked(root: Path) -> None:
    text = RECIPE.replace('"own"', f'"{root}"').replace('"cache"', f'"{root.parent / "cache"}"')
    (root.parent / "own.toml").write_text(text)
    sets = ["data.label_policy=multi", 'data.classes=["Mass", "Edema"]']
    data = prepare(load(root.parent / "own.toml", [*sets, "data.patient="]))
    [note] = data.summary()["notes"]
    assert "it cannot be checked that no patient has images in two splits" in note
    assert note in data.warnings
    whole = prepare(load(root.parent / "own.toml", sets))
    assert not whole.summary()["notes"]


def test_without_patients_each_image_is_one(root: Path) -> None:
    write(
        root,
        "path,label,split",
        *(row.replace(f",p{n}", "") for row, n in zip(ROWS, "1123", strict=True)),
    )
    data = Csv(root, patient="")
    assert list(data.index()["patient"]) == [row[0] for row in EXPECTED]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), test=st.floats(0.1, 0.5), val=st.floats(0, 0.4))
def test_drawn_splits_are_of_about_the_shares_and_stay(seed: int, test: float, val: float) -> None:
    with TemporaryDirectory() as name:
        root = Path(name)
        lines = [f"{i}.png,a,{i % 400}" for i in range(800)]
        options = {"split": "", "test_fraction": test, "val_fraction": val, "seed": seed}
        write(root, "path,label,patient", *lines)
        table = Csv(root, **options).index()
        assert table.groupby("patient")["split"].nunique().max() == 1
        shares = Counter(table["split"])
        for split, share in (("test", test), ("val", val)):
            assert abs(shares[split] / 800 - share) < 0.14  # five and a half standard deviations
        write(root, "path,label,patient", *lines[::-3])  # fewer, in another order
        few = Csv(root, **options).index().set_index("path")["split"]
        assert dict(few) == {
            p: s for p, s in zip(table["path"], table["split"], strict=True) if p in few
        }
        again = Csv(root, **options | {"seed": seed + 1}).index()
        assert list(again["split"]) != list(few)


# -- tables that are not ---------------------------------------------------------------------------

Edit = Callable[[Path], object]


def line(old: str, new: str) -> Edit:
    return lambda root: write(root, *(text.replace(old, new) for text in (HEADER, *ROWS)))


def content(data: bytes) -> Edit:
    return lambda root: (root / "images.csv").write_bytes(data)


def added(name: str, *values: str) -> Edit:
    """A further column."""
    lines = [f"{row},{value}" for row, value in zip(ROWS, values, strict=True)]
    return lambda root: write(root, f"{HEADER},{name}", *lines)


TABLE = "\n".join([HEADER, *ROWS])
#: name -> what is wrong with a table, options, what the message says
TABLES: dict[str, tuple[Edit, tuple[str, ...], tuple[str, ...]]] = {
    "no table": (
        lambda root: (root / "images.csv").unlink(), (), ("this table does not exist", "data.table")
    ),
    "a folder": (
        lambda root: ((root / "images.csv").unlink(), (root / "images.csv").mkdir()), (),
        ("not a regular file",),
    ),
    "empty": (content(b""), (), ("images.csv: not a CSV table",)),
    "a header alone": (content(HEADER.encode()), (), ("no row below the header",)),
    "a picture": (content(b"\x89PNG\r\n\x1a\n\0\0"), (), ("images.csv, line 3: not a CSV table",)),
    "latin-1": (
        content(TABLE.replace("Mass,p1", "M\xe4ss,p1").encode("latin-1")), (),
        ("images.csv, line 2", "not UTF-8 text; save it as UTF-8"),
    ),
    "utf-16": (content(TABLE.encode("utf-16")), (), ("line 1", "UTF-16 text; save it as UTF-8")),
    "a zero byte": (content(TABLE.replace("p2", "p\0").encode()), (), ("line 4", "a zero byte")),
    "an open quote": (line("Edema,p3", '"Edema,p3'), (), ("line", "not a CSV table")),
    "a long field": (line("Edema,p3", "x" * 200_000), (), ("line 5", "not a CSV table")),
    "no column": (line("patient,", "Patient,"), (), ("line 1: no column 'patient'", "'Patient'")),
    "a column twice": (line("patient", "label"), ("patient=",), ("line 1: the column 'label' is",)),
    "another delimiter": (line(",", ";"), (), ("line 1: no column 'path' (nor any ','",)),
    "a field too few": (line("p3,val", "val"), (), ("line 5: 3 fields, and the header has 4",)),
    "a field too many": (line("Mass|Edema", "Mass,Edema"), (), ("line 3: 5 fields",)),
    "a row twice": (line("a/2.png", "a/1.png"), (), ("line 3 (a/1.png)", "has a row above")),
    "a row twice, written otherwise": (line("a/2.png", "a//./1.png"), (), ("line 3", "row above")),
    "no path": (line("3.dcm", ""), (), ("line 4: the path is empty",)),
    "no label": (line("Edema,p3", ",p3"), (), ("line 5 (4.jpeg): an empty label; write 'No F",)),
    "half a label": (line("|Edema", "|"), (), ("line 3 (a/2.png): an empty label",)),
    "an unknown finding": (
        line("No Finding", "No finding"), ('findings=["Mass", "Edema", "No Finding"]',),
        ("line 4 (3.dcm): unknown finding 'No finding'; data.findings are Mass, Edema, No",),
    ),
    "a finding twice": (line("", ""), ('findings=["Mass", "Mass"]',), ("findings", "twice")),
    "no columns of findings": (line("", ""), ("label=",), ("findings: name the columns",)),
    "a column of words": (
        line("", ""), ("label=", 'findings=["label"]'),
        ("line 2 (a/1.png): the column 'label' is neither 0 nor 1",),
    ),
    "nothing, not even nothing": (
        content(b"path,No Finding,patient,split\n1.png,1,p,train\n2.png,0,q,test"),
        ("label=", 'findings=["No Finding"]'), ("line 3 (2.png): every finding is 0",),
    ),
    "no finding and a finding": (
        line("Mass|Edema", "Mass|No Finding"), (),
        ("line 3 (a/2.png): one image has 'No Finding' and 'Mass'; remove one",),
    ),
    "no finding and a finding, marked": (
        content(b"path,No Finding,Mass,patient,split\n1.png,0,1,p,train\n2.png,1,1,q,test"),
        ("label=", 'findings=["No Finding", "Mass"]'),
        ("line 3 (2.png): 'No Finding' and a finding are 1",),
    ),
    "two cases": (
        line("4.jpeg,Edema", "4.jpeg,edema"), (),
        ("line 5 (4.jpeg): the label 'edema' is spelt 'Edema' in line 3; a class has one spel",),
    ),
    "two cases of one image": (line("Mass|Edema", "Mass|mass"), (), ("line 3", "in line 2")),
    "spaces and underscores": (
        line("4.jpeg,Edema", "4.jpeg,No_finding"), (),
        ("line 5 (4.jpeg): the label 'No_finding' is spelt 'No Finding' elsewhere",),
    ),
    "a list": (
        line("4.jpeg,Edema", "4.jpeg,['Edema']"), (),
        ("line 5 (4.jpeg): the label \"['Edema']\" has the brackets or quotes", "write 'Edema'"),
    ),
    "an empty list": (line("4.jpeg,Edema", "4.jpeg,[]"), (), ("line 5", "write 'No Finding'")),
    "half a list": (line("Mass|Edema", "['Mass'| 'Edema']"), (), ("line 3", "write 'Mass'")),
    **{
        f"labels joined by {sign!r}": (
            line("Mass|Edema", f'"Mass{sign}Edema"'), (),
            (f"line 3 (a/2.png): the label 'Mass{sign}Edema' joins labels with another separator",),
        )
        for sign in (";", ", ", "/", " + ")
    },
    "labels joined by '|'": (
        line("", ""), ("separator=;",), ("line 3 (a/2.png): the label 'Mass|Edema' joins labels",),
    ),
    **{
        f"a label {word}": (
            line("4.jpeg,Edema", f"4.jpeg,{word}"), (), (f"the label is '{word}', which",),
        )
        for word in ("nan", "NaN", "null", "<NA>")
    },
    **{
        f"a patient {word}": (
            line(",p2,", f",{word},"), (),
            ("line 4 (3.dcm): the patient is a word for an unknown value", "data.patient = "),
        )
        for word in ("nan", "None", "NULL", "<NA>")
    },
    "quotes": (line("4.jpeg,Edema", "4.jpeg,'Edema'"), (), ("line 5", "write 'Edema'")),
    "two spellings of a finding": (
        line("", ""), ('findings=["Mass", "mass"]',), ("findings", "in two spellings"),
    ),
    "no finding, spelt otherwise": (
        line("", ""), ('findings=["Mass", "no_finding"]',), ("'no_finding' is spelt 'No Finding'",),
    ),
    "an age in words": (
        line("p3", "old"), ("patient=", "age=patient"), ("the patient is 'p1'; expected a number",),
    ),
    "an age of centuries": (
        added("age", "0", "30", "240", ""), ("age=age",),
        ("line 4 (3.dcm): the age is above 120 years",),
    ),
    "another sex": (
        added("sex", "m", "F", "w", ""), ("sex=sex",),
        ("line 4 (3.dcm): the sex is 'w'; expected M, F, male or female, or nothing if",),
    ),
    "another view": (
        added("view", "PA", "AP", "", "LL"), ("view=view",),
        ("line 5 (4.jpeg): the view is 'LL'; expected PA, AP or lateral",),
    ),
    "no column of ages": (line("", ""), ("age=years",), ("line 1: no column 'years'",)),
    "two sources of patients": (
        line("", ""), ("patient_pattern=(p)",), ("patient_pattern", "set data.patient = "),
    ),
    "a pattern that is none": (
        line("", ""), ("patient=", "patient_pattern=(p"), ("not a regular expression",),
    ),
    "a pattern without a group": (
        line("", ""), ("patient=", "patient_pattern=p[0-9]+"), ("has 0 groups; expected one",),
    ),
    "a pattern that finds nothing": (
        line("", ""), ("patient=", "patient_pattern=a/([0-9])"),
        ("line 4 (3.dcm): data.patient_pattern 'a/([0-9])' finds no patient in this path",),
    ),
    "a pattern that finds a patient in two splits": (
        line("", ""), ("patient=", "patient_pattern=^()?."), ("finds no patient",),
    ),
    "no patient": (line(",p2,", ",,"), (), ("line 4 (3.dcm): no patient", "data.patient = ")),
    "no split": (line("train", ""), (), ("line 2 (a/1.png): the split is none of train, val, te",)),
    "another split": (line("val", "valid"), (), ("line 5", 'data.split = "" draws the splits')),
    "a patient in two splits": (
        line("p2,test", "p1,test"), (), ("1 patients are in more than one split: p1",),
    ),
    "shares of more than all": (
        line("", ""), ("test_fraction=0.5", "val_fraction=0.5"), ("test_fraction", "no training"),
    ),
    "a share of all": (line("", ""), ("test_fraction=1.0",), ("test_fraction", "number >= 0")),
    "a table elsewhere": (line("", ""), ("table=../x.csv",), ("table", "leads out of the folder")),
    "one class": (line("|Edema", ""), ('classes=["Mass"]',), ("classes: 'Mass' alone",)),
    "a class that is not there": (line("", ""), ('classes=["Mas", "Edema"]',), ("did you mean",)),
    "a class without images": (
        line("", ""), ('findings=["Mass","Edema","No Finding","Hernia"]', "label_policy=multi"),
        ("no training image is of class",),
    ),
    "fewer than a batch": (line("", ""), ("label_policy=multi", "run.batch_size=4"),
        ("batch_size is 4, but only 2",)),
    # paths
    **{
        f"a path: {path!r}": (line("3.dcm", path), (), ("images.csv, line 4", words))
        for path, words in {
            "../secret.png": "leads out of the folder with '..'",
            "a/../../secret.png": "leads out",
            "a\\..\\..\\secret.png": "leads out",
            "/etc/passwd": "is an absolute path",
            "\\\\server\\share\\x.png": "is an absolute path",
            "C:\\x.png": "is an absolute path",
            "c:x.png": "is an absolute path",
            "a\x07.png": "holds a control character",
            "a\x1b[2J.png": "holds a control character",
        }.items()
    },
}  # fmt: skip
RECIPE = (
    WHOLE.replace("batch_size = 4", "batch_size = 2")
    .replace('"phantom"', '"csv"\nroot = "own"\ncache = "cache"')
    .replace('images = 60\nimage_size = 32\nclasses = ["Edema", "Mass"]\n', "image_size = 32\n")
)


@pytest.mark.parametrize("name", TABLES)
def test_a_malformed_table(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, options, words = TABLES[name]
    monkeypatch.chdir(root.parent)
    Path("own.toml").write_text(RECIPE)
    change(root)
    sets = [f"--set={text if text.startswith('run.') else f'data.{text}'}" for text in options]
    said = refused(capsys, "data", "prepare", "own.toml", *sets)
    for word in words:
        assert word in said, said
    assert "\x07" not in said and "\x1b" not in said


def test_a_link_out_of_the_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file, of a folder, of a folder of a folder; within the folder a link may lead about."""
    monkeypatch.chdir(root.parent)
    Path("own.toml").write_text(RECIPE)
    secret = root.parent / "secret"
    secret.mkdir()
    Image.fromarray(NOISE).save(secret / "1.png")
    inside = root / "4.jpeg"
    inside.rename(root / "a/moved.jpeg")
    inside.symlink_to("a/moved.jpeg")
    for link, to in (("a/1.png", secret / "1.png"), ("a", secret), ("a", "../secret")):
        whole = root / link
        whole.rename(root / "aside")
        whole.symlink_to(to)
        said = refused(capsys, "data", "prepare", "own.toml")
        assert "'a/1.png' leads out of this folder by a symbolic link" in said
        assert str(secret / "1.png") in said and "data.root" in said
        whole.unlink()
        (root / "aside").rename(whole)
    (root.parent / "alias").symlink_to("own")
    sets = ["data.root=alias", "data.label_policy=multi", 'data.classes=["Mass"]']
    assert len(prepare(load("own.toml", sets)).store.pixels) == 4


# -- any dataset -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("a/b.png", ""), ("a..b/..c/d...", ""), ("ä/\u4e00.png", ""), (" a b", ""), ("a:", "absol"),
        ("ab:c", ""), ("..", "'..'"), ("a/..", "'..'"), ("..\\a", "'..'"), ("/", "absolute"),
        ("\\a", "absolute"), ("D:", "absolute"), ("", "empty"), ("a\0b", "control"),
        ("a\nb", "control"), ("a\x7f", "control"), ("a\udcff", "UTF-8"),
    ],
)  # fmt: skip
def test_paths(path: str, fault: str) -> None:
    assert (fault in path_fault(path)) if fault else not path_fault(path)


GOOD = {"path": "a.png", "labels": ("a",), "patient": "p", "split": "train", "age": 1.0, "sex": "M",
        "view": "PA"}  # fmt: skip
INDEXES: dict[str, tuple[Any, str]] = {
    "no table": ([GOOD], "index() returned list; expected a pandas DataFrame"),
    "no column": (pd.DataFrame([GOOD]).drop(columns="view"), "the column 'view' is missing"),
    "a column twice": (
        pd.DataFrame([GOOD]).assign(x=1).rename(columns={"x": "sex"}), "'sex' is there twice",
    ),
    "a path out": ({"path": "../a.png"}, "row 1: path is '../a.png', which leads out of the"),
    "a path that is none": ({"path": Path("a")}, "path is PosixPath('a'), which is no text"),
    "a path twice": ({"path": "a.png"}, "the path 'a.png' is in two rows"),
    "a label twice": ({"labels": ("b", "b")}, "which names a class twice"),
    "a contradiction": (
        {"labels": ("a", "No Finding")}, "which says 'No Finding' beside a finding; expected",
    ),
    "a label": ({"labels": "a"}, "labels is 'a', which is no tuple"),
    "an unknown label": ({"labels": ("b", "c")}, "labels is ('b', 'c'), which names 'c', no"),
    "a label that is none": ({"labels": (["a"],)}, "which holds what is no name"),
    "a list of labels": ({"labels": ["a"]}, "labels is ['a'], which is no tuple"),
    "a patient's number": ({"patient": 7}, "patient is 7, which is no text"),
    "no patient": ({"patient": ""}, "patient is '', which is empty"),
    "a split": ({"split": "dev"}, "which is none of them; expected 'train', 'val', 'test'"),
    "a sex": ({"sex": math.nan}, "sex is nan, which is no text"),
    "an age": ({"age": "old"}, "age is not of numbers"),
}  # fmt: skip


THEIRS = PartConfig("data", Part("dataset", "theirs", "their-data", "1.0"), None, {})


@pytest.mark.parametrize("name", INDEXES)
def test_what_a_dataset_must_not_answer(name: str) -> None:
    answer, words = INDEXES[name]
    if isinstance(answer, dict):
        answer = pd.DataFrame([GOOD, {**GOOD, "path": "b.png", **answer}])
    choice = THEIRS
    dataset: Any = SimpleNamespace(classes=("a", "b", "No Finding"), index=lambda: answer)
    check_classes(choice, dataset)
    with pytest.raises(UserError) as caught:
        read_index(choice, dataset)
    assert str(caught.value).startswith("[data]: the dataset 'theirs' of their-data 1.0: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("classes", [("Mass", "mass"), ("a_b", "c", "A  b")])
def test_classes_that_differ_in_spelling(classes: tuple[str, ...]) -> None:
    choice = THEIRS
    first, second = classes[0], classes[-1]
    with pytest.raises(UserError, match=f"'{first}' and '{second}' differ only in spelling"):
        check_classes(choice, SimpleNamespace(classes=classes))  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [None, (), "ab", ("a", "a"), ("a", 1), {"a": 1}])
def test_classes_that_are_none(classes: Any) -> None:
    choice = THEIRS
    with pytest.raises(UserError, match=r"the dataset 'theirs' .*: classes is"):
        check_classes(choice, SimpleNamespace(classes=classes))  # type: ignore[arg-type]
