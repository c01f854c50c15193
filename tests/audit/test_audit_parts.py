"""The parts of an audit on images and networks that are made up, against loops over pixels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xraygan.audit.audit as audit
from xraygan import UserError
from xraygan._version import __version__
from xraygan.audit import held_out, memorization
from xraygan.audit.audit import closest_pairs, compare, measure_resemblance
from xraygan.audit.held_out import HeldOut
from xraygan.audit.memorization import (
    LEVEL,
    auc,
    auc_with_interval,
    chance_of_flags,
    flag_copies,
    membership,
    permutation_p_value,
    ratio,
    relative,
    resemblance,
)
from xraygan.audit.nearest_neighbors import (
    Neighbours,
    nearest_neighbors,
    nearest_training_images,
    patterns,
    spaces,
    thumbnails,
)
from xraygan.audit.verdict import Compared, notes, verdict
from xraygan.data.image_splits import ImageSplit, StoredImages
from xraygan.rundir.directory import RunDirectory
from xraygan.statistics.intervals import auc_interval, bootstrap_variance, share_interval
from xraygan.utils.atomic_files import as_json
from xraygan.utils.seeding import derive_seed

RANGE = (-0.5, 1.0)


def pictures(seed: int, count: int, side: int = 64) -> Tensor:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, side // 2, side // 2)).repeat(2, 1).repeat(2, 2)
    return torch.from_numpy((coarse // 2 + random.integers(0, 120, coarse.shape)).astype(np.uint8))


def split(seed: int, patients: list[str], labels: list[int] | None = None) -> ImageSplit:
    """Images that lie elsewhere in the store than in the split."""
    count = len(patients)
    pixels, rows = pictures(seed, count + 3), torch.arange(count).flip(0) + 2
    matrix = np.eye(3, dtype=np.uint8)[labels or [0] * count]
    ages = {"age": np.linspace(0.1, 0.9, count).astype(np.float32)}
    paths = [f"{seed}/{i}.png" for i in range(count)]
    return ImageSplit(StoredImages(pixels, rows), matrix, np.array(patients), paths, ages)


class Judge(nn.Module):
    """The sum of what it is given, with weights that tell inputs from each other."""

    def __init__(self, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.modes: list[bool] = []

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        self.modes.append(self.training)
        assert torch.is_inference_mode_enabled()
        found = images.mean(dim=(1, 2, 3)) + images[:, 0, 0, 0]
        if labels is not None:
            found = found + labels @ torch.arange(1.0, labels.shape[1] + 1)
        return found


class Shown:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def progress(self, what: str, count: int) -> Iterator[Any]:
        advances: list[int] = []
        self.passes.append((what, count, advances))
        yield advances.append


class MadeEvaluation(SimpleNamespace):
    """What an evaluation is asked, from its recipe and its graph."""

    networks = property(lambda self: self.graph.networks)
    value_range = property(lambda self: self.recipe.tables.data.value_range)
    batch_size = property(lambda self: self.recipe.tables.evaluation.batch_size)


def made_evaluation(conditional: bool = False, **networks: Any) -> Any:
    train = split(1, ["a", "a", "b", "c", "d", "d", "e"], [0, 1, 0, 1, 0, 1, 2])
    test = split(2, ["p", "q", "r", "s", "t"], [0, 1, 0, 1, 0])
    judge = Judge(conditional)
    networks = {"generator": None, "discriminator": judge, "classifier": None, **networks}

    def classify(images: Any, *, real: bool) -> tuple[np.ndarray, None]:
        few = images[:].double().mean(dim=1)[:, :5] + (0 if real else 1)
        return few.numpy(), None

    return MadeEvaluation(
        recipe=SimpleNamespace(
            tables=SimpleNamespace(
                data=SimpleNamespace(value_range=RANGE),
                evaluation=SimpleNamespace(batch_size=3),
            ),
            choices={"data": SimpleNamespace(part=SimpleNamespace(name="phantom"))},
        ),
        train=train,
        test=test,
        task=SimpleNamespace(image_size=64),
        device=torch.device("cpu"),
        graph=SimpleNamespace(
            networks={name: n for name, n in networks.items() if n is not False},
            trained=networks.get,
            autocast=nullcontext,
            task=SimpleNamespace(metadata=("age",)),
        ),
        classify=classify,
        judge=judge,
    )


HELD = HeldOut(np.array([0, 2, 3, 4]), np.array([2, 3, 4]), np.array([0, 3, 4]))


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "BOOTSTRAP", 40)
    monkeypatch.setattr(memorization, "PERMUTATIONS", 39)
    monkeypatch.setattr(audit, "NEIGHBOURS", 4)


def greys(images: Tensor, real: bool) -> np.ndarray:
    """Averaged to 32 x 32 by a mean over blocks; black and white are 0 and 1 where they are real
    ones' black and white."""
    found = images.double().numpy() / 255
    if not real:
        found = (found * 2 - 1 - RANGE[0]) / (RANGE[1] - RANGE[0])
    side = images.shape[-1]
    if side > 32:
        block = side // 32
        found = found.reshape(len(found), 32, block, 32, block).mean(axis=(2, 4))
    return found.reshape(len(found), -1)


def rms(x: np.ndarray, y: np.ndarray) -> float:
    return math.sqrt(np.square(x - y).mean())


def sorted_distances(queries: np.ndarray, reference: np.ndarray, k: int) -> Neighbours:
    far = np.array([[rms(x, y) for y in reference] for x in queries])
    order = far.argsort(axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(far, order, 1), order)


# -- images as points ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("real", [True, False])
def test_the_distance_of_thumbnails_is_the_rms_difference_of_greys(side: int, real: bool) -> None:
    images = pictures(0, 7, side)
    found = thumbnails(made_evaluation(), images, real)
    assert found.shape == (7, min(side, 32) ** 2) and found.dtype == torch.float64
    expected = greys(images, real)
    for i in range(7):
        far = float((found[0] - found[i]).norm())
        assert far == pytest.approx(rms(expected[0], expected[i]), abs=1e-6)


@pytest.mark.parametrize("real", [True, False])
def test_the_products_of_patterns_are_correlations(real: bool) -> None:
    images = pictures(0, 5)
    images[3] = 80
    found = patterns(made_evaluation(), images, real)
    products, expected = found @ found.T, np.corrcoef(greys(images[[0, 1, 2, 4]], real))
    assert products[[0, 1, 2, 4]][:, [0, 1, 2, 4]].numpy() == pytest.approx(expected, abs=1e-5)
    assert found[3].tolist() == [0.0] * 1024 + [1.0]
    assert not found[[0, 1, 2, 4], -1].any()


def test_distances_are_in_pixels_and_in_features_of_a_classifier() -> None:
    evaluation, images = made_evaluation(), pictures(0, 4)
    assert [*spaces(made_evaluation(classifier=False))] == ["pixels"]
    found = spaces(evaluation)
    assert [*found] == ["pixels", "features"]
    for real in (True, False):
        torch.testing.assert_close(
            found["pixels"](images, real), thumbnails(evaluation, images, real)
        )
        expected = evaluation.classify(images, real=real)[0]
        assert found["features"](images, real).numpy() == pytest.approx(expected)


@pytest.mark.parametrize(("real", "which"), [(True, "real"), (False, "generated")])
def test_features_that_are_no_numbers_are_named(real: bool, which: str) -> None:
    evaluation = made_evaluation()
    evaluation.classify = lambda images, real: (np.array([[1.0, np.nan]]), None)
    said = (
        f"^the classifier's features of {which} images are not finite, so images cannot be "
        "compared in them; choose another --checkpoint$"
    )
    with pytest.raises(UserError, match=said):
        spaces(evaluation)["features"](pictures(0, 1), real)


def test_the_nearest_alone_is_looked_for_where_nothing_else_is_asked() -> None:
    points = torch.arange(6.0, dtype=torch.float64)[:, None]
    found = nearest_neighbors(points + 0.1, points.__getitem__, 6)
    assert found.rows.tolist() == [[i] for i in range(6)]
    assert found.distances == pytest.approx(0.1)


@pytest.mark.parametrize("k", [2, 9])
def test_the_nearest_training_images_are_looked_for_in_each_space(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three training images at a time."""
    parts = [slice(0, 3), slice(3, 6), slice(6, 7)]
    monkeypatch.setattr(
        "xraygan.audit.nearest_neighbors._slices",
        lambda count, size: {7: parts}.get(count, [slice(0, count)]),
    )
    evaluation, images = made_evaluation(), pictures(5, 6)
    train = evaluation.train.images[:]
    found = nearest_training_images(evaluation, images, k)
    assert [*found] == ["pixels", "features"]
    far = [[rms(x, y) for y in greys(train, True)] for x in greys(images, False)]
    ours, theirs = (evaluation.classify(x, real=r)[0] for x, r in ((images, 0), (train, 1)))
    apart = [[math.dist(x, y) for y in theirs] for x in ours]
    for name, distances in (("pixels", far), ("features", apart)):
        for i, row in enumerate(distances):
            near = sorted((value, j) for j, value in enumerate(row))[:k]  # all seven, of nine
            assert found[name].rows[i].tolist() == [j for _, j in near]
            assert found[name].distances[i] == pytest.approx([d for d, _ in near], abs=1e-5)
    assert [*nearest_training_images(made_evaluation(classifier=False), images, k)] == ["pixels"]


# -- figures ---------------------------------------------------------------------------------------


def drawn(*purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(9, "audit", *purpose))


def test_generated_images_are_compared_with_held_out_ones_in_each_space() -> None:
    evaluation, images, shown = made_evaluation(), pictures(5, 6), Shown()
    found = compare(evaluation, spaces(evaluation), images, HELD, 9, shown)  # type: ignore[arg-type]
    train, held = evaluation.train.images[:], evaluation.test.images[torch.from_numpy(HELD.rows)]
    near = [
        sorted_distances(greys(x, real), greys(train, True), 4)
        for x, real in ((images, False), (held, True))
    ]
    ours = found["pixels"]
    for one, expected in zip((ours.generated, ours.held_out), near, strict=True):
        assert one.rows.tolist() == expected.rows.tolist()
        assert one.distances == pytest.approx(expected.distances, abs=1e-6)
    figures, flags = flag_copies(ours.generated, ours.held_out, LEVEL / 2, drawn("pixels"))
    assert ours.figures == figures and ours.flagged.tolist() == flags.tolist()
    assert [*found] == ["pixels", "features"]
    features = found["features"]
    figures, _ = flag_copies(features.generated, features.held_out, LEVEL / 2, drawn("features"))
    assert features.figures == figures
    assert [(what, n, sum(steps)) for what, n, steps in shown.passes] == [
        ("nearest in pixels", 7, 7),
        ("nearest in features", 7, 7),
    ]


def test_resemblance_is_of_the_highest_correlations_with_training_images() -> None:
    evaluation, images, shown = made_evaluation(), pictures(5, 6), Shown()
    found = measure_resemblance(evaluation, images, HELD, shown)  # type: ignore[arg-type]
    train, held = evaluation.train.images[:], evaluation.test.images[torch.from_numpy(HELD.rows)]
    most = [
        np.array(
            [max(np.corrcoef(x, y)[0, 1] for y in greys(train, True)) for x in greys(of, real)]
        )
        for of, real in ((images, False), (held, True))
    ]
    expected = resemblance(*most)
    assert found["threshold"] == pytest.approx(expected["threshold"], abs=1e-6)
    assert found["generated"] == 6 and found["unlike"] == expected["unlike"]
    for which in ("generated", "held_out"):
        assert found["correlation"][which] == pytest.approx(
            expected["correlation"][which], abs=1e-6
        )
    assert [(what, n) for what, n, _ in shown.passes] == [("resemblance", 7)]


@pytest.mark.parametrize("judged", [True, False])
def test_membership_is_of_distances_and_of_the_discriminator(judged: bool) -> None:
    evaluation = made_evaluation() if judged else made_evaluation(discriminator=False)
    images, shown = pictures(5, 6), Shown()
    embed = spaces(evaluation)["pixels"]
    found = audit._membership(evaluation, embed, images, HELD, 9, shown)  # type: ignore[arg-type]
    train, test = evaluation.train, evaluation.test
    both = greys(
        torch.cat([train.images[torch.from_numpy(HELD.members)],
                   test.images[torch.from_numpy(HELD.non_members)]]), True
    )  # fmt: skip
    to_made = sorted_distances(both, greys(images, False), 1).distances[:, 0]
    whole, owners = greys(train.images[:], True), train.patients[np.tile(HELD.members, 2)]
    to_train = np.array([
        min(rms(x, y) for y, patient in zip(whole, train.patients, strict=True) if patient != own)
        for x, own in zip(both, owners, strict=True)
    ])  # fmt: skip
    scores = {"relative": ratio(to_made, to_train), "distance": to_made, "control": to_train}
    if judged:
        logits = [
            audit._discriminate(evaluation, train, HELD.members),
            audit._discriminate(evaluation, test, HELD.non_members),
        ]
        scores["discriminator"] = -np.concatenate(logits)
    assert (found.pop("pairs"), found.pop("level")) == (3, LEVEL)
    assert found.pop("leaks") is False
    assert found.keys() == scores.keys()
    for name, values in scores.items():
        expected = membership(values[:3], values[3:], drawn("membership", name))
        assert found[name]["p"] == expected["p"] and found[name]["auc"] == expected["auc"]
        assert found[name]["interval"] == pytest.approx(expected["interval"])
    assert [(what, n) for what, n, _ in shown.passes] == [("membership", 7)]


@pytest.mark.parametrize(
    ("p", "control", "leaks"),
    [(LEVEL, (0.4, 0.6), True), (LEVEL + 1e-9, (0.4, 0.6), False), (0.01, (0.51, 0.6), False)],
)
def test_membership_leaks_where_relative_distances_tell_and_the_control_does_not(
    p: float, control: tuple[float, float], leaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"auc": 0.9, "interval": control, "p": p}
    monkeypatch.setattr(audit, "membership", lambda *_: found)
    evaluation = made_evaluation()
    embed, images = spaces(evaluation)["pixels"], pictures(5, 6)
    said = audit._membership(evaluation, embed, images, HELD, 9, Shown())  # type: ignore[arg-type]
    assert said["leaks"] is leaks
    none = HeldOut(HELD.rows, HELD.non_members[:0], HELD.members[:0])
    said = audit._membership(evaluation, embed, images, none, 9, Shown())  # type: ignore[arg-type]
    assert said == {"pairs": 0}


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_discriminator_judges_real_images_with_their_labels(
    conditional: bool, training: bool
) -> None:
    evaluation = made_evaluation(conditional)
    evaluation.judge.train(training)
    rows = np.array([6, 0, 3, 2, 1])
    found = audit._discriminate(evaluation, evaluation.train, rows)
    images = evaluation.train.images[torch.from_numpy(rows)].double() / 255 * 1.5 - 0.5
    expected = images.mean(dim=(1, 2)) + images[:, 0, 0]
    if conditional:
        labels = torch.from_numpy(evaluation.train.label_matrix[rows]).double()
        told = evaluation.train.encoded(["age"])[torch.from_numpy(rows)].double()
        expected += torch.cat([labels, told], 1) @ torch.arange(1.0, 6.0).double()
    assert found.dtype == np.float64
    assert found == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-4)
    assert evaluation.judge.modes == [False, False]  # three images, and two
    assert evaluation.judge.training is training


def test_logits_that_are_no_numbers_are_refused() -> None:
    evaluation = made_evaluation()
    evaluation.judge.forward = lambda images: images[:, 0, 0, 0] * math.nan
    with pytest.raises(
        UserError, match=r"^the discriminator's .* are not finite; audit another --checkpoint$"
    ):
        audit._discriminate(evaluation, evaluation.train, np.array([0, 1]))


# -- what is written -------------------------------------------------------------------------------


def test_the_protocol_says_what_was_compared() -> None:
    assert audit.protocol(made_evaluation(), HELD, 6, 9) == {
        "dataset": "phantom",
        "training_images": 7,
        "training_patients": 5,
        "held_out_images": 4,
        "held_out": "test images with the labels of a training image, one a patient",
        "generated": 6,
        "seed": 9,
        "pixels": "greys in [0, 1] of 64 x 64 averaged to 32 x 32, RMS difference",
        "neighbours": 4,
        "tail": 0.01,
        "level": 0.05,
        "bootstrap": 1000,
        "permutations": 9999,
        "confidence": 0.95,
    }


@pytest.mark.parametrize(
    ("trained", "differs", "said"),
    [
        (None, [], {}),
        ("f", [], {}),
        ("g", [], {"trained_on_fingerprint": "g"}),
        ("g", ["more"], {"trained_on_fingerprint": "g", "data_differs": ["more"]}),
    ],
)
def test_the_data_are_said_and_how_they_differ(
    trained: str | None, differs: list[str], said: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "trained_on", lambda place: {"here": trained}[place])
    session: Any = SimpleNamespace(data=SimpleNamespace(fingerprint="f"), differs=differs)
    assert audit._data(session, "here") == {"fingerprint": "f", **said}  # type: ignore[arg-type]


def compared() -> dict[str, Compared]:
    """Three generated images, the second of which is flagged, and two held-out ones."""
    made = Neighbours(
        np.array([[0.4, 0.5], [0.1, 0.5], [0.3, 0.5]]), np.array([[6, 1], [2, 3], [4, 5]])
    )
    held = Neighbours(np.array([[0.45, 0.5], [0.35, 0.5]]), np.array([[0, 1], [1, 2]]))
    return {"pixels": Compared(made, held, {}, np.array([False, True, False]))}


def test_pairs_are_listed_the_relatively_nearest_first() -> None:
    found = audit._pairs(compared(), made_evaluation())
    assert found == [
        {
            "space": "pixels",
            "generated": f"00000{i}.png",
            "training": f"1/{row}.png",
            "distance": far,
            "relative_distance": far / 0.5,
            "flagged": i == 1,
        }
        for i, row, far in ((1, 2, 0.1), (2, 4, 0.3), (0, 6, 0.4))
    ]


def test_pairs_are_listed_space_by_space_and_in_their_order_where_they_are_alike() -> None:
    random = np.random.default_rng(0)
    first = random.integers(1, 3, 64) / 4  # half of them are alike
    near = Neighbours(np.stack([first, np.ones(64)], 1), np.zeros((64, 2), dtype=np.int64))
    one = Compared(near, near, {}, np.zeros(64, dtype=bool))
    found = audit._pairs({"pixels": one, "features": one}, made_evaluation())
    order = [*np.flatnonzero(first == 0.25), *np.flatnonzero(first == 0.5)]
    expected = [(space, f"{i:06d}.png") for space in ("pixels", "features") for i in order]
    assert [(pair["space"], pair["generated"]) for pair in found] == expected
    shown = closest_pairs(first, np.arange(64))
    assert shown.tolist() == order[:16]


def test_panels_show_the_closest_pairs() -> None:
    evaluation, images = made_evaluation(), pictures(5, 3)
    held = HeldOut(np.array([3, 1]), HELD.non_members, HELD.members)
    (made_title, made), (held_title, real) = audit._panels(compared(), evaluation, images, held)
    assert made_title == "generated | nearest training image, in pixels"
    assert held_title == "held out | nearest training image, in pixels"
    assert [cell[2:] for cell in made] == [("0.20", True), ("0.60", False), ("0.80", False)]
    assert [cell[2:] for cell in real] == [("0.70", False), ("0.90", False)]
    train, test = evaluation.train.images, evaluation.test.images
    for (ours, theirs, *_), i, row in zip(made, (1, 2, 0), (2, 4, 6), strict=True):
        grey = (images[i].double() / 127.5 - 1 - RANGE[0]) / 1.5  # below black is black
        assert ours.dtype == np.uint8
        assert np.abs(ours - (grey.clamp(0, 1) * 255).numpy()).max() <= 0.51
        assert np.abs(theirs.astype(int) - train[row].numpy()).max() <= 1
    for (ours, theirs, *_), i, row in zip(real, (1, 3), (1, 0), strict=True):
        assert np.abs(ours.astype(int) - test[i].numpy()).max() <= 1
        assert np.abs(theirs.astype(int) - train[row].numpy()).max() <= 1
    assert relative(compared()["pixels"].generated) == pytest.approx([0.8, 0.2, 0.6])


def test_a_panel_shows_a_training_image_once() -> None:
    """The nearest one; which of them is the second nearest does not matter."""
    far = np.array([[0.4, 0.5], [0.1, 0.5], [0.3, 0.5]])
    near = Neighbours(far, np.array([[6, 1], [6, 3], [4, 2]]))
    space = {"pixels": Compared(near, near, {}, np.zeros(3, dtype=bool))}
    held = HeldOut(np.array([3, 1, 2]), HELD.non_members, HELD.members)
    for _, cells in audit._panels(space, made_evaluation(), pictures(5, 3), held):
        assert [cell[2] for cell in cells] == ["0.20", "0.60"]


def test_what_is_beyond_white_is_white() -> None:
    """Where real images' white is grey to a generator."""
    evaluation, images = made_evaluation(), torch.full((3, 64, 64), 255, dtype=torch.uint8)
    evaluation.recipe.tables.data.value_range = (-1.0, 0.0)
    held = HeldOut(np.array([3, 1]), HELD.non_members, HELD.members)
    (_, made), _ = audit._panels(compared(), evaluation, images, held)
    assert all((ours == 255).all() for ours, *_ in made)


def test_a_picture_has_room_for_so_many() -> None:
    found = closest_pairs(np.arange(40.0)[::-1], np.arange(40))
    assert found.tolist() == [*range(39, 23, -1)]
    same = closest_pairs(np.array([0.5, 0.5, 0.1]), np.array([3, 2, 3]))
    assert same.tolist() == [2, 1]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trained run, of which the audit asks what it needs."""
    evaluation, images = made_evaluation(), pictures(5, 6)

    def sampled(of: Any, count: int, name: None, seed: int, display: Any) -> Any:
        assert (of, name, seed, display.passes) == (made, None, 9, [])
        return SimpleNamespace(images=images[:count]), None

    def written(panels: list) -> bytes:
        return f"{len(panels)} panels, {panels[0][0]}".encode()

    monkeypatch.setattr(audit, "sample_images", sampled)
    monkeypatch.setattr(audit, "trained_on", lambda place: {tmp_path: "g"}[place.path])
    monkeypatch.setattr("xraygan.audit.figure.draw_pairs", written)
    made = SimpleNamespace(
        graph=evaluation.graph,
        evaluation=lambda split: {"test": evaluation}[split],
        data=SimpleNamespace(fingerprint="f"),
        differs=["other pixels"],
    )
    return made


def test_an_audit_is_written_whole_and_its_use_of_the_data_noted(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, uses, shown = RunDirectory(tmp_path), [], Shown()
    (tmp_path / "audit.json").write_text("of before")
    monkeypatch.setattr(audit, "note_use", lambda *given: uses.append(given))
    found = audit.audit(session, place, 7, 5, 9, shown)  # type: ignore[arg-type]
    assert (tmp_path / "audit.json").read_text() == as_json(found)
    assert (tmp_path / "audit.png").read_bytes() == (
        b"4 panels, generated | nearest training image, in pixels"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.json", "audit.png"]
    assert uses == [(place, 7, session.data, ["other pixels"])]

    evaluation = session.evaluation("test")
    images = pictures(5, 6)[:5]
    held = HeldOut.draw(evaluation.train, evaluation.test, drawn("held-out"))
    quiet: Any = Shown()
    there = compare(evaluation, spaces(evaluation), images, held, 9, quiet)
    who = audit._membership(evaluation, spaces(evaluation)["pixels"], images, held, 9, quiet)
    alike = measure_resemblance(evaluation, images, held, quiet)
    assert found == {
        **verdict(there, who, alike),
        "step": 7,
        "xraygan": __version__,
        "protocol": {
            **audit.protocol(evaluation, held, 5, 9),
            "fingerprint": "f",
            "trained_on_fingerprint": "g",
            "data_differs": ["other pixels"],
        },
        "copies": {name: one.figures for name, one in there.items()},
        "membership": who,
        "resemblance": alike,
        "notes": notes(there, who, alike, "g", "f", ["other pixels"]),
        "nearest": audit._pairs(there, evaluation),
    }
    assert "these are not the images of the training: other pixels" in found["notes"]
    assert [what for what, *_ in shown.passes] == [what for what, *_ in quiet.passes]


@pytest.mark.parametrize(
    ("trained", "said"), [("f", []), ("g", ["differs"]), (None, ["is unknown"])]
)
def test_an_audit_notes_data_that_may_be_others_than_those_of_the_training(
    trained: str | None,
    said: list[str],
    session: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "trained_on", lambda place: trained)
    monkeypatch.setattr(audit, "note_use", lambda *given: None)
    session.differs = []
    found = audit.audit(session, RunDirectory(tmp_path), 7, 6, 9, Shown())  # type: ignore[arg-type]
    about = [note for note in found["notes"] if "fingerprint" in note]
    assert about == [
        "it is not known whether these are the images of the training: the fingerprint in "
        f"environment.json {how}"
        for how in said
    ]


def test_a_former_audit_is_gone_before_a_new_picture_is_there(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be killed between the two files, and the figures would be of other images."""
    (tmp_path / "audit.json").write_text("of before")

    def killed(self: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(UserError, match="cannot be written"):
        audit.audit(session, RunDirectory(tmp_path), 7, 6, 9, Shown())  # type: ignore[arg-type]
    assert not (tmp_path / "audit.json").exists()


def test_what_cannot_be_audited_or_written_is_said(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit, "write_together", full)
    place = RunDirectory(tmp_path)
    said = f"^{tmp_path}: cannot be written \\(No space left on device\\)$"
    with pytest.raises(UserError, match=said):
        audit.audit(session, place, 7, 6, 9, Shown())  # type: ignore[arg-type]
    del session.graph.networks["generator"]
    with pytest.raises(UserError, match=f"^{tmp_path}: the run has no generator, so it cannot"):
        audit.audit(session, place, 7, 6, 9, Shown())  # type: ignore[arg-type]


# -- draws -----------------------------------------------------------------------------------------


def test_no_more_images_are_held_out_than_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST", 3)
    train, test = split(1, list("abcdef"), [0, 0, 1, 1, 2, 2]), split(2, list("pqrst"), [0] * 5)
    held = HeldOut.draw(train, test, np.random.default_rng(0))
    assert len(held.rows) == 3 and held.rows.dtype == np.int64
    # Two training images of the label: the third has no fellow.
    assert held.non_members.tolist() == held.rows.tolist()[:2] and set(held.members) == {0, 1}
    lonely = HeldOut.draw(train, split(2, ["p"], [1]), np.random.default_rng(0))
    assert (lonely.rows.tolist(), lonely.non_members.tolist()) == ([0], [0]) and lonely.members[
        0
    ] in (2, 3)


def test_without_a_test_image_to_hold_out_it_is_said_what_to_do() -> None:
    said = (
        r"^\[data\]: no test image has the labels of a training image\. .* give the dataset a test "
        "split with the same classes$"
    )
    with pytest.raises(UserError, match=said):
        HeldOut.draw(split(1, ["a"], [0]), split(2, ["p"], [1]), np.random.default_rng(0))


def test_held_out_images_without_a_partner_are_no_pairs() -> None:
    """The one image that is drawn of the patient may be the one with other labels."""
    train, test, counts = split(1, ["a", "a"], [0, 1]), split(2, ["p"], [0]), set()
    for seed in range(20):
        held = HeldOut.draw(train, test, np.random.default_rng(seed))
        assert held.members.dtype == held.non_members.dtype == np.int64  # they index, also none
        assert held.rows.tolist() == [0] and held.members.tolist() in ([], [0])
        counts.add((len(held.members), len(held.non_members)))
    assert counts == {(0, 0), (1, 1)}


def test_images_of_a_patient_are_drawn_at_random() -> None:
    found, orders = set(), set()
    for seed in range(40):
        rows = held_out._one_a_patient(split(1, list("aaabb")), np.random.default_rng(seed))
        assert sorted(row > 2 for row in rows) == [False, True]
        found |= {*rows.tolist()}
        orders.add(bool(rows[0] > 2))
    assert found == {0, 1, 2, 3, 4} and orders == {False, True}


def test_each_purpose_has_a_stream_of_its_own() -> None:
    found = audit.random_source(9, "membership", "control").random(3).tolist()
    assert found == drawn("membership", "control").random(3).tolist()
    assert found != drawn("membership", "distance").random(3).tolist()


# -- statistics ------------------------------------------------------------------------------------


def test_figures_of_copies_are_those_of_their_definitions() -> None:
    """Of distances with a clear threshold: one in a hundred of 250 held-out images, the second."""
    real = np.stack([np.linspace(0.5, 0.9, 250), np.ones(250)], 1)
    fake = np.stack([[0.1, 0.2, 0.3, 0.501, 0.6, 0.7], np.ones(6)], 1) * 2
    rows = np.stack([[0, 0, 1, 2, 3, 4], [5, 6, 5, 6, 5, 6]], 1)
    held = Neighbours(real, np.arange(250)[:, None].repeat(2, 1))
    found, flagged = flag_copies(Neighbours(fake, rows), held, 0.05, np.random.default_rng(0))
    assert flagged.tolist() == [True] * 4 + [False] * 2
    assert (found["flagged"], found["rank"], found["level"]) == (4, 2, 0.05)
    assert found["expected"] == pytest.approx(6 * 2 / 251)
    assert found["threshold"] == pytest.approx(0.5 + 0.4 / 249)
    assert found["p"] == pytest.approx(chance_of_flags(4, 6, 250, 2))
    assert found["needed"] == next(n for n in range(7) if chance_of_flags(n, 6, 250, 2) <= 0.05)
    assert found["copies"] is True
    assert found["share"]["value"] == pytest.approx(4 / 6)
    assert found["distance"]["generated"]["q00"] == pytest.approx(0.2)
    assert found["distance"]["held_out"]["q50"] == pytest.approx(0.7)
    assert found["relative_distance"]["generated"] == pytest.approx(
        {q: np.quantile(fake[:, 0] / 2, v)
         for q, v in (("q00", 0), ("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9))}
    )  # fmt: skip
    assert found["relative_distance"]["held_out"]["q90"] == pytest.approx(0.86)
    assert found["nearer"]["auc"] == pytest.approx(auc(fake[:, 0], real[:, 0]))
    assert found["relatively_nearer"]["auc"] == pytest.approx(auc(fake[:, 0] / 2, real[:, 0]))
    assert found["nearer"]["auc"] != found["relatively_nearer"]["auc"]
    # Five groups, of which one has two images.
    again = np.random.default_rng(0)
    resamples = memorization.resample(
        lambda x: float(x.mean()), again, flagged, groups=np.array([0, 0, 1, 2, 3, 4])
    )
    variance = bootstrap_variance(resamples, 4)  # 6^2 / (2^2 + 4) = 4.5 groups
    assert found["share"]["interval"] == share_interval(4 / 6, variance, 4)
    for name, ours, theirs in (("nearer", 0, 0), ("relatively_nearer", 1, 1)):
        x, y = (relative(Neighbours(d, d)) if ours else d[:, 0] for d in (fake, real))
        assert found[name] == auc_with_interval(auc, again, x, y, groups=rows[:, 0]), theirs


def test_a_claim_of_copies_needs_both_its_grounds(monkeypatch: pytest.MonkeyPatch) -> None:
    real = np.stack([np.linspace(0.5, 0.9, 250), np.ones(250)], 1)
    held = Neighbours(real, np.arange(250)[:, None].repeat(2, 1))
    fake = np.stack([[0.1, 0.2, 0.3, 0.4, 0.6, 0.7], np.ones(6)], 1)
    made = Neighbours(fake, np.arange(6)[:, None].repeat(2, 1))
    p = chance_of_flags(4, 6, 250, 2)
    expected = 2 / 251
    for level, low, called in ((p, 0.5, True), (p * 0.99, 0.5, False), (p, expected, False)):
        monkeypatch.setattr(
            memorization, "resample", lambda *_, low=low, **__: np.array([low] * 2 + [0.9] * 38)
        )
        found, _ = flag_copies(made, held, level, np.random.default_rng(0))
        assert found["copies"] is called, (level, low)
    for count in (4, 6):  # so many are enough at a level that they just reach, be it all
        level = chance_of_flags(count, 6, 250, 2)
        found, _ = flag_copies(made, held, level, np.random.default_rng(0))
        assert found["needed"] == count


def test_what_a_grouped_share_varies_by_is_counted_in_groups() -> None:
    assert memorization._effective_groups(np.array([0, 0, 1, 2, 3, 4])) == 4
    assert memorization._effective_groups(np.zeros(9, dtype=int)) == 1
    assert memorization._effective_groups(np.arange(9)) == 9


def test_images_of_a_group_are_drawn_together() -> None:
    random = np.random.default_rng(0)
    together, counts, sizes = np.array([0, 1, 1, 2]), [], set()

    def note(x: np.ndarray, y: np.ndarray) -> float:
        counts.append([(x == value).sum() for value in (1, 2, 3, 4)])
        sizes.add(len(y))
        return float(x.sum())

    x, y = np.array([1, 2, 3, 4]), np.arange(5)
    found = memorization.resample(note, random, x, y, groups=together)
    assert len(found) == 40 and sizes == {5}
    assert all(b == c and a + b + d == 3 for a, b, c, d in counts)
    assert {b for _, b, _, _ in counts} >= {0, 1, 2}
    assert found.tolist() == [a + 5 * b + 4 * d for a, b, _, d in counts]
    alone = memorization.resample(lambda x: float(x[0] + len(x)), random, x)
    assert {*alone.tolist()} <= {5.0, 6.0, 7.0, 8.0} and len({*alone.tolist()}) > 1


def test_the_interval_of_pairs_is_over_pairs() -> None:
    random = np.random.default_rng(0)
    seen, unseen = random.normal(size=(2, 12))
    seen -= 1
    found = membership(seen, unseen, np.random.default_rng(1))
    again = np.random.default_rng(1)
    draws = []
    for _ in range(40):
        picked = np.repeat(np.arange(12), np.bincount(again.integers(12, size=12), minlength=12))
        draws.append(auc(seen[picked], unseen[picked]))
    value = auc(seen, unseen)
    assert found["auc"] == value
    interval = auc_interval(value, bootstrap_variance(np.array(draws), 12), 12, 12)
    assert found["interval"] == pytest.approx(interval)


def test_a_p_of_swaps_counts_what_was_measured_too() -> None:
    """1 where both are alike, and never 0."""
    alike = np.arange(6.0)
    assert permutation_p_value(alike, alike, np.random.default_rng(0)) == 1.0
    assert permutation_p_value(alike - 100, alike, np.random.default_rng(0)) == pytest.approx(
        1 / 40, abs=2 / 40
    )
    assert permutation_p_value(np.arange(30.0) - 100, np.arange(30.0), drawn("a")) == 1 / 40


def test_a_measured_auc_counts_the_smaller_sample() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=9) - 1, random.normal(size=30)
    for ours, theirs, m, n in ((x, y, 9, 30), (y, x, 30, 9)):
        found = auc_with_interval(auc, np.random.default_rng(3), ours, theirs)
        resamples = memorization.resample(auc, np.random.default_rng(3), ours, theirs)
        variance = bootstrap_variance(resamples, 9)
        assert found == {"auc": auc(ours, theirs), "interval": auc_interval(
            auc(ours, theirs), variance, m, n)}  # fmt: skip
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    found = auc_with_interval(auc, np.random.default_rng(3), x, y, groups=groups)
    resamples = memorization.resample(auc, np.random.default_rng(3), x, y, groups=groups)
    expected = auc_interval(auc(x, y), bootstrap_variance(resamples, 3), 3, 30)
    assert found["interval"] == expected


def test_unlike_the_data_is_below_half_the_median_of_held_out_images() -> None:
    found = resemblance(np.array([0.1, 0.3, 0.29, 0.9]), np.array([0.5, 0.6, 0.9]))
    assert found["threshold"] == pytest.approx(0.3)
    assert (found["generated"], found["unlike"], found["share"]) == (4, 2, 0.5)
    assert found["correlation"]["generated"]["q50"] == pytest.approx(0.295)
    assert found["correlation"]["held_out"]["q50"] == pytest.approx(0.6)


@pytest.mark.parametrize(("above", "below", "found"), [(0, 0, 1), (0, 2, 0), (1, 2, 0.5)])
def test_a_ratio_of_nothing_to_nothing_is_one(above: float, below: float, found: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ratio(np.array([above]), np.array([below])).tolist() == [found]
        assert ratio(np.array([1.0]), np.array([0.0])).tolist() == [math.inf]


# -- words -----------------------------------------------------------------------------------------


def space(count: int = 20, held: int = 150, **figures: Any) -> Compared:
    figures = {"flagged": 2, "expected": 0.4, "needed": 3, "p": 0.3, "level": 0.025,
               "copies": False, **figures}  # fmt: skip
    nothing = Neighbours(np.zeros((held, 1)), np.zeros((held, 1), dtype=int))
    return Compared(nothing, nothing, figures, np.zeros(count, dtype=bool))


def members(**figures: Any) -> dict[str, Any]:
    control = {"interval": (0.4, 0.6), "auc": 0.51}
    return {"pairs": 30, "leaks": False, "relative": {"auc": 0.5123}, "control": control, **figures}


ALIKE = {"share": 0.1, "unlike": 2, "generated": 20, "threshold": 0.4}
MANY = "2 of 20 generated images are flagged in pixels; about 0 fresh images would be"
TELLS = "distances separate training from held-out images with an AUC of 0.512"
UNLIKE = (
    "12 of 20 generated images do not resemble the data: their correlation with the most similar "
    "training image is below 0.40, half that of a held-out image"
)


@pytest.mark.parametrize(
    ("changed", "who", "alike", "word", "says"),
    [
        ({}, members(), ALIKE, "none", f"NO COPYING FOUND: {MANY}; {TELLS}"),
        ({}, {"pairs": 0}, ALIKE, "none", f"NO COPYING FOUND: {MANY}"),
        ({"copies": True}, members(leaks=True), ALIKE, "copies", f"COPIES TRAINING IMAGES: {MANY}"),
        (
            {},
            members(leaks=True),
            {**ALIKE, "share": 0.6},
            "leaks",
            f"LEAKS MEMBERSHIP: {TELLS}; {MANY}",
        ),
        ({}, members(), {**ALIKE, "share": 0.6, "unlike": 12}, "unlike", f"INCONCLUSIVE: {UNLIKE}"),
        ({}, members(), {**ALIKE, "share": 0.5}, "none", f"NO COPYING FOUND: {MANY}; {TELLS}"),
        (
            {"needed": None},
            members(),
            ALIKE,
            "few",
            f"INCONCLUSIVE: too few images to distinguish any number of copies from chance; {MANY}",
        ),
    ],
)
def test_the_verdict(changed: dict, who: dict, alike: dict, word: str, says: str) -> None:
    assert verdict({"pixels": space(**changed)}, who, alike) == {"verdict": word, "says": says}


def test_the_verdict_is_of_all_spaces_and_names_the_one_that_tells_most() -> None:
    spaces = {"features": space(p=0.4, flagged=1), "pixels": space(p=0.3)}
    assert verdict(spaces, members(), ALIKE)["says"].startswith(f"NO COPYING FOUND: {MANY}")
    spaces = {"features": space(p=0.4, copies=True), "pixels": space()}
    assert verdict(spaces, members(), ALIKE)["verdict"] == "copies"
    spaces = {"features": space(p=0.4, needed=None), "pixels": space()}
    assert verdict(spaces, members(), ALIKE)["verdict"] == "none"


def noted(found: dict[str, Compared], who: dict, alike: dict = ALIKE, **more: Any) -> list[str]:
    return notes(found, who, alike, **{"trained_on": "f", "fingerprint": "f", **more})


def test_where_all_is_well_nothing_is_noted() -> None:
    assert noted({"pixels": space()}, members()) == []


def test_notes_of_data_that_are_not_those_of_the_training() -> None:
    cannot = "it is not known whether these are the images of the training: the fingerprint in "
    found = {"pixels": space()}
    assert noted(found, members(), trained_on=None) == [f"{cannot}environment.json is unknown"]
    assert noted(found, members(), trained_on="g") == [f"{cannot}environment.json differs"]
    assert noted(found, members(), trained_on="g", differs=["a", "b"]) == [
        "these are not the images of the training: a",
        "these are not the images of the training: b",
    ]


def test_notes_of_figures_that_tell_little() -> None:
    unlike = {**ALIKE, "share": 0.11, "unlike": 12}
    assert noted({"pixels": space()}, members(), unlike) == [
        f"{UNLIKE}; the audit shows nothing about these images"
    ]
    chance = "in pixels more images are flagged than chance explains, but they are near to so few"
    for changed, said in (({}, 1), ({"p": 0.026}, 0), ({"copies": True}, 0)):
        found = noted({"pixels": space(**{"p": 0.025, **changed})}, members())
        assert [note.startswith(chance) for note in found] == [True] * said
        assert all(note.endswith(": look at audit.png") for note in found)
    assert noted({"pixels": space()}, {"pairs": 0}) == [
        "no membership: no held-out image has the same labels as a training image"
    ]
    for interval, said in (((0.5, 0.6), 0), ((0.4, 0.5), 0), ((0.51, 0.6), 1), ((0.4, 0.49), 1)):
        who = members(control={"interval": interval, "auc": 0.5554})
        found = noted({"pixels": space()}, who)
        assert len(found) == said
        assert all("any generator (membership control, AUC 0.555): member" in n for n in found)
        assert all(n.endswith(" does not enter the verdict") for n in found)


def test_notes_of_too_few_images() -> None:
    for pairs, said in (
        (4, ["with 4 pairs no membership could be distinguished from chance"]),
        (5, []),
    ):  # 1 / 32 is below 0.05
        assert noted({"pixels": space()}, members(pairs=pairs)) == said
    none = "with 20 generated and 150 held-out images no number of copies in pixels could be "
    assert noted({"pixels": space(needed=None)}, members()) == [f"{none}distinguished from chance"]
    assert noted({"pixels": space(held=99)}, members()) == []
    assert noted({"pixels": space(held=98)}, members()) == [
        "only 98 images are held out: 2.0% of fresh images are flagged in pixels by chance, and "
        "fewer than 3 copies among 20 generated images (15.0%) could not be distinguished from "
        "chance"
    ]
