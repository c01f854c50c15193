"""No step of a shipped recipe waits for a GPU, on a pretended one (:mod:`pretended_gpu`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pretended_gpu
import pytest
import torch
from pretended_gpu import GPU
from pretended_run import Found, on_a_gpu, watch

from xraygan.data.batches import Batches
from xraygan.graph.step import TrainingStep
from xraygan.recipe.files import shipped

#: file and function -> why its waits are accepted
ACCEPTED = {
    "plugins/xraygan_pseudolabel/labelers.py:FillUp.label": "the weights are copied once in a run",
    "plugins/xraygan_dcgan/per_class.py:by_class": "the number of images of each class is read",
    "xraygan/distributed/ranks.py:FusedBatchNorm.forward": (
        "of several ranks: PyTorch reads which have rows, three times in each pass of a norm"
    ),
}

#: recipes that are quick to check, and have most kinds of parts between them
QUICK = ("cgan", "li_patch_grid")


def unexplained(found: Found) -> str:
    return "\n".join(f"{where}: {what}" for where, what in _new(found))


def _new(found: Found) -> list[tuple[str, str]]:
    return [key for key in (*found.waits, *found.wrong) if _place(key[0]) not in ACCEPTED]


def _place(where: str) -> str:
    return where.rsplit(":", 1)[0]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in shipped()]
)
def test_no_step_of_a_shipped_recipe_waits_for_a_gpu(name: str, tmp_path: Path) -> None:
    found = watch(on_a_gpu(name), tmp_path)
    assert found.operations, "nothing ran on the GPU"
    assert not unexplained(found)


@pytest.mark.slow
def test_micro_batches_and_unlabelled_images_do_not_wait_either(tmp_path: Path) -> None:
    found = watch(on_a_gpu("cucgan", "run.accumulate=2"), tmp_path)
    assert not unexplained(found)


def test_several_ranks_wait_in_the_batch_norms_of_pytorch_alone(tmp_path: Path) -> None:
    small = ("generator.width=4", "discriminator.width=4", "classifier.plugin=resnet18",
             "data.image_size=32", "scores=false", "extractors=false")  # fmt: skip
    found = watch(on_a_gpu("ucgan_full", *small), tmp_path, phases=(0.98,), count=2)
    assert not unexplained(found)
    assert found.norms == {
        "generator": ["FusedBatchNorm"] * 3,
        "discriminator": ["GlobalBatchNorm"] * 2,  # a penalty may differentiate it twice
        "classifier": ["FusedBatchNorm"] * 20,
    }
    fused = 3 + 2 * 20  # the classifier sees real and generated images
    assert sum(found.waits.values()) == 3 * fused
    collectives = {name: n for name, n in found.operations.items() if name.startswith("c10d::")}
    assert collectives == {
        "c10d::_allgather_base_": fused,
        # the discriminator's norms twice; labels, logits and scores of real and generated images
        "c10d::allgather_": 2 * 2 + 5,
        "c10d::allreduce_": 2,  # the gradients, and whether the step was finite
    }


def test_images_that_do_not_fit_into_the_gpu_are_copied_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretended_gpu, "FREE", 0)
    found = watch(on_a_gpu("cgan"), tmp_path, phases=(0.5,))
    assert found.operations["aten::_to_copy"] and not found.waits, found.describe()


# -- faults that are planted are found -------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def _after_the_latents(fault: Callable[[torch.Tensor], object]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        fake_of = TrainingStep.__dict__["fake"].func

        def fake(step: TrainingStep) -> torch.Tensor:
            made = fake_of(step)
            fault(made)
            return made

        patch.setattr(
            TrainingStep, "fake", property(lambda step: step.cached("f", lambda: fake(step)))
        )

    return plant


def _pageable_rows(patch: pytest.MonkeyPatch) -> None:
    draw_of = Batches.draw

    def draw(self: Batches, *given: object) -> object:
        torch.zeros(3).to(GPU, non_blocking=True)
        return draw_of(self, *given)  # type: ignore[arg-type]

    patch.setattr(Batches, "draw", draw)


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (_after_the_latents(lambda made: made.sum().item()), "a number is read"),
        (_after_the_latents(lambda made: made.cpu()), "copy to the processor"),
        (_after_the_latents(lambda made: torch.equal(made, made)), "aten::equal"),
        (_after_the_latents(lambda made: made[torch.arange(2)]), "index in the processor's memory"),
        (_after_the_latents(lambda made: made.double().flatten(1) @ made.flatten(1).T), "mm of"),
        (_pageable_rows, "pageable memory"),
    ],
)
def test_a_planted_fault_is_found(
    plant: Plant, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = watch(on_a_gpu("cgan"), tmp_path, phases=(0.5,))
    assert any(what in w for where, w in _new(found)), found.describe()


def test_a_tensor_on_the_processor_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _after_the_latents(lambda made: made + torch.zeros(made.shape))(monkeypatch)
    with pytest.raises(RuntimeError, match=r"two different devices|Expected all tensors"):
        watch(on_a_gpu("cgan"), tmp_path, phases=(0.5,))
