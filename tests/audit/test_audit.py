"""The audit: its statistics against loops and enumeration, copies that are planted, the command."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DCGAN_TABLES, real_data
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from xraygan import UserError
from xraygan.audit import memorization
from xraygan.audit.audit import closest_pairs, measure_resemblance
from xraygan.audit.held_out import HeldOut
from xraygan.audit.memorization import (
    auc,
    auc_with_interval,
    chance_of_flags,
    flag_copies,
    membership,
    permutation_p_value,
    relative,
    tail_rank,
)
from xraygan.audit.nearest_neighbors import (
    Neighbours,
    as_greys,
    nearest_neighbors,
    squared_distances,
)
from xraygan.cli import main
from xraygan.data.datamodule import prepare
from xraygan.data.image_splits import ImageSplit, StoredImages
from xraygan.evaluation.evaluation import RunEvaluation
from xraygan.evaluation.generation import Generated
from xraygan.recipe.loading import load
from xraygan.session.session import Session
from xraygan.statistics.intervals import auc_interval
from xraygan.training.engine import run
from xraygan.utils.progress import Display

WHOLE = (
    """
[run]
steps = 2
save_every = 1
batch_size = 4
[data]
plugin = "phantom"
images = 110
image_size = 32
test_fraction = 0.4
classes = ["No Finding", "Edema"]
findings = ["No Finding", "Edema"]
"""
    + DCGAN_TABLES
    + """[classifier]
plugin = "resnet18"
[evaluation]
generated = 4
bootstrap = 0
"""
)
NO_GENERATOR = WHOLE[: WHOLE.index("[generator]")] + WHOLE[WHOLE.index("[classifier]") :]


def points(random: np.random.Generator, count: int, width: int = 8) -> Tensor:
    return torch.from_numpy(random.normal(size=(count, width)))


# -- nearest neighbours ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_nearest_are_those_of_a_loop(chunk: int, grouped: bool) -> None:
    random = np.random.default_rng(0)
    queries, reference = points(random, 11), points(random, 13)
    reference[7] = queries[3]  # a copy
    ours, theirs = (torch.arange(11) + 1) % 3, torch.arange(13) % 3
    asked: list[int] = []

    def part(which: slice) -> Tensor:
        asked.append(which.stop - which.start)
        return reference[which]

    apart = (ours, theirs) if grouped else None
    found = nearest_neighbors(queries, part, len(reference), 5, apart=apart, chunk=chunk)
    assert (max(asked), sum(asked)) == (min(chunk, 13), 13)
    for q, query in enumerate(queries.tolist()):
        loop = sorted(
            (math.dist(query, point), row)
            for row, point in enumerate(reference.tolist())
            if not (grouped and ours[q] == theirs[row])
        )[:5]
        assert found.rows[q].tolist() == [row for _, row in loop]
        assert found.distances[q] == pytest.approx([far for far, _ in loop], abs=1e-7)


def test_nothing_but_its_own_group_is_infinitely_far() -> None:
    one = torch.zeros(2, dtype=torch.int64)
    x = points(np.random.default_rng(0), 2)
    assert np.isinf(nearest_neighbors(x, x.__getitem__, 2, apart=(one, one)).distances).all()


def test_generated_images_have_the_greys_that_the_discriminator_sees() -> None:
    """A generator's -1 is black only where a real image's black is -1."""
    for low in (-1.0, 0.0):
        evaluation: Any = SimpleNamespace(value_range=(low, 1.0))
        greys = torch.tensor([0.0, 0.2, 1.0])
        made = (greys * (1 - low) + low + 1) * 127.5  # as they are saved
        for images, real in ((greys * 255, True), (made, False)):
            found = as_greys(evaluation, images.round().byte()[:, None, None], real)
            assert found.flatten().tolist() == pytest.approx(greys.tolist(), abs=0.005)


def test_a_relative_distance_is_that_of_a_loop() -> None:
    rows = np.sort(np.random.default_rng(0).random((6, 4)))
    rows[0] = 0
    rows[1, 0] = 0
    for found, (first, *others) in zip(
        relative(Neighbours(rows, rows)), rows.tolist(), strict=True
    ):
        assert found == (first / (sum(others) / 3) if sum(others) else 1)
    assert relative(Neighbours(rows[:, :1], rows)).tolist() == [1] * 6


# -- statistics ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "h"), [(1, 1), (3, 4), (5, 2), (4, 5)])
def test_chance_counts_the_orders_in_which_so_many_are_flagged(n: int, h: int) -> None:
    """Of n generated and h held-out values every order is as probable."""
    for rank in range(1, h + 1):
        counts = []
        for places in itertools.combinations(range(n + h), h):  # of the held-out values
            counts.append(sum(i < places[rank - 1] for i in range(n + h) if i not in places))
        for flagged in range(n + 1):
            share = sum(count >= flagged for count in counts) / len(counts)
            assert chance_of_flags(flagged, n, h, rank) == pytest.approx(share, rel=1e-12)
        assert sum(counts) / len(counts) == pytest.approx(n * rank / (h + 1))  # "expected"


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (198, 1), (199, 2), (428, 4), (2000, 20)])
def test_the_threshold_is_a_low_rank(count: int, rank: int) -> None:
    values = np.random.default_rng(0).permutation(count).astype(float)
    assert tail_rank(count) == rank
    assert memorization.threshold(values) == rank - 1


def test_an_image_as_near_as_the_threshold_is_not_flagged() -> None:
    """The threshold is a held-out image's own distance, and that one is no copy."""
    real = np.stack([np.linspace(0.5, 0.9, 50), np.ones(50)], 1)
    made = np.array([[0.5, 1.0], [0.499, 1.0], [0.501, 1.0]])
    rows = np.arange(50)[:, None].repeat(2, 1)
    found, flagged = memorization.flag_copies(
        Neighbours(made, rows[:3]), Neighbours(real, rows), 0.05, np.random.default_rng(0)
    )
    assert found["threshold"] == 0.5
    assert flagged.tolist() == [False, True, False] and found["flagged"] == 1


def test_auc_is_that_of_a_double_loop() -> None:
    random = np.random.default_rng(0)
    for m, n in ((1, 1), (5, 9), (30, 20)):
        lower, higher = random.integers(6, size=m), random.integers(6, size=n)
        wins = [(a < b) + (a == b) / 2 for a in lower for b in higher]
        assert auc(lower, higher) == pytest.approx(sum(wins) / len(wins), rel=1e-12)


def test_the_p_of_swapped_pairs_is_that_of_all_swaps() -> None:
    random = np.random.default_rng(0)
    pairs = random.integers(8, size=(7, 2)) - [1, 0]
    values = []
    for swaps in itertools.product([False, True], repeat=len(pairs)):
        swapped = np.where(np.array(swaps)[:, None], pairs[:, ::-1], pairs)
        values.append(auc(swapped[:, 0], swapped[:, 1]))
    exact = np.mean(np.array(values) >= auc(pairs[:, 0], pairs[:, 1]) - 1e-12)
    found = permutation_p_value(pairs[:, 0], pairs[:, 1], random)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999))


def test_membership_holds_its_level_and_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs whose images are alike, but no two pairs: labels make such pairs."""
    monkeypatch.setattr(memorization, "PERMUTATIONS", 199)
    monkeypatch.setattr(memorization, "BOOTSTRAP", 200)
    random = np.random.default_rng(0)
    ps, covered = [], 0
    for _ in range(200):
        seen, unseen = random.normal(size=(2, 40)) + random.normal(size=40)
        found = membership(seen, unseen, random)
        ps.append(found["p"])
        covered += found["interval"][0] <= 0.5 <= found["interval"][1]
    # Within four standard deviations of a binomial count.
    for level in (0.05, 0.2, 0.5):
        slack = 4 * math.sqrt(200 * level * (1 - level))
        assert abs(sum(p <= level for p in ps) - 200 * level) < slack
    assert covered >= 190 - 4 * math.sqrt(200 * 0.05 * 0.95)
    shifted = membership(random.normal(size=200) - 1, random.normal(size=200), random)
    true = (1 + math.erf(1 / 2)) / 2  # P(N(-1, 1) < N(0, 1))
    assert shifted["p"] == 1 / 200
    assert shifted["interval"][0] < true < shifted["interval"][1]


def test_an_interval_is_of_resamples_of_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "BOOTSTRAP", 2000)
    random = np.random.default_rng(0)
    x, y = random.normal(size=100), random.normal(size=400)
    rank = np.mean(x[:, None] < y, axis=1), np.mean(x[:, None] < y, axis=0)  # DeLong's variance
    area = float(rank[0].mean())
    expected = auc_interval(area, rank[0].var() / 99 + rank[1].var() / 399, 100, 400)
    for copies_of_each in (1, 5):  # five copies tell no more than one does
        together = np.repeat(np.arange(100), copies_of_each)
        found = auc_with_interval(auc, random, np.repeat(x, copies_of_each), y, groups=together)
        assert found["auc"] == pytest.approx(area)
        assert found["interval"] == pytest.approx(expected, abs=0.01)


def test_none_flagged_is_not_certain() -> None:
    random = np.random.default_rng(0)
    train, held, fresh = (points(random, 200, 64) for _ in range(3))
    figures, flagged = flag_copies(*look(train, fresh, held), 0.05, random)
    assert not flagged[:40].any()
    figures, flagged = flag_copies(*look(train, fresh[:40], held), 0.05, random)
    low, high = figures["share"]["interval"]
    assert (figures["share"]["value"], low) == (0.0, 0.0)
    assert 0.05 < high < 0.2  # it was 0


# -- copies ----------------------------------------------------------------------------------------


def look(train: Tensor, *queries: Tensor) -> list[Neighbours]:
    return [
        nearest_neighbors(x, train.__getitem__, len(train), min(50, len(train))) for x in queries
    ]


def test_planted_copies_are_flagged_and_fresh_images_are_not() -> None:
    random = np.random.default_rng(0)
    train, held, fresh = (points(random, n) for n in (300, 250, 180))
    held[0] = train[0]  # one image in both splits hides nothing
    copied = train[:20] + 0.05 * points(random, 20)
    near, near_held = look(train, torch.cat([fresh, copied]), held)
    figures, flagged = flag_copies(near, near_held, 0.05, random)
    assert flagged[180:].all()
    assert near.rows[180:, 0].tolist() == [*range(20)]
    assert flagged[:180].sum() <= 6
    assert figures["copies"] and figures["p"] < 1e-4
    assert figures["flagged"] == flagged.sum()
    assert figures["p"] == chance_of_flags(figures["flagged"], 200, 250, figures["rank"])
    for count, called in ((figures["needed"], True), (figures["needed"] - 1, False)):
        assert (chance_of_flags(count, 200, 250, figures["rank"]) <= 0.05) == called
    low, high = figures["share"]["interval"]
    assert low < figures["share"]["value"] == flagged.mean() < high
    none, flagged = flag_copies(*look(train, fresh, held), 0.05, random)
    assert not none["copies"] and none["flagged"] < none["needed"]


def test_images_that_are_near_to_everything_are_no_copies() -> None:
    random = np.random.default_rng(0)
    train, held, fresh = (points(random, 200, 64) for _ in range(3))
    figures, _ = flag_copies(*look(train, 0.3 * fresh, held), 0.05, random)
    assert figures["nearer"]["auc"] > 0.95
    assert not figures["copies"]


@pytest.mark.parametrize("modes", [60, 12])
def test_fresh_images_are_called_copies_no_more_often_than_declared(
    modes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a generator makes the same few images again and again."""
    monkeypatch.setattr(memorization, "BOOTSTRAP", 100)
    called = 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        train, held, fresh = (points(random, n, 4) for n in (80, 60, modes))
        fresh = fresh.repeat(60 // modes, 1) + 0.01 * points(random, 60, 4)
        called += flag_copies(*look(train, fresh, held), 0.05, random)[0]["copies"]
    assert called <= 6 + 3 * math.sqrt(120 * 0.05 * 0.95)


def test_one_image_again_and_again_is_one_finding() -> None:
    random = np.random.default_rng(0)
    train, held, fresh = (points(random, n) for n in (300, 250, 100))
    again = torch.cat([fresh, train[:1] + 0.05 * points(random, 100)])
    figures, flagged = flag_copies(*look(train, again, held), 0.05, random)
    assert flagged[100:].all()
    assert figures["p"] < 1e-9 and not figures["copies"]


def test_too_few_images_to_tell_are_said_to_be() -> None:
    random = np.random.default_rng(0)
    train, held, fresh = (points(random, n) for n in (10, 3, 2))
    assert flag_copies(*look(train, fresh, held), 0.025, random)[0]["needed"] is None


def split(patients: list[str], labels: list[int]) -> ImageSplit:
    images = StoredImages(torch.zeros(len(labels), 2, 2), torch.arange(len(labels)))
    matrix = np.eye(3, dtype=np.uint8)[labels]
    return ImageSplit(images, matrix, np.array(patients), [""] * len(labels), {})


def test_held_out_images_are_one_a_patient_and_paired_by_label() -> None:
    train = split([f"a{i // 2}" for i in range(20)], [0, 0, 1, 1] * 5)
    test = split([f"b{i // 3}" for i in range(30)], [0, 1, 2] * 10)
    held = HeldOut.draw(train, test, np.random.default_rng(0))
    assert set(test.label_matrix[held.rows].argmax(axis=1)) == {0, 1}  # none has 2 in training
    assert len(set(test.patients[held.rows])) == len(held.rows)
    assert len(set(train.patients[held.members])) == len(held.members) > 0
    assert set(held.non_members) <= set(held.rows)
    assert (train.label_matrix[held.members] == test.label_matrix[held.non_members]).all()
    with pytest.raises(UserError, match="no test image has the labels of a training image"):
        HeldOut.draw(train, split(["c"], [2]), np.random.default_rng(0))


def test_the_closest_pairs_show_no_training_image_twice() -> None:
    how_near = np.array([0.5, 0.1, 0.2, 0.3, 0.4])
    assert closest_pairs(how_near, np.array([7, 8, 8, 7, 9])).tolist() == [1, 3, 4]


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on procedural radiographs."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "tiny.toml").write_text(WHOLE, encoding="utf-8")
    run(load(folder / "tiny.toml"), folder / "run")
    return folder / "run"


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return shutil.copytree(trained, tmp_path / "run", symlinks=True)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process; returns its standard output or, if refused, its message."""
    monkeypatch.setattr(memorization, "BOOTSTRAP", 50)
    monkeypatch.setattr(memorization, "PERMUTATIONS", 99)

    def command(*words: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["xraygan", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == code, said.err
        assert "Traceback" not in said.err
        return said.err if code else said.out

    return command


def small(folder: Path, paths: list[str]) -> np.ndarray:
    """PNG files as points of greys in [0, 1], 32 x 32."""
    images = [np.asarray(Image.open(folder / path), dtype=float) for path in paths]
    return np.stack(images).reshape(len(paths), -1) / 255


def test_the_audit_is_of_the_images_that_generate_writes(
    place: Path, tmp_path: Path, command
) -> None:
    """Distances and their images against a loop over the files of `xraygan generate`."""
    said = command("audit", place, "--generated", 70, "--seed", 3)
    found = json.loads((place / "audit.json").read_text())
    command("generate", place, "--count", 70, "--seed", 3, "--out", tmp_path / "made")
    made = small(tmp_path / "made", [f"{i:06d}.png" for i in range(70)])
    train = real_images(place)["train"]
    assert found["says"] == said.splitlines()[0]
    assert found["verdict"] in ("copies", "leaks", "unlike", "none")
    assert (found["step"], found["protocol"]["seed"], found["protocol"]["generated"]) == (2, 3, 70)
    assert found["protocol"]["training_images"] == len(train)
    assert set(found["copies"]) == {"pixels", "features"}
    pairs = [pair for pair in found["nearest"] if pair["space"] == "pixels"]
    assert [pair["relative_distance"] for pair in pairs] == sorted(
        pair["relative_distance"] for pair in pairs
    )
    assert len({pair["generated"] for pair in pairs}) == 70
    for pair in pairs:
        image = made[int(pair["generated"][:6])]
        far = {path: math.sqrt(((image - other) ** 2).mean()) for path, other in train.items()}
        near = sorted(far.values())[:50]
        assert pair["distance"] == pytest.approx(near[0], abs=1e-6)
        assert far[pair["training"]] == pytest.approx(near[0], abs=1e-6)
        assert pair["relative_distance"] == pytest.approx(near[0] / np.mean(near[1:]), abs=1e-5)
    for pair in found["nearest"]:
        assert pair["flagged"] == (
            pair["relative_distance"] < found["copies"][pair["space"]]["threshold"]
        )
    with Image.open(place / "audit.png") as picture:
        assert min(picture.size) > 500


def real_images(place: Path, *sets: str) -> dict[str, dict[str, np.ndarray]]:
    """The images of each split as points, by path."""
    splits = prepare(load(place / "recipe.toml", sets)).splits
    return {
        name: dict(zip(split.paths, split.images[:].flatten(1).numpy() / 255.0, strict=True))
        for name, split in splits.items()
    }


def test_the_same_seed_gives_the_same_files(place: Path, command) -> None:
    def files() -> tuple[bytes, bytes]:
        return (place / "audit.json").read_bytes(), (place / "audit.png").read_bytes()

    said = command("audit", place, "--generated", 8, "--checkpoint", 1)
    assert "note: whether these are the images" not in said
    first = files()
    assert json.loads(first[0])["step"] == 1
    command("audit", place, "--generated", 8, "--checkpoint", 1)
    assert files() == first
    command("audit", place, "--generated", 8, "--checkpoint", 1, "--seed", 1)
    assert files()[0] != first[0]


def planted(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    """Let the generator make these images."""
    made = torch.from_numpy((images.reshape(-1, 32, 32) * 255).round().clip(0, 255).astype("uint8"))
    generated = Generated(made, made, made)
    monkeypatch.setattr("xraygan.audit.audit.sample_images", lambda *_: (generated, None))


def test_a_generator_of_copies_is_flagged_and_one_of_fresh_images_is_not(
    place: Path, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    random = np.random.default_rng(0)
    train = real_images(place)["train"]
    copied = np.stack([*train.values()])
    planted(monkeypatch, copied + random.normal(0, 0.02, copied.shape))
    said = command("audit", place, "--generated", len(copied))
    found = json.loads((place / "audit.json").read_text())
    assert said.startswith("COPIES TRAINING IMAGES: ")
    assert found["verdict"] == "copies" and found["membership"]["leaks"]
    pairs = [pair for pair in found["nearest"] if pair["space"] == "pixels" and pair["flagged"]]
    assert len(pairs) > 0.9 * len(copied)
    assert all(pair["training"] == [*train][int(pair["generated"][:6])] for pair in pairs)

    fresh = np.stack([*real_images(place, "data.seed=5")["train"].values()])  # of other patients
    planted(monkeypatch, fresh)
    said = command("audit", place, "--generated", len(fresh))
    assert said.startswith("NO COPYING FOUND: ")
    assert json.loads((place / "audit.json").read_text())["verdict"] == "none"


def test_membership_is_judged_where_the_splits_are_alike(
    place: Path, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    """A generator of training images under so much noise that none is a copy."""
    train = np.stack([*real_images(place)["train"].values()])
    planted(monkeypatch, train + np.random.default_rng(0).normal(0, 0.2, train.shape))
    said = command("audit", place, "--generated", len(train))
    assert said.startswith("LEAKS MEMBERSHIP: ")
    evaluation = Session.evaluation

    def darker(session: Session, split: str | None = None) -> RunEvaluation:
        found = evaluation(session, split)
        dark = StoredImages(found.test.images[:] // 2, torch.arange(len(found.test)))
        found.test = replace(found.test, images=dark)
        return found

    monkeypatch.setattr(Session, "evaluation", darker)
    said = command("audit", place, "--generated", len(train))
    assert said.startswith("NO COPYING FOUND: ")
    assert "note: training and held-out images differ without any generator" in said


def textures(count: int) -> dict[str, np.ndarray]:
    """Images ``(N, 32 32)`` in [0, 1] that nobody would take for radiographs."""
    random = np.random.default_rng(0)
    noise = random.random((count, 1024))
    return {
        "noise": noise,
        "grey": np.full((count, 1024), 0.45),
        "grey texture": 0.45 + 0.05 * (noise - 0.5),
        "dots": np.where(noise < 0.05, 1.0, 0.45),
        "upside down greys": 1 - np.stack([noise[0]] * count),
    }


@pytest.mark.parametrize("texture", textures(1))
def test_of_images_that_do_not_resemble_the_data_the_audit_cannot_speak(
    place: Path, monkeypatch: pytest.MonkeyPatch, command, texture: str
) -> None:
    planted(monkeypatch, textures(64)[texture])
    said = command("audit", place, "--generated", 64)
    found = json.loads((place / "audit.json").read_text())
    assert found["verdict"] == "unlike"
    assert said.startswith("INCONCLUSIVE: 64 of 64 generated images do not resemble the data: ")
    assert found["resemblance"]["share"] == 1


def test_what_resembles_the_data_is_spoken_of(
    place: Path, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    """Held-out images, also blurred or dark; and a few textures among them are noted."""
    train, held = real_images(place)["train"], np.stack([*real_images(place)["test"].values()])
    blurred = held.reshape(-1, 32, 32)
    blurred = (blurred + np.roll(blurred, 1, 1) + np.roll(blurred, 1, 2)) / 3
    mixed = np.concatenate([held, textures(len(held) // 3)["noise"]])
    for images in (held, blurred, held / 2, mixed):
        planted(monkeypatch, images)
        said = command("audit", place, "--generated", len(images))
        assert said.startswith("NO COPYING FOUND: "), said
    assert f"note: {len(mixed) - len(held)} of {len(mixed)} generated images do not resem" in said
    most = [max(np.corrcoef(x, y)[0, 1] for y in train.values()) for x in held[:5]]
    planted(monkeypatch, held[:5])
    command("audit", place, "--generated", 5)
    found = json.loads((place / "audit.json").read_text())["resemblance"]["correlation"]
    assert found["generated"]["q50"] == pytest.approx(np.median(most), abs=0.01)


def test_few_held_out_images_are_said_to_be_few(place: Path, command) -> None:
    said = command("audit", place, "--generated", 20)
    found = json.loads((place / "audit.json").read_text())
    held, needed = found["protocol"]["held_out_images"], found["copies"]["pixels"]["needed"]
    assert f"note: only {held} images are held out: {1 / (held + 1):.1%} of fresh images" in said
    assert f"fewer than {needed} copies among 20 generated images" in said


def test_where_nothing_could_be_flagged_the_verdict_is_not_that_there_is_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    few = HeldOut.draw

    def one(*of: Any) -> HeldOut:
        held = few(*of)
        return HeldOut(held.rows[:1], held.non_members[:1], held.members[:1])

    monkeypatch.setattr(HeldOut, "draw", one)
    train = np.stack([*real_images(place)["train"].values()])
    planted(monkeypatch, train[:4])
    said = command("audit", place, "--generated", 4)
    assert said.startswith("INCONCLUSIVE: too few images to distinguish any number of copies")
    assert json.loads((place / "audit.json").read_text())["verdict"] == "few"
    assert "with 1 pairs no membership could be distinguished from chance" in said


def test_weights_that_are_no_numbers_are_no_finding(place: Path, command) -> None:
    """Of NaN, images would be black and no distance the smallest."""
    for network in ("generator", "classifier", "discriminator"):
        folder = place / "checkpoints" / "step-00000002"
        (path,) = (p for p in folder.glob("*.safetensors") if p.stem == network)
        kept, manifest = path.read_bytes(), (folder / "manifest.json").read_text()
        spoilt = {
            k: v * torch.nan if v.is_floating_point() else v for k, v in load_file(path).items()
        }
        save_file(spoilt, path)
        now = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(
            manifest.replace(hashlib.sha256(kept).hexdigest(), now)
        )
        said = command("audit", place, "--generated", 8, code=2)
        assert f"of the {network} holds values that are not numbers" in said
        assert not (place / "audit.json").exists()
        path.write_bytes(kept)
        (folder / "manifest.json").write_text(manifest)


def test_images_of_another_training_are_said_to_be(place: Path, command) -> None:
    said = command("audit", place, "--generated", 4, "--set", "data.seed=1")
    assert "note: these are not the images of the training: " in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--generated", "1"], "1 is not in the range 2<=x<=1000000."),
        (["--seed", "-1"], "-1 is not in the range 0<=x<="),
        (["--checkpoint", "7"], "there is no checkpoint '7'; there are the steps 2, 1"),
        (["--checkpoint", "best"], "there is no checkpoint 'best'"),
        (["--set", "data.test_fraction=0.0"], "no test image"),
        (["--set", "data.imges=3"], "did you mean 'images'?"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    place: Path, command, words: list[str], says: str
) -> None:
    before = sorted({*place.rglob("*")} - {place / ".lock"})
    assert says in command("audit", place, *words, code=2)
    assert sorted({*place.rglob("*")} - {place / ".lock"}) == before


def test_a_run_that_cannot_be_audited_is_refused(place: Path, tmp_path: Path, command) -> None:
    assert "not a run directory" in command("audit", tmp_path, code=2)
    with FileLock(place / ".lock"):
        assert "is being written by another process" in command("audit", place, code=2)
    shutil.rmtree(place / "checkpoints")
    assert "there is no checkpoint; the run has not" in command("audit", place, code=2)
    (tmp_path / "plain.toml").write_text(NO_GENERATOR, encoding="utf-8")
    run(load(tmp_path / "plain.toml"), tmp_path / "plain")
    assert "the run has no generator" in command("audit", tmp_path / "plain", code=2)


@pytest.mark.parametrize("fails", [1, 2])
def test_a_full_disk_leaves_the_last_audit(
    place: Path, command, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    files = {place / "audit.json": b"{}", place / "audit.png": b"as it was"}
    for path, content in files.items():
        path.write_bytes(content)
    calls = itertools.count(1)

    def fsync(handle: int) -> None:
        if next(calls) == fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    said = command("audit", place, "--generated", 4, code=2)
    assert "cannot be written (No space left on device)" in said
    assert {path: path.read_bytes() for path in files} == files
    assert not list(place.glob(".audit*"))


#: how often fresh images are drawn; docs/results.md has 100
DRAWS = int(os.environ.get("XRAYGAN_DRAWS", "20"))

# -- real radiographs ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_generator_that_learns_20_radiographs_by_heart_is_flagged(
    tmp_path: Path, command
) -> None:
    """And it is not blamed for 20 others that it never saw."""
    sets = [f"data.root={real_data('zhang')}", "run.steps=600"]  # of the recipe's 1,000
    run(load("audit_memorising", sets), tmp_path / "run")
    assert command("audit", tmp_path / "run").startswith("COPIES TRAINING IMAGES: ")
    found = json.loads((tmp_path / "run" / "audit.json").read_text())["resemblance"]
    assert found["share"] < 0.1
    said = command("audit", tmp_path / "run", "--set", "run.seed=1")  # which draws the 20
    assert not said.startswith(("COPIES", "INCONCLUSIVE"))


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["10", "100000"])
@pytest.mark.parametrize("name", ["zhang", "chestxray14"])
def test_radiographs_resemble_radiographs_and_textures_do_not(
    name: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test images of other patients in the place of generated ones, as they are and blurred."""
    sets = [f"data.plugin={name}", f"data.root={real_data(name)}", f"data.limit={limit}"]
    loaded = load("audit_memorising", sets)
    splits = prepare(loaded).splits
    evaluation: Any = SimpleNamespace(
        value_range=loaded.tables.data.value_range,
        batch_size=loaded.tables.evaluation.batch_size,
        train=splits["train"],
        test=splits["test"],
        device=torch.device("cpu"),
    )
    held = HeldOut.draw(splits["train"], splits["test"], np.random.default_rng(0))
    half = len(held.rows) // 2
    images = splits["test"].images[torch.from_numpy(held.rows[:half])]
    held = replace(held, rows=held.rows[half:])
    small = torch.nn.functional.avg_pool2d(images[:, None].float(), 4)
    blurred = torch.nn.functional.interpolate(small, size=32, mode="bilinear")[:, 0].byte()
    quiet = Display(quiet=True)
    for like in (images, blurred, images // 2):
        assert measure_resemblance(evaluation, like, held, quiet)["share"] < 0.1
    for kind, texture in textures(64).items():
        made = torch.from_numpy((texture.reshape(-1, 32, 32) * 255).round().astype("uint8"))
        assert measure_resemblance(evaluation, made, held, quiet)["share"] > 0.9, kind


@pytest.mark.slow
@pytest.mark.parametrize("modes", [512, 20])
@pytest.mark.parametrize("trained_on", [20, 1000])
def test_radiographs_of_other_patients_are_no_copies(
    trained_on: int, modes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real images in the place of generated ones: all different, or some few again and again."""
    monkeypatch.setattr(memorization, "BOOTSTRAP", 300)
    sets = [f"data.root={real_data('zhang')}", "data.limit=100000"]
    split = prepare(load("audit_memorising", sets)).splits["train"]
    _, one_each = np.unique(split.patients, return_index=True)
    greys = split.images[torch.from_numpy(one_each)].flatten(1).double() / 255 / 32
    apart = squared_distances(greys, greys).sqrt()
    called, by_p, shares = 0, 0, []
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        train, held, fresh = np.split(
            random.permutation(len(greys))[: trained_on + 428 + modes],
            [trained_on, trained_on + 428],
        )
        fresh = np.resize(fresh, 512)
        near = []
        for rows in (fresh, held):
            found = apart[rows][:, train].topk(min(50, trained_on), largest=False)
            near.append(Neighbours(found.values.numpy(), found.indices.numpy()))
        if modes < 512:  # images of a mode are not quite the same
            near[0].distances[:, 0] *= random.uniform(0.95, 1.05, size=512)
        figures, _ = flag_copies(*near, 0.05, random)
        called += figures["copies"]
        by_p += figures["p"] <= 0.05
        shares.append(figures["share"]["value"])
    print(
        f"{trained_on} trained on, {modes} different: {called} of {DRAWS} called copies, {by_p} by "
        f"p alone, {np.mean(shares):.2%} flagged"
    )
    assert called <= 0.05 * DRAWS + 3 * math.sqrt(DRAWS * 0.05 * 0.95)
