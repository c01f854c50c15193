"""Runs that start from the networks of another run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from conftest import gan
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from xraygan import Run, UserError, cli
from xraygan import run as train
from xraygan.distributed.launch import launch
from xraygan.graph.graph import TrainingGraph
from xraygan.recipe.loading import Recipe, load, load_tree
from xraygan.rundir import checkpoint
from xraygan.session.session import Session
from xraygan.sweep import load as load_sweep
from xraygan.training.engine import run
from xraygan.training.trainer import Trainer
from xraygan.training.warm_start import load_start_networks
from xraygan.utils.progress import Display

SILENT = Display(Console(quiet=True))
CONDITIONAL = {"plugin": "cgan", "average": 0.9}


def recipe(
    classes: tuple[str, ...] = ("Edema", "Mass"), images: int = 120, **tables: Any
) -> Recipe:
    """A small conditional GAN."""
    return gan(
        run={"steps": 4, "save_every": 2, "batch_size": 8, "keep": 0},
        data={"plugin": "phantom", "images": images, "image_size": 32, "classes": list(classes)},
        **{"generator": CONDITIONAL, "discriminator": {"plugin": "cgan"}, **tables},
    )


def from_run(other: Recipe, source: Path, which: str = "latest", **words: Any) -> Recipe:
    start = {"run": str(source), "checkpoint": which, **words}
    return load_tree({**other.resolved(), "start": start}, Path("other.toml"))


def saved(place: Path, name: str, step: int = 4) -> dict[str, Tensor]:
    return load_file(place / f"checkpoints/step-{step:08d}/{name}.safetensors")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe(), tmp_path_factory.mktemp("source") / "run", display=SILENT).path


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[TrainingGraph]:
    """The networks of each run as they are at its first step."""
    found: list[TrainingGraph] = []
    take_step = Trainer.step

    def noting(self: Trainer, step: int) -> dict[str, Any]:
        if step == 0:
            kept = TrainingGraph(
                self.graph.task, self.graph.networks, {}, [], self.graph.optimizers,
                self.graph.ema_decays,
            )  # fmt: skip
            kept.networks = {n: _copy(m) for n, m in self.graph.networks.items()}
            kept.ema = {n: _copy(m) for n, m in self.graph.ema.items()}
            found.append(kept)
        return take_step(self, step)

    monkeypatch.setattr(Trainer, "step", noting)
    return found


def _copy(module: torch.nn.Module) -> Any:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_networks_and_averages_start_from_the_checkpoint(
    source: Path, tmp_path: Path, graphs: list[TrainingGraph]
) -> None:
    place = run(from_run(recipe(), source, "2"), tmp_path / "run", display=SILENT).path
    [graph] = graphs
    assert same(graph.networks["generator"], saved(source, "generator", 2))
    assert same(graph.networks["discriminator"], saved(source, "discriminator", 2))
    assert same(graph.ema["generator"], saved(source, "generator.average", 2))
    start = load(place / "recipe.toml").tables.start
    assert start is not None and start.checkpoint == "2" and start.run == str(source)
    assert start.networks == ["generator", "discriminator"]
    # No optimizer is taken: the first Adam step counts from 1.
    steps = [v for k, v in saved(place, "generator.optimizer", 2).items() if k.endswith("/step")]
    assert steps and max(steps) <= 2


def test_an_average_that_goes_on_forgets_at_its_own_decay(source: Path) -> None:
    session = Session.of(_pinned(from_run(recipe(), source), source.parent / "none"), SILENT)
    load_start_networks(session.recipe, session.graph)
    graph = session.graph
    before = {k: v.clone() for k, v in graph.ema["generator"].named_parameters()}
    gradients = {"generator": [None for _ in graph.networks["generator"].parameters()]}
    graph.update(gradients, 0)
    for (name, now), network in zip(
        graph.ema["generator"].named_parameters(),
        graph.networks["generator"].parameters(),
        strict=True,
    ):
        decay = min(0.9, 1 - 1 / 5)  # 4 steps of the other run and this one
        torch.testing.assert_close(now, decay * before[name] + (1 - decay) * network)


def _pinned(recipe: Recipe, place: Path) -> Recipe:
    from xraygan.rundir.directory import RunDirectory
    from xraygan.training.warm_start import pin_start

    return pin_start(recipe, RunDirectory(place))


def test_an_average_starts_as_the_network_where_there_was_none(
    tmp_path: Path, graphs: list[TrainingGraph]
) -> None:
    plain = recipe(generator={"plugin": "cgan"})
    first = run(plain, tmp_path / "plain", display=SILENT).path
    run(from_run(recipe(), first), tmp_path / "run", display=SILENT)
    assert same(graphs[1].ema["generator"], saved(first, "generator"))


@pytest.mark.parametrize(
    ("classes", "bound"),
    [
        (("Edema", "Mass", "Hernia"), True),  # other shapes
        (("Mass", "Edema"), True),  # the same shapes, and another meaning
        (("Edema", "Mass"), False),
    ],
)
def test_what_belongs_to_other_classes_is_initialised_as_usual(
    classes: tuple[str, ...],
    bound: bool,
    source: Path,
    tmp_path: Path,
    graphs: list[TrainingGraph],
) -> None:
    other = recipe(classes)
    place = run(from_run(other, source), tmp_path / "run", display=SILENT).path
    fresh = Session.of(other, SILENT).graph.networks["generator"].state_dict()
    before, now = saved(source, "generator"), graphs[0].networks["generator"]
    for key, value in now.items():
        expected = fresh if bound and key == "embedding.weight" else before
        assert torch.equal(value, expected[key]), key
    log = (place / "run.log").read_text()
    count = len(now) - bound
    assert f"generator: {count} of {len(now)} tensors" in log
    assert ("generator: initialised as usual: embedding.weight" in log) == bound


def test_a_network_of_which_nothing_fits_is_an_error(source: Path, tmp_path: Path) -> None:
    other = recipe(generator={"plugin": "residual_conditional", "width": 4})
    with pytest.raises(UserError, match=r"no parameter of the generator .* has the same name"):
        run(from_run(other, source), tmp_path / "run", display=SILENT)
    assert not (tmp_path / "run").exists()
    # Leaving it out is the way that the message names.
    allowed = from_run(other, source, networks=["discriminator"])
    place = run(allowed, tmp_path / "allowed", display=SILENT).path
    assert "initialised as usual: generator" in (place / "run.log").read_text()


def test_what_is_not_there_is_said_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    classifier = load("baseline_resnet50", ["data.plugin=phantom", "classifier.weights=random"])
    for wrong, said in (
        (from_run(recipe(), tmp_path / "nowhere"), r"\[start\] run: .*not a run directory"),
        (from_run(recipe(), source, "3"), r"there is no checkpoint '3'; there are the steps 4, 2"),
        (from_run(recipe(), source, networks=["genrator"]), r"networks: .*'generator'"),
        (from_run(recipe(), source, sha256="0" * 64), r"sha256: .* --from"),
        (from_run(classifier, source), "has none of this recipe's networks"),
    ):
        with pytest.raises(UserError, match=said):
            run(wrong, tmp_path / "run", display=SILENT)
        assert not (tmp_path / "run").exists()


def test_the_resolved_recipe_is_the_same_run_from_the_same_files(
    source: Path, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "source", symlinks=True)
    first = run(from_run(recipe(), tmp_path / "source"), tmp_path / "first", display=SILENT).path
    again = run(load(first / "recipe.toml"), tmp_path / "again", display=SILENT).path
    assert (first / "recipe.toml").read_bytes() == (again / "recipe.toml").read_bytes()
    assert same(saved(first, "generator"), saved(again, "generator"))
    assert not same(saved(first, "generator"), saved(source, "generator"))
    # Other files in the same place are not what it started from.
    shutil.rmtree(tmp_path / "source")
    run(recipe(images=90), tmp_path / "source", display=SILENT)
    with pytest.raises(UserError, match=r"\[start\] sha256"):
        run(load(first / "recipe.toml"), tmp_path / "third", display=SILENT)


def test_a_run_is_resumed_without_the_run_that_it_started_from(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source, tmp_path / "source", symlinks=True)
    asked = from_run(recipe(), tmp_path / "source")
    whole = run(asked, tmp_path / "whole", display=SILENT).path
    take_step = Trainer.step

    def dying(self: Trainer, step: int) -> dict[str, Any]:
        if step == 3:
            raise KeyboardInterrupt
        return take_step(self, step)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(asked, tmp_path / "cut", display=SILENT)
    monkeypatch.setattr(Trainer, "step", take_step)
    with pytest.raises(UserError, match=r"start\.checkpoint: .* there, unset now"):
        run(recipe(), tmp_path / "cut", resume=True, display=SILENT)
    shutil.rmtree(tmp_path / "source")
    place = run(asked, tmp_path / "cut", resume=True, display=SILENT).path
    for name in ("generator", "generator.average", "discriminator"):
        assert same(saved(place, name), saved(whole, name))
    run(asked, tmp_path / "cut", resume=True, display=SILENT)  # complete


def xraygan(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["xraygan", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0


def test_the_command_line_and_python_start_and_lengthen_alike(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, tmp_path / "5", symlinks=True)  # a folder called by a number
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(recipe().resolved()))
    words = ("run", "mine.toml", "--from", "5", "--from-checkpoint", "2", "--out", "a")
    xraygan(*words, "-q")
    xraygan(*words, "--resume", "--steps", "6", "-q")
    run_b = train("mine.toml", "b", from_run="5", from_checkpoint=2, quiet=True)
    train("mine.toml", "b", from_run="5", from_checkpoint=2, resume=True, steps=6, quiet=True)
    xraygan(*words[:-1], "c", "--steps", "6", "-q")
    assert isinstance(run_b, Run)
    hashes = [checkpoint.latest(Path(n) / "checkpoints").manifest for n in "abc"]  # type: ignore[union-attr]
    assert hashes[0].step == 6 and hashes[0].files == hashes[1].files
    # One phase, constant rates: trained for longer is the same as trained for long.
    assert hashes[0].files == hashes[2].files
    assert len(list(Path("a").glob("evaluation*.json"))) == 2
    # A recipe that has another length is not the same as asking for it.
    (tmp_path / "mine.toml").write_text(
        (tmp_path / "mine.toml").read_text().replace("steps = 4", "steps = 9")
    )
    with pytest.raises(UserError, match=r"run\.steps: 6 there, 9 now(.|\n)*--steps N"):
        train("mine.toml", "b", from_run="5", from_checkpoint=2, resume=True, quiet=True)


def test_a_checkpoint_without_a_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--from-checkpoint needs --from RUN"):
        train("quickstart", from_checkpoint="best")


@pytest.mark.slow
def test_ranks_start_from_the_same_networks(source: Path, tmp_path: Path) -> None:
    sgd = [f"{name}.optimizer.name=sgd" for name in ("generator", "discriminator")]
    plain = recipe().changed(*sgd)  # Adam makes a full step of a gradient that is all rounding
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(plain.resolved()))
    words = ["run", str(tmp_path / "mine.toml"), "--set", f"start.run={json.dumps(str(source))}"]
    assert launch([*words, "--out", str(tmp_path / "ranks"), "--quiet"], 2) == 0
    run(from_run(plain, source), tmp_path / "one", display=SILENT)
    ours, one = (load(tmp_path / n / "recipe.toml").tables.start for n in ("ranks", "one"))
    assert ours == one and ours is not None and ours.sha256
    for key, value in saved(tmp_path / "ranks", "generator", 2).items():
        torch.testing.assert_close(
            value, saved(tmp_path / "one", "generator", 2)[key], rtol=1e-2, atol=2e-3
        )


def test_a_sweep_can_start_all_its_rows_from_a_run(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(recipe().resolved()))
    tables = {
        "title": "starts",
        "recipe": "mine.toml",
        "set": {"start": {"run": str(source)}},
        "variants": [{"name": "last"}, {"name": "early", "set": {"start.checkpoint": "2"}}],
        "table": {"metrics": ["ms_ssim"]},
    }
    (tmp_path / "sweep.toml").write_text(tomli_w.dumps(tables))
    sweep = load_sweep(tmp_path / "sweep.toml")
    starts = [load_tree(sweep.tree(row, 0), sweep.source).tables.start for row in sweep.rows]
    assert [start.checkpoint for start in starts if start] == ["latest", "2"]
