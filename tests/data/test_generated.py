"""Generated images as training images: which are taken, when they are drawn, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xraygan import UserError
from xraygan.data.datamodule import ImageData, prepare
from xraygan.data.image_splits import JoinedImages, StoredImages
from xraygan.errors import RecipeError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir import checkpoint
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session, restore_session
from xraygan.training.engine import run
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display
from xraygan.utils.signals import Interrupted

#: real images of each class and split; generated images of each class
REAL = {"train": {"Mass": 12, "Edema": 8}, "test": {"Mass": 3, "Edema": 3}}
GENERATED = {"Mass": 30, "Edema": 20}


def write(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), grey, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Real images of greys 1 to 26 below real/, generated ones of greys 100 to 149."""
    rows, grey = ["path,label,patient,split"], 0
    for split, classes in REAL.items():
        for name, count in classes.items():
            for i in range(count):
                grey += 1
                write(tmp_path / "real" / f"{split}-{name}-{i}.png", grey)
                rows.append(f"{split}-{name}-{i}.png,{name},{grey},{split}")
    (tmp_path / "real" / "images.csv").write_text("\n".join(rows) + "\n")
    rows, grey = ["path,label"], 99
    for name, count in GENERATED.items():
        for i in range(count):
            grey += 1
            write(tmp_path / "made" / f"{name}-{i}.png", grey)
            rows.append(f"{name}-{i}.png,{name}")
    (tmp_path / "made" / "generated.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def recipe(folder: Path, *sets: str, name: str = "recipe.toml") -> Recipe:
    text = (
        "metrics = { auc = {} }\n"
        '[run]\nsteps = 8\nbatch_size = 4\ndevice = "cpu"\nprecision = "fp32"\n'
        f'[data]\nplugin = "csv"\nroot = "{folder / "real"}"\nimage_size = 16\n'
        f'cache = "{folder / "cache"}"\n'
        f'generated.table = "{folder / "made" / "generated.csv"}"\n'
        '[classifier]\nplugin = "resnet18"\nweights = "random"\n'
        "[evaluation]\nbootstrap = 10\n"
    )
    (folder / name).write_text(text)
    return load(folder / name, sets)


def taken(data: ImageData) -> Counter[str]:
    assert data.generated is not None
    return Counter(path.split("-")[0] for path in data.generated.split.paths)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1, 2.5])
def test_each_class_has_the_ratio_of_its_real_images(folder: Path, ratio: float) -> None:
    data = prepare(recipe(folder, f"data.generated.ratio={ratio}"))
    assert taken(data) == {"Mass": round(12 * ratio), "Edema": round(8 * ratio)}
    assert len(data.splits["train"]) == 20  # which stay the real ones
    assert data.generated is not None
    assert len(set(data.generated.split.patients)) == len(data.generated.split)


def test_the_limit_counts_real_images_alone(folder: Path) -> None:
    data = prepare(recipe(folder, "data.limit=5", "data.generated.ratio=2"))
    assert len(data.splits["train"]) == 10 and taken(data) == {"Mass": 10, "Edema": 10}


def test_a_smaller_ratio_takes_some_of_a_larger_ones_images_and_a_seed_others(folder: Path) -> None:
    def paths(*sets: str) -> set[str]:
        data = prepare(recipe(folder, *sets))
        assert data.generated is not None
        return set(data.generated.split.paths)

    assert paths("data.generated.ratio=0.5") < paths("data.generated.ratio=2")
    assert paths("run.seed=1") != paths("run.seed=2")
    assert paths("run.seed=1") == paths("run.seed=1")


def batches(folder: Path, *sets: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The greys ``(N,)`` and labels ``(N,)`` of each step's batch, as the trainer draws them."""
    session = Session.of(recipe(folder, *sets), Display(quiet=True))
    trainer = Trainer(session, RunDirectory(folder / "run"), Display(quiet=True))
    found = []
    for step in range(trainer.total):
        images, labels, metadata = trainer.source.batches.batch(step)
        assert images.shape == (4, 1, 16, 16) and not metadata["sex"].isfinite().any()
        found.append((((images[:, 0, 0, 0] + 1) * 127.5).round().numpy(), labels.numpy()))
    return found


def test_labels_belong_to_their_images(folder: Path) -> None:
    for greys, labels in batches(folder, "run.steps=20"):
        # real Mass 1 to 12, Edema 13 to 20; generated Mass 100 to 129, Edema 130 to 149;
        # the classes are in alphabetical order
        mass = (greys <= 12) | ((greys >= 100) & (greys < 130))
        np.testing.assert_array_equal(labels, mass.astype(int))


def test_beside_draws_each_image_once_an_epoch(folder: Path) -> None:
    sets = ("data.generated.ratio=1", "run.steps=20")  # two epochs of 40 images
    greys = np.concatenate([greys for greys, _ in batches(folder, *sets)])
    for epoch in (greys[:40], greys[40:]):
        assert len({*epoch}) == 40 and (epoch >= 100).sum() == 20


def test_before_draws_generated_images_first_and_real_ones_then(folder: Path) -> None:
    sets = ("data.generated.use=before", "data.generated.share=0.25", "run.steps=40")
    steps = [greys for greys, _ in batches(folder, *sets)]
    assert all((greys >= 100).all() for greys in steps[:10])
    assert all((greys <= 20).all() for greys in steps[10:])
    assert {*np.concatenate(steps[10:15])} == {*range(1, 21)}  # one epoch


def test_instead_draws_no_real_image(folder: Path) -> None:
    assert all((greys >= 100).all() for greys, _ in batches(folder, "data.generated.use=instead"))


def test_balanced_sampling_balances_each_period(folder: Path) -> None:
    sets = ("data.generated.use=before", "data.sampling=balanced", "run.steps=400")
    labels = np.stack([labels for _, labels in batches(folder, *sets)])
    for period in (labels[:200], labels[200:]):
        assert abs(period.mean() - 0.5) < 0.06  # 0.6 of the images are Mass


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=30),
)
def test_joined_images_are_those_of_both(sizes: tuple[int, int], rows: list[int]) -> None:
    first, second = (
        StoredImages(
            torch.randint(256, (n, 2, 2), generator=torch.Generator().manual_seed(n)).byte(),
            torch.arange(n).flip(0),
        )
        for n in sizes
    )
    joined, all_images = JoinedImages(first, second), torch.cat([first[:], second[:]])
    index = torch.tensor(rows) % sum(sizes)
    assert len(joined) == len(all_images) and joined.nbytes == all_images.nbytes
    assert joined[index].equal(all_images[index])
    assert joined.to(torch.device("cpu")).equal(all_images)


def duplicate(folder: Path) -> None:
    table = folder / "made" / "generated.csv"
    table.write_text(table.read_text() + "Mass-0.png,Mass\n")


def misspell(folder: Path) -> None:
    table = folder / "made" / "generated.csv"
    table.write_text(table.read_text().replace("Edema-3.png,Edema", "Edema-3.png,Edemma"))


def copy_a_test_image(folder: Path) -> None:
    copied = folder / "real" / "test-Mass-1.png"
    (folder / "made" / "Mass-7.png").write_bytes(copied.read_bytes())


def damage(folder: Path) -> None:
    (folder / "made" / "Mass-5.png").write_bytes(b"no image")


def damage_all(folder: Path) -> None:
    for path in (folder / "made").glob("*.png"):
        path.write_bytes(b"no image")


def leave_only_the_header(folder: Path) -> None:
    (folder / "made" / "generated.csv").write_text("path,label\n")


FAULTS: dict[str, tuple[Callable[[Path], None] | None, tuple[str, ...], str]] = {
    "twice": (duplicate, (), "line 52 (Mass-0.png): this image has a row above"),
    "label": (misspell, (), "'Edemma' is no class of the dataset; did you mean 'Edema'"),
    "measured": (
        copy_a_test_image,
        (),
        "1 of its images are images that will be measured",
    ),
    "unreadable": (damage, (), "[data.generated] 1 of 50 images cannot be read"),
    "none readable": (
        damage_all,
        ("data.on_bad_image=skip",),
        "generated.csv: none of its 50 images can be read:",
    ),
    "none": (leave_only_the_header, (), "generated.csv: no image to learn from: the table has no"),
    "few": (None, ("data.generated.ratio=3",), "20 images of Edema for 8 real ones, and ratio ="),
    "batch": (
        None,
        ("data.generated.ratio=0.1", "data.generated.use=instead"),
        "takes 2 images, fewer than [run] batch_size = 4",
    ),
    "table": (None, ("data.generated.table=nowhere.csv",), "nowhere.csv"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(folder: Path, fault: str) -> None:
    change, sets, message = FAULTS[fault]
    if change:
        change(folder)
    with pytest.raises(UserError) as raised:
        prepare(recipe(folder, *sets))
    assert message in str(raised.value)


def test_unreadable_images_can_be_left_out(folder: Path) -> None:
    damage(folder)
    data = prepare(recipe(folder, "data.on_bad_image=skip", "data.generated.ratio=2"))
    assert data.generated is not None
    assert data.generated.left_out == {"images that cannot be read": 1}
    assert "Mass-5.png" not in data.generated.split.paths


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ("generator.plugin=dcgan", "discriminator.plugin=dcgan", "objective.plugin=minmax"),
            "[data] generated: these images are for a classifier",
        ),
        (("data.generated.ratio=0",), "ratio"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(
    folder: Path, sets: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe(folder, *sets)
    assert message in str(raised.value)


def test_epochs_are_refused(folder: Path) -> None:
    recipe(folder)
    text = (folder / "recipe.toml").read_text().replace("steps = 8", "epochs = 2")
    (folder / "epochs.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"set run\.steps instead"):
        load(folder / "epochs.toml")


def weights(run_dir: Path) -> dict[str, str]:
    newest = checkpoint.latest(run_dir / "checkpoints")
    assert newest is not None and newest.step == 8
    return newest.manifest.files


def test_a_killed_run_resumes_to_the_same_bits_across_the_periods(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(folder, "data.generated.use=before")
    run(chosen, folder / "whole", display=Display(quiet=True))
    step = Trainer.step

    def stop(self: Trainer, number: int) -> dict:
        if number == 3:
            raise Interrupted(15)
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", stop)
    chosen = recipe(folder, "data.generated.use=before", "run.save_every=1")
    with pytest.raises(Interrupted):
        run(chosen, folder / "killed", display=Display(quiet=True))
    monkeypatch.setattr(Trainer, "step", step)
    run(chosen, folder / "killed", resume=True, display=Display(quiet=True))
    assert weights(folder / "killed") == weights(folder / "whole")


def test_a_run_says_what_it_learned_from_and_is_measured_without_the_folder(folder: Path) -> None:
    for use, said in (("beside", "real and generated"), ("instead", "generated")):
        chosen = recipe(folder, f"data.generated.use={use}")
        run(chosen, folder / use, display=Display(quiet=True))
        evaluation = json.loads((folder / use / "evaluation.json").read_text())
        assert evaluation["protocol"]["trained_on"] == said
        environment = json.loads((folder / use / "environment.json").read_text())
        assert environment["dataset"]["generated"]["images"] == 20
        assert environment["dataset"]["images"] == {"train": 20, "test": 6}
    (folder / "made").rename(folder / "gone")
    session, _, _ = restore_session(folder / "instead", (), Display(quiet=True))
    assert len(session.evaluation().test) == 6 and session.differs == []


def test_a_run_does_not_resume_with_other_generated_images(folder: Path) -> None:
    chosen = recipe(folder)
    run(chosen, folder / "run", display=Display(quiet=True))
    write(folder / "made" / "Mass-2.png", 200)
    longer = recipe(folder, "run.steps=12")
    with pytest.raises(UserError, match=r"the generated images to learn from \(data.generated\)"):
        run(longer, folder / "run", resume=True, longer=True, display=Display(quiet=True))
