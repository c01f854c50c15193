"""What the discriminator sees: DiffAugment and ADA against loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import gan
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor
from xraygan_augment.ada import ADA, CHANGES, places
from xraygan_augment.diffaugment import DiffAugment, _whole, cut, moved, recoloured
from xraygan_augment.geometry import chained, resampled, scaled, shifted, turned
from xraygan_objectives.losses import Hinge

from xraygan import Step, Task
from xraygan.graph.build import assemble
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.testing.stand_ins import Bench
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display
from xraygan.utils.seeding import rng


def images_of(n: int, size: int) -> Tensor:
    return torch.rand(n, 1, size, size, generator=rng("cpu", n, "images")).double() * 2 - 1


# -- DiffAugment -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.integers(4, 9).flatmap(
        lambda size: st.tuples(
            st.just(size),
            st.lists(
                st.tuples(
                    st.integers(-size, size),
                    st.integers(-size, size),
                    st.floats(-0.5, 0.5),
                    st.floats(0.5, 1.5),
                ),
                min_size=1,
                max_size=3,
            ),
        )
    )
)
def test_each_image_is_changed_by_its_own_numbers(
    drawn: tuple[int, list[tuple[int, int, float, float]]],
) -> None:
    size, numbers = drawn
    images = images_of(len(numbers), size)
    rows, columns, brightness, contrast = zip(*numbers, strict=True)
    down, right = torch.tensor(rows), torch.tensor(columns)
    shifted_, holed = moved(images, down, right), cut(images, down, right, side=size // 2)
    coloured = recoloured(images, torch.tensor(brightness), torch.tensor(contrast))
    for i, image in enumerate(images[:, 0].tolist()):
        mean = math.fsum(x + brightness[i] for row in image for x in row) / size**2
        for r in range(size):
            for c in range(size):
                source = r - rows[i], c - columns[i]
                inside = all(0 <= place < size for place in source)
                value = image[source[0]][source[1]] if inside else 0.0
                assert shifted_[i, 0, r, c].item() == value
                start = rows[i] - size // 2 // 2, columns[i] - size // 2 // 2
                hole = all(0 <= a - b < size // 2 for a, b in zip((r, c), start, strict=True))
                assert holed[i, 0, r, c].item() == (0.0 if hole else image[r][c])
                value = mean + (image[r][c] + brightness[i] - mean) * contrast[i]
                assert coloured[i, 0, r, c].item() == pytest.approx(value, abs=1e-6)


def test_diffaugment_draws_each_number_in_its_range() -> None:
    uniform = torch.cat([torch.rand(5000), torch.tensor([0.0, 1 - 2**-24])])
    whole = _whole(uniform, -4, 4)
    counts = torch.bincount(whole + 4, minlength=9)
    assert len(counts) == 9 and counts.min() > 400

    bench = Bench()
    drawn = torch.rand(6, 6, generator=rng("cpu", 0, "testing step")).unbind(dim=1)
    for policy in ((), ("color",), ("translation",), ("cutout",)):
        step = bench.step()
        changed = DiffAugment(policy=policy)(step.real, step)
        expected = {
            (): lambda x: x,
            ("color",): lambda x: recoloured(x, drawn[0] - 0.5, drawn[1] + 0.5),
            ("translation",): lambda x: moved(x, *((9 * d).long() - 4 for d in drawn[2:4])),
            ("cutout",): lambda x: cut(x, *((33 * d).long() for d in drawn[4:]), side=16),
        }[policy](step.real)
        assert torch.equal(changed, expected)


# -- ADA -------------------------------------------------------------------------------------------


def test_resampling_is_bilinear_and_reflects_at_the_edges() -> None:
    images, n = images_of(6, 9), 6
    x, y, angle, right, down = torch.randn(5, n, generator=rng("cpu", 0, "maps")).double()
    maps = chained(scaled(x.exp(), -y.exp()), turned(3 * angle), shifted(9 * right, 9 * down))
    theta = maps[:, :2].clone()
    theta[:, :, 2] *= 2 / 9  # torch counts in halves of the side
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    torch.testing.assert_close(resampled(images, maps), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(resampled(images, torch.eye(3).expand(n, 3, 3)), images)


@pytest.mark.parametrize("change", ["mirror", "quarter", "step", "scale", "turn", "shift"])
def test_the_changes_of_places(change: str) -> None:
    images, n = images_of(8, 8), 8
    uniform = torch.rand(7, n, generator=rng("cpu", 0, "uniform")).double().unbind()
    normal = torch.randn(6, n, generator=rng("cpu", 0, "normal")).double().unbind()
    names = [name for group in CHANGES.values() for name in group]
    on = {name: torch.arange(n) > 0 if name == change else torch.zeros(n).bool() for name in names}
    maps = places(on, uniform, normal, 8)
    changed = resampled(images, maps)
    assert torch.equal(changed[0], images[0])
    for i in range(1, n):
        a, b = float(uniform[2][i]), float(uniform[3][i])
        by = [round((2 * u - 1) * 8 / 8) for u in (a, b)]
        angle = (2 * float(uniform[4][i]) - 1) * math.pi
        turn = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]
        wide = 2 ** (0.2 * float(normal[0][i]))
        expected = {
            "scale": [[wide, 0, 0], [0, wide, 0]],
            "turn": turn,
            "shift": [[1, 0, float(normal[2][i])], [0, 1, float(normal[3][i])]],
            "step": [[1, 0, by[0]], [0, 1, by[1]]],
        }
        if change in expected:
            wanted = torch.tensor(expected[change], dtype=torch.float64)
            torch.testing.assert_close(maps[i, :2], wanted)
        elif change == "mirror":
            mirrored = images[i].flip(2) if float(uniform[0][i]) < 0.5 else images[i]
            torch.testing.assert_close(changed[i], mirrored)
        else:
            quarters = torch.rot90(images[i], int(4 * float(uniform[1][i])), (1, 2))
            torch.testing.assert_close(changed[i], quarters)


def test_p_is_how_often_each_change_is_applied() -> None:
    bench, n = Bench(), 2000
    augmenter = ADA(start=0.3, policy=("geometry", "color"))
    chance = torch.rand(11, n, generator=rng("cpu", 0, "chance")).unbind()
    share = {name: float(on.float().mean()) for name, on in augmenter._applied(chance).items()}
    assert all(share[name] == 0 for name in CHANGES["blit"])
    both = 1 - (1 - share.pop("turn")) * (1 - share.pop("turn again"))
    wanted = [share[name] for group in ("geometry", "color") for name in CHANGES[group]
              if "turn" not in name]  # fmt: skip
    assert [both, *wanted] == pytest.approx([0.3] * 7, abs=0.04)
    step = bench.step()
    assert torch.equal(ADA()(step.real, step), step.real)  # p is 0


def test_the_greys_of_ada() -> None:
    step = Bench().step()
    changed = ADA(start=1.0, policy=("color",))(step.real, step)
    source = rng("cpu", 0, "testing step")
    _, uniform, normal = (torch.rand(6, 11, generator=source), torch.rand(6, 7, generator=source),
                          torch.randn(6, 6, generator=source))  # fmt: skip
    for image, found, u, z in zip(step.real, changed, uniform, normal, strict=True):
        sign = -1 if u[6] < 0.5 else 1
        expected = (image + 0.2 * z[4]) * 2 ** (0.5 * z[5]) * sign
        torch.testing.assert_close(found, expected)


def test_p_follows_the_signs_of_the_real_logits() -> None:
    augmenter, p = ADA(target=0.5, images=40), 0.0
    held = torch.zeros(())
    for number in range(12):
        source = rng("cpu", number, "logits")
        parts = [torch.randn(4, generator=source) + 2 - number % 3 for _ in range(2)]
        for logits in parts:
            augmenter.watch(logits)
        augmenter.adapt(held if number % 2 else None)
        mean = sum((x > 0) - (x < 0) for part in parts for x in part.tolist()) / 8
        step = 8 / 40 * ((mean > 0.5) - (mean < 0.5))
        p = min(max(p + step, 0), 1)
        assert float(augmenter.p) == pytest.approx(p, abs=1e-6)
    assert 0 < p < 1
    augmenter.watch(torch.full((8,), math.nan))
    augmenter.adapt(torch.ones(()))  # the step was not taken
    augmenter.adapt(None)  # the discriminator waited
    assert float(augmenter.p) == pytest.approx(p)


# -- in a step, and in a run -----------------------------------------------------------------------


def test_both_batches_are_changed_and_penalties_are_towards_what_they_were() -> None:
    recipe = gan(augmenter={"plugin": "diffaugment", "policy": ["cutout"]})
    graph = assemble(recipe, Task(32, ("Edema", "Mass"), exclusive=True))
    seen: list[Tensor] = []
    graph.networks["discriminator"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    real = images_of(6, 32).float()
    step: Step = graph.step(real, torch.arange(6) % 2, rng("cpu", 0, "latent"))
    for batch in ("real", "fake"):
        images, logits = step.discriminator_pass(batch)
        assert torch.equal(images, step.real if batch == "real" else step.fake)
        holes = (seen[-1] == 0) & (images != 0)
        assert holes.flatten(1).any(dim=1).all() and not torch.equal(holes[0], holes[1])
        (gradient,) = torch.autograd.grad(logits.sum(), images, retain_graph=True)
        assert bool(gradient.any()) and not bool(gradient[holes].any())
    assert len(seen) == 2 and step.real_scores.shape == (6,)
    _, gradients = graph.gradients(step)
    assert all(g is not None and bool(g.any()) for g in gradients["generator"])


def loop_of(folder: Path, **run: Any) -> Trainer:
    ada = {"plugin": "ada", "images": 80, "start": 0.5}
    silent = Display(Console(quiet=True))
    session = Session.of(gan(objective={"plugin": "hinge"}, augmenter=ada, run=run), silent)
    return Trainer(session, RunDirectory(folder), silent)


def test_p_moves_once_a_step_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Hinge.generator_loss

    def loss(self: Hinge, step: Step) -> Tensor:
        return whole(self, step) * (math.nan if step.progress == 1 / 4 else 1)

    monkeypatch.setattr(Hinge, "generator_loss", loss)
    stopping, skipping = loop_of(tmp_path), loop_of(tmp_path, accumulate=2, on_nonfinite="skip")
    for loop in stopping, skipping:
        assert loop.step(0)["ada_p"].item() == 0.5  # what the step was taken with
        augmenter = loop.graph.networks["augmenter"]
        assert augmenter.p.item() == pytest.approx(0.4)  # 8 of 80 images, not all taken for real
        before = [b.clone() for b in augmenter.buffers()]
        assert bool(loop.step(1)) is (loop is stopping)
        assert all(map(torch.equal, before, augmenter.buffers()))
    assert stopping.guard.first() == 1
    assert "ada_p" in skipping.step(2) and augmenter.p.item() != before[0].item()
