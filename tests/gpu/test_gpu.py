"""What only a GPU can say: the bits of its sums, its memory, and that its steps are captured.

Run them with ``pytest -m gpu``. They read no file and take a few minutes.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import rank_norms
import torch
import torch.nn.functional as F
from forked import fork_ranks
from resumed import digests_of_both
from shipped_recipes import on_the_phantom

from xraygan.graph.graph import TrainingGraph
from xraygan.recipe.files import shipped
from xraygan.recipe.loading import Recipe
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training import engine
from xraygan.training.trainer import Trainer
from xraygan.utils.precision import choose_precision
from xraygan.utils.progress import Display

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]

SILENT = Display(quiet=True)


def trainer_of(recipe: Recipe, folder: Path) -> Trainer:
    return Trainer(Session.of(recipe, SILENT), RunDirectory(folder), SILENT)


def bits(graph: TrainingGraph) -> dict[str, torch.Tensor]:
    """All that training changed."""
    networks = {**graph.networks, **{f"average of {n}": m for n, m in graph.ema.items()}}
    return {f"{n}.{k}": v for n, m in networks.items() for k, v in m.state_dict().items()}


def differing(a: TrainingGraph, b: TrainingGraph) -> dict[str, float]:
    """The tensors that differ, and by how much."""
    other = bits(b)
    return {
        name: float((value.double() - other[name].double()).abs().max())
        for name, value in bits(a).items()
        if not torch.equal(value, other[name])
    }


SMALL = ("generator.width=4", "discriminator.width=4", "classifier.plugin=resnet18",
         "scores.gram.extractor=classifier", "scores.style_transfer.extractor=classifier",
         "scores.style_transfer.width=4", "run.batch_size=8")  # fmt: skip


@pytest.mark.parametrize("mode", ["off", "graphs"])
def test_the_same_recipe_has_the_same_bits(mode: str, tmp_path: Path) -> None:
    made = []
    for name in "ab":
        given = (*SMALL, f"run.compile={mode}")
        recipe = on_the_phantom("ucgan_full", tmp_path / "cache", *given)
        trainer = trainer_of(recipe, tmp_path / name)
        for step in range(8):
            trainer.step(step)
        made.append(trainer.graph)
    assert not differing(*made)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ucgan_full", [*SMALL, "generator.average=0.9"]),
        ("quickstart", ["data.augmentation={}"]),
        ("cgan", ["classifier.plugin=resnet18", "augmenter.plugin=ada"]),
        ("projected", ["generator.width=8"]),
        ("mean_teacher", ["classifier.plugin=resnet18"]),
    ],
)
def test_a_replayed_step_is_the_eager_one(name: str, changes: list[str], tmp_path: Path) -> None:
    made, values = [], []
    for mode in ("off", "graphs"):
        given = (*changes, f"run.compile={mode}", "run.steps=10")
        recipe = on_the_phantom(name, tmp_path / "cache", *given)
        trainer = trainer_of(recipe, tmp_path / mode)
        values.append([{n: float(v) for n, v in trainer.step(i).items()} for i in range(10)])
        made.append(trainer.graph)
        if mode == "graphs":
            assert trainer.captured is not None
            assert trainer.captured.is_replayed(trainer.source.learning(9))
    assert values[0] == values[1]
    assert not differing(*made)


@pytest.mark.parametrize("mode", ["off", "graphs"])
def test_a_run_that_was_killed_resumes_to_the_same_bits(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = (*SMALL, f"run.compile={mode}", "run.save_every=4", "run.steps=12")
    recipe = on_the_phantom("ucgan_full", tmp_path / "cache", *changes, "generator.average=0.9")
    whole, resumed = digests_of_both(recipe, tmp_path, monkeypatch, at=9)
    assert whole == resumed and whole


@pytest.mark.parametrize("mode", ["off", "graphs"])
@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_trains(name: str, mode: str, tmp_path: Path) -> None:
    given = ("run.steps=20", f"run.compile={mode}")
    trainer = trainer_of(on_the_phantom(name, tmp_path / "cache", *given), tmp_path / "run")
    for step in range(20):
        values = trainer.step(step)
    assert values and all(torch.isfinite(value).all() for value in values.values())
    assert trainer.guard.first() is None
    del trainer
    gc.collect()
    torch.cuda.empty_cache()


def test_the_papers_step_stays_below_two_gigabytes(tmp_path: Path) -> None:
    given = ("run.batch_size=12", "data.image_size=128", "run.compile=graphs", "run.steps=20")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trainer = trainer_of(on_the_phantom("ucgan_full", tmp_path / "c", *given), tmp_path / "run")
    for step in range(8):
        trainer.step(step)
    assert torch.cuda.max_memory_allocated() - before < 2 << 30


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_float32_products_are_not_rounded_to_tf32(precision: str) -> None:
    """Scores are computed in float32 in every mode but "tf32", whose numbers have 10 bits."""
    choose_precision(precision, torch.device("cuda"))
    a, b = torch.randn(2, 512, 512, device="cuda").unbind()
    images, kernels = torch.randn(4, 64, 32, 32, device="cuda"), torch.randn(64, 64, 3, 3).cuda()
    for found, exact in (
        (a @ b, a.double() @ b.double()),
        (a.new_zeros(()) + torch.bmm(a[None], b[None])[0], a.double() @ b.double()),
        (F.conv2d(images, kernels), F.conv2d(images.double(), kernels.double())),
    ):
        error = float((found - exact).norm() / exact.norm())
        assert error < 1e-5, error


def test_batch_norms_of_two_ranks_on_this_gpu_are_that_of_the_whole_batch(tmp_path: Path) -> None:
    """By PyTorch's own kernels, in whose place the quick tests have others."""
    ranks = fork_ranks(2, rank_norms.write, str(tmp_path / "rank"), "cuda")
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    norms = [rank_norms.read(f"{tmp_path}/rank{index}") for index in range(2)]
    for fused in (False, True):
        for case in rank_norms.CASES:
            rank_norms.expect_the_whole_batch(case, [found[f"{case} {fused}"] for found in norms])
    assert ["batch_norm_backward" in found["twice True"] for found in norms] == [True, True]


@pytest.mark.parametrize("name", ["ucgan_full", "projected_ucgan"])
def test_every_verb_works(name: str, tmp_path: Path) -> None:
    given = (*SMALL[2:], "run.steps=4") if name == "ucgan_full" else ("run.steps=4",)
    recipe = on_the_phantom(name, tmp_path / "cache", *given, "evaluation.generated=32",
                            "evaluation.bootstrap=10", "metrics={auc = {}}")  # fmt: skip
    place = engine.run(recipe, tmp_path / "run", display=SILENT).path
    for verb, *words in (
        ("evaluate", "--set", "evaluation.batch_size=16"), ("audit", "--generated", 32),
        ("explain",), ("generate", "--count", 8, "--out", tmp_path / "made"),
        ("export", "--format", "torch", "--out", tmp_path / "exported"),
    ):  # fmt: skip
        command = [sys.executable, "-m", "xraygan", verb, place, *words]
        found = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert found.returncode == 0, f"{verb}: {found.stderr}"
