"""From a dataset's table to the batches of a step: chosen, decoded once, drawn, augmented."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xraygan import Dataset, UserError
from xraygan.data import datamodule as store
from xraygan.data.batches import Batches, transformations, transformed
from xraygan.data.datamodule import ImageData
from xraygan.data.image_splits import ImageSplit
from xraygan.recipe.loading import load
from xraygan.recipe.schema import Data
from xraygan.recipe.training_images import Augmentation
from xraygan.utils.seeding import rng

CPU = torch.device("cpu")
COUNTS = {"Mass": 24, "Edema": 12, "Hernia": 4}


class Table(Dataset):
    """Images in memory, whose grey tells which they are; notes what is decoded.

    Args:
        log: a file for the notes, because several processes decode.
    """

    classes = ("Mass", "Edema", "Hernia", "Nodule")

    def __init__(self, log: Path) -> None:
        names = [name for name, count in COUNTS.items() for _ in range(count)]
        rows = [(f"{i:03}.png", (name,), f"p{i}", "train") for i, name in enumerate(names)]
        rows += [(f"t{i}.png", (name,), f"t{i}", "test") for i, name in enumerate(COUNTS)]
        rows += [("both.png", ("Mass", "Edema"), "p0", "train"), ("none.png", (), "x", "train")]
        self.table = pd.DataFrame(rows, columns=["path", "labels", "patient", "split"])
        self.table = self.table.assign(age=np.arange(len(rows)) / 2.0, sex="F", view="PA")
        self.stamp = "1"
        self.broken: set[str] = set()
        self.seconds = 0.0
        self.log = log

    @property
    def decoded(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def index(self) -> pd.DataFrame:
        return self.table

    def identity(self, path: str) -> str:
        return self.stamp

    def load(self, path: str, size: int) -> np.ndarray:
        with self.log.open("a") as log:
            log.write(f"{path}\n")
        time.sleep(self.seconds)
        if path in self.broken:
            raise UserError(f"{path}: cut short")
        return np.full((size, size), grey(path), dtype=np.uint8)


def grey(path: str) -> int:
    stem = Path(path).stem
    return int(stem) if stem.isdigit() else 255


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Table:
    made = Table(tmp_path / "decoded")
    monkeypatch.setattr(store, "open_dataset", lambda recipe: made)
    return made


def prepare(tmp_path: Path, *overrides: str) -> ImageData:
    sets = [
        'data.classes=["Mass", "Edema", "Hernia"]', "data.image_size=16", "run.batch_size=8",
        f"data.cache={tmp_path / 'cache'}", *overrides,
    ]  # fmt: skip
    return store.prepare(load("baseline_resnet50", sets))


def batches(split: ImageSplit, **words: object) -> Batches:
    chosen = Data.model_validate({"plugin": "any", **words})
    return Batches(split, chosen, exclusive=True, batch_size=8, seed=3, device=CPU)


# -- choosing and decoding -------------------------------------------------------------------------


def test_the_label_policy_chooses_the_images(table: Table, tmp_path: Path) -> None:
    single = prepare(tmp_path)
    assert single.summary()["classes"]["train"] == COUNTS
    assert {*single.splits} == {"train", "test"}
    train = single.splits["train"]
    assert not {"both.png", "none.png"} & {*train.paths}
    for row, path in enumerate(train.paths):
        assert (train.images[row] == grey(path)).all()
        assert train.metadata["age"][row] == grey(path) / 2
    multi = prepare(tmp_path, 'data.label_policy="multi"').splits["train"]
    labels = dict(zip(multi.paths, multi.labels(exclusive=False).tolist(), strict=True))
    assert (labels["both.png"], labels["none.png"]) == ([1, 1, 0], [0, 0, 0])
    only = prepare(tmp_path, 'data.only=["Edema"]', "run.batch_size=4")
    assert only.task.classes == ("Mass", "Edema", "Hernia")
    assert only.summary()["classes"]["train"] == {"Mass": 0, "Edema": 12, "Hernia": 0}


def test_images_are_decoded_once(table: Table, tmp_path: Path) -> None:
    first = prepare(tmp_path)
    assert Counter(table.decoded) == Counter(p for s in first.splits.values() for p in s.paths)
    table.log.unlink()
    again = prepare(tmp_path, "run.batch_size=4")
    assert not table.decoded
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.splits["train"].images[:], first.splits["train"].images[:])
    (store_file,) = tmp_path.glob("cache/*/images.npy")
    store_file.chmod(0o644)  # it is read-only
    store_file.write_bytes(store_file.read_bytes()[:1000])  # as a full disk leaves it
    assert prepare(tmp_path).fingerprint == first.fingerprint
    assert table.decoded
    table.log.unlink()
    table.stamp = "2"  # a file was replaced
    prepare(tmp_path)
    assert table.decoded


def test_an_unreadable_image_stops_or_is_left_out(table: Table, tmp_path: Path) -> None:
    table.broken = {"001.png", "002.png"}
    with pytest.raises(UserError, match=r"2 of 43 images .*\n  001.png: cut short\n.*\n.*skip"):
        prepare(tmp_path)
    data = prepare(tmp_path, "data.on_bad_image=skip")
    assert not table.broken & {*data.splits["train"].paths}
    assert len(data.splits["train"]) == 38
    assert data.summary()["skipped"] == {p: f"{p}: cut short" for p in sorted(table.broken)}
    [warning] = data.warnings
    assert warning.startswith("2 of 43 images cannot be read and are left out")
    for row, path in enumerate(data.splits["train"].paths):
        assert (data.splits["train"].images[row] == grey(path)).all()


def test_data_that_cannot_be_trained_on(table: Table, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size is 64, but only 40"):
        prepare(tmp_path, "run.batch_size=64")
    with pytest.raises(UserError, match=r"no training image is of class 'Nodule'"):
        prepare(tmp_path, "data.classes=all")
    with pytest.raises(UserError, match=r"no class is named 'Oedema'; .*Edema"):
        prepare(tmp_path, 'data.classes=["Mass", "Oedema"]')
    table.table.loc[table.table["path"] == "t0.png", "patient"] = "p7"
    with pytest.raises(UserError, match=r"1 patients are in more than one split: p7\."):
        prepare(tmp_path)


def test_the_limit_is_by_class_by_patient_and_seeded(table: Table, tmp_path: Path) -> None:
    # Two patients of Mass with many images each: a draw of five must be of few patients.
    mass = table.table.index[table.table["path"].isin([f"{i:03}.png" for i in range(24)])]
    table.table.loc[mass[:10], "patient"] = "many"
    table.table.loc[mass[10:20], "patient"] = "others"
    drawn = {}
    for seed in range(4):
        data = prepare(tmp_path, "data.limit=3", "data.unlabelled=true", f"run.seed={seed}")
        train, rest = data.splits["train"], data.splits["unlabelled"]
        assert data.task.counts == (3, 3, 3)
        assert not {*train.paths} & {*rest.paths}
        assert len(train) + len(rest) == sum(COUNTS.values())
        drawn[seed] = {*train.paths}
        # A patient whose images were begun with is used up before the next: at most one is cut.
        cut = {*train.patients} & {*rest.patients}
        assert len(cut) <= 3
        for row, path in enumerate(rest.paths):
            assert (rest.images[row] == grey(path)).all()
    assert len({frozenset(paths) for paths in drawn.values()}) > 1
    again = prepare(tmp_path, "data.limit=3", "run.seed=2").splits
    assert {*again["train"].paths} == drawn[2]
    assert "unlabelled" not in again
    few = prepare(tmp_path, "data.limit.Mass=5", "data.limit.Hernia=0")
    assert few.task.counts == (5, 12, 0)
    with pytest.raises(UserError, match=r"limit: no class is named 'Nodule'"):
        prepare(tmp_path, "data.limit.Nodule=5")


def test_the_protocol_chooses_the_test_images(table: Table, tmp_path: Path) -> None:
    extra = [
        ("two.png", ("Mass", "Edema"), "a", "test"), ("other.png", ("Nodule",), "b", "test"),
        ("normal.png", (), "c", "test"),
    ]  # fmt: skip
    more = pd.DataFrame(extra, columns=["path", "labels", "patient", "split"])
    table.table = pd.concat([table.table, more.assign(age=50.0, sex="M", view="PA")])
    three = {"t0.png", "t1.png", "t2.png"}
    paper = prepare(tmp_path, "evaluation.protocol=paper")
    assert {*paper.splits["test"].paths} == three
    official = prepare(tmp_path, "evaluation.protocol=official")
    assert {*official.splits["test"].paths} == three | {"two.png", "other.png", "normal.png"}
    assert official.splits["train"].paths == paper.splits["train"].paths
    with pytest.raises(UserError, match=r"protocol: .*14 findings"):
        prepare(tmp_path, "evaluation.protocol=multilabel14")


# -- drawing ---------------------------------------------------------------------------------------


def test_an_epoch_has_every_image_once(table: Table, tmp_path: Path) -> None:
    split = prepare(tmp_path).splits["train"]
    source = batches(split)
    assert source.steps_per_epoch == 5
    epochs = [torch.cat([source.indices(5 * e + i) for i in range(5)]) for e in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(40))
    assert not torch.equal(*epochs)
    images, labels, metadata = source.batch(6)
    rows = source.indices(6)
    expected = torch.tensor([grey(split.paths[row]) for row in rows]) / 127.5 - 1
    torch.testing.assert_close(images, expected[:, None, None, None].expand(8, 1, 16, 16))
    assert labels.tolist() == [split.label_matrix[row].argmax() for row in rows]
    assert metadata["age"].tolist() == [grey(split.paths[row]) / 2 for row in rows]


def test_a_step_draws_the_same_wherever_the_run_was_taken_up(table: Table, tmp_path: Path) -> None:
    split = prepare(tmp_path).splits["train"]
    words = {"augmentation": {"scale": (0.5, 1.0)}, "sampling": "balanced"}
    whole, resumed = batches(split, **words), batches(split, **words)
    for step in range(7):
        last = whole.batch(step)
    for a, b in zip(last[:2], resumed.batch(6)[:2], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [("natural", (0.6, 0.3, 0.1)), ("balanced", (1 / 3, 1 / 3, 1 / 3)), ("inverse", None)],
)
def test_how_often_each_class_is_drawn(
    table: Table, tmp_path: Path, sampling: str, expected: tuple[float, ...] | None
) -> None:
    source = batches(prepare(tmp_path).splits["train"], sampling=sampling)
    if expected is None:  # in inverse proportion to the counts
        inverse = [1 / count for count in COUNTS.values()]
        expected = tuple(value / sum(inverse) for value in inverse)
    steps = 200 * source.steps_per_epoch
    labels = torch.cat([source.labels[source.indices(step)] for step in range(steps)])
    shares = torch.bincount(labels, minlength=3) / len(labels)
    # Four standard deviations of a share of 8,000 draws are at most 0.022.
    torch.testing.assert_close(shares, torch.tensor(expected), atol=0.022, rtol=0)


# -- augmentation ----------------------------------------------------------------------------------


def crop(images: torch.Tensor, seed: int = 0, **words: object) -> torch.Tensor:
    theta = transformations(Augmentation(**words), rng("cpu", seed, "test", 0), len(images))
    return transformed(images, theta)


def test_a_crop_of_everything_changes_nothing() -> None:
    images = torch.rand(5, 1, 20, 20)
    torch.testing.assert_close(crop(images), images, atol=1e-5, rtol=0)


def test_a_shared_crop_is_one_crop() -> None:
    images = torch.rand(1, 1, 32, 32).repeat(6, 1, 1, 1)
    shared = crop(images, scale=(0.3, 0.9), ratio=(0.75, 1.33), shared=True)
    assert torch.equal(shared, shared[:1].expand_as(shared))
    own = crop(images, scale=(0.3, 0.9), ratio=(0.75, 1.33))
    assert (own - own[:1]).flatten(1).abs().amax(dim=1)[1:].min() > 0.05


def test_mirrored_images() -> None:
    images = torch.rand(200, 1, 8, 8)
    out = crop(images, flip=0.25)
    mirrored = torch.isclose(out, images.flip(3), atol=1e-5).all(dim=(1, 2, 3))
    kept = torch.isclose(out, images, atol=1e-5).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 30 <= mirrored.sum() <= 70  # 50 expected, three standard deviations are 18


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 1.0), st.floats(0.5, 2.0), st.integers(0, 1000))
def test_a_crop_has_the_area_and_the_shape_asked_for(scale: float, ratio: float, seed: int) -> None:
    """On two ramps a crop is read off: the greys at its borders are its borders."""
    size = 64
    centres = (torch.arange(size) + 0.5) / size
    ramps = torch.stack([centres.expand(size, size), centres[:, None].expand(size, size)])[None]
    out = crop(ramps, seed, scale=(scale, scale), ratio=(ratio, ratio))[0]
    fits = scale * ratio <= 1 and scale / ratio <= 1
    # A step between two pixels of the crop is 1/S of its width.
    width = ((out[0, 0, -2] - out[0, 0, 1]) * size / (size - 3)).item()
    height = ((out[1, -2, 0] - out[1, 1, 0]) * size / (size - 3)).item()
    assert width * height == pytest.approx(scale if fits else 1.0, rel=0.05)
    assert width / height == pytest.approx(ratio if fits else 1.0, rel=0.05)
    assert out.min() >= 0 and out.max() <= 1
