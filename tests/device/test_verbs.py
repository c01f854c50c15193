"""What is done with a run gives on a GPU what it gives on the processor, and forgets no copy.

The GPU is a pretended one, whose numbers the processor computes (:mod:`computing_gpu`).
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from computing_gpu import computing_gpu
from PIL import Image
from resumed import digests_of_both
from saved_run import CLASSIFIER, gan, saved
from shipped_recipes import on_the_phantom
from xraygan_explain import latents, pictures
from xraygan_export import models
from xraygan_metrics.fresh import ClassificationAccuracyScore
from xraygan_scores.padding import ReflectedConv2d, reflected
from xraygan_scores.style import _SquaredDistance

from xraygan.audit import audit, nearest_neighbors
from xraygan.cli import cli
from xraygan.data.batches import Batches
from xraygan.evaluation import generation
from xraygan.evaluation.evaluation import RunEvaluation
from xraygan.graph import build
from xraygan.graph.streams import Streams
from xraygan.recipe.loading import Recipe
from xraygan.session import sampling
from xraygan.training import engine
from xraygan.utils.progress import Display

METRICS = """
[metrics.classification]
[metrics.calibration]
[metrics.average_precision]
[metrics.sensitivity_at_specificity]
[metrics.subgroups]
[metrics.inception_score]
[metrics.frechet_classifier]
[metrics.frechet_per_class]
least = 2
[metrics.kid]
[metrics.precision_recall]
neighbours = 2
[metrics.density_coverage]
neighbours = 2
[metrics.ms_ssim]
[metrics.copies]
features = true
[metrics.classification_accuracy_score]
steps = 2
batch_size = 4
"""

#: the tables of runs
RUNS = {
    "generator alone": (gan("dcgan"),),
    "conditional": (gan("cgan", average=0.5), CLASSIFIER, "metadata = true\n", METRICS),
    "unconditional": (gan("dcgan", average=0.5), CLASSIFIER, METRICS),
}

#: what is done with a run; its folder is the working directory
VERBS: dict[str, tuple[str, ...]] = {
    "evaluate": (),
    "generate": ("--count", "5", "--out", "made"),
    "audit": ("--generated", "24"),
    "explain": ("--images", "1"),
    "export": ("--format", "torch", "--format", "safetensors", "--out", "exported"),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("runs")
    return cache(lambda name: saved(folder / name.replace(" ", "-"), *RUNS[name]))


@pytest.fixture
def done(
    run_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Result, dict[str, bytes]]]:
    """A function that does something with a copy of a run on a device: the result of the command,
    and the files of the copy afterwards."""

    def do(name: str, device: str, verb: str, *sets: str) -> tuple[Result, dict[str, bytes]]:
        folder = tmp_path / device.replace(":", "")
        shutil.copytree(run_of(name), folder)
        monkeypatch.chdir(folder)
        words = [word for key in (f"run.device={device}", *sets) for word in ("--set", key)]
        with nullcontext() if device == "cpu" else computing_gpu():
            result = CliRunner().invoke(cli, [verb, ".", *words, *VERBS[verb]])
        files = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
        # The card of exported networks has the recipe.
        named = f'device = "{device}"'.encode()
        return result, {str(name): p.read_bytes().replace(named, b"") for name, p in files.items()}

    return do


@pytest.mark.parametrize(
    ("name", "verb", "precision"),
    [
        ("generator alone", "generate", "fp32"),
        *(
            pytest.param(name, verb, precision, marks=pytest.mark.slow)
            for name, precision in (("conditional", "fp32"), ("unconditional", "bf16"))
            for verb in VERBS
        ),
    ],
)
def test_a_gpu_gives_the_files_of_the_processor(
    name: str, verb: str, precision: str, done: Callable[..., Any], run_of: Callable[[str], Path]
) -> None:
    given = f"run.precision={precision}"
    said, files = done(name, "cpu", verb, given)
    assert said.exit_code == 0, said.output
    said_there, files_there = done(name, "cuda:0", verb, given)
    assert said_there.exit_code == 0, said_there.output
    assert files_there.keys() == files.keys() and files.keys() - {"recipe.toml"}
    assert [n for n, content in files.items() if content != files_there[n]] == []
    assert said_there.output == said.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--images", "made", "--reference", "training", "--out", "figures.json"),
        ("audit", "--images", "made", "--training", "training", "--held-out", "held_out",
         "--out", "audit"),
    ],
    ids=["evaluate", "audit"],
)  # fmt: skip
def test_a_gpu_measures_folders_as_the_processor_does(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, given, found = np.random.default_rng(0), tmp_path / "given", []
    for name in ("made", "training", "held_out"):
        (given / name).mkdir(parents=True)
        for i, image in enumerate(random.integers(0, 256, (12, 32, 32), dtype=np.uint8)):
            Image.fromarray(image).save(given / name / f"{i}.png")
    for device in ("cpu", "cuda:0"):
        folder = shutil.copytree(given, tmp_path / device.replace(":", ""))
        monkeypatch.chdir(folder)
        sets = ("--set", f"run.device={device}", "--set", "run.precision=fp32")
        with nullcontext() if device == "cpu" else computing_gpu():
            result = CliRunner().invoke(cli, [*words, "--image-size", "32", *sets])
        assert result.exit_code == 0, result.output
        files = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}
        found.append({name: f.replace(bytes(folder), b"") for name, f in files.items()})
    assert found[0] == found[1] and len(found[0]) > 36


def rates(*tables: str) -> list[str]:
    """A learning rate that float32 holds: optimizers read it from a tensor on a GPU."""
    return [f"{table}.optimizer.lr={2**-10}" for table in tables]


#: the full UCGAN, small
FULL = (
    "generator.width=4", "discriminator.width=4", "scores.gram.extractor=classifier",
    "scores.style_transfer.extractor=classifier", "scores.style_transfer.width=4",
    *rates("scores.style_transfer"),
)  # fmt: skip


def small(name: str, device: str, folder: Path, *changes: str) -> Recipe:
    return on_the_phantom(
        name, folder / "cache", f"run.device={device}", "run.precision=fp32", "run.steps=3",
        "evaluation.generated=8", "classifier.plugin=resnet18",
        *rates("generator", "discriminator", "classifier"), *changes,
    )  # fmt: skip


def _reflected_on_a_gpu(layer: ReflectedConv2d, x: torch.Tensor) -> torch.Tensor:
    x = reflected(x, int(layer.padding[0]))
    return F.conv2d(x, layer.weight, layer.bias, layer.stride)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), [("cgan", ()), ("ucgan_full", FULL)])
def test_a_gpu_trains_the_networks_of_the_processor(
    name: str, changes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_memory_format", lambda *of: torch.channels_last)
    monkeypatch.setattr(ReflectedConv2d, "forward", _reflected_on_a_gpu)

    def digests(device: str) -> Any:
        recipe = small(name, device, tmp_path, *changes, "run.save_every=1", "run.sample_every=1")
        return digests_of_both(recipe, tmp_path / device.replace(":", ""), monkeypatch)

    whole, _ = digests("cpu")
    with computing_gpu():
        there, resumed = digests("cuda:0")
    assert whole == there == resumed and whole


# -- faults that are planted are found -------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def edited(function: Any, old: str, new: str) -> Plant:
    """Replaces a part of a function's source, wherever the function is called."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old!r} is not once in {function.__qualname__}"
    source = source[source.index("def ") :].replace(old, new)

    def plant(patch: pytest.MonkeyPatch) -> None:
        made: dict[str, Any] = {}
        exec(f"from __future__ import annotations\n{source}", function.__globals__, made)
        patch.setattr(function, "__code__", made[function.__name__].__code__)

    return plant


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "verb", "function", "old", "new", "says"),
    [
        ("generator alone", "generate", generation.generate,
         "to_uint8(images).cpu()", "to_uint8(images)", "to numpy"),
        ("generator alone", "generate", sampling.sample_images,
         "rng(session.device,", 'rng("cpu",', "for generator"),
        ("generator alone", "generate", build.assemble,
         "torch.device(device))).to(device)", "torch.device(device)))", "same device"),
        slow("conditional", "evaluate", RunEvaluation.classify,
             '["features"].double().cpu()', '["features"].double()', "to numpy"),
        slow("conditional", "evaluate", generation._draw_conditions,
             "metadata.to(device)[rows]", "metadata[rows]", "indices should be"),
        slow("conditional", "evaluate", ClassificationAccuracyScore._train,
             "targets[rows].to(device)", "targets[rows]", "same device"),
        slow("conditional", "evaluate", ClassificationAccuracyScore._train,
             ".to(device).train()", ".train()", "same device"),
        slow("conditional", "audit", audit._membership,
             "torch.from_numpy(codes).to(evaluation.device)", "torch.from_numpy(codes)",
             "indices should be"),
        slow("conditional", "audit", nearest_neighbors.nearest_neighbors,
             "rows.cpu().numpy()", "rows.numpy()", "to numpy"),
        slow("conditional", "explain", latents.slerp,
             "shares.to(a)", "shares.double()", "same device"),
        slow("conditional", "explain", pictures._heated,
             "explanation.layer).cpu()", "explanation.layer)", "to numpy"),
        slow("conditional", "export", models.models, ".cpu().float()", ".float()", "same device"),
    ],
)  # fmt: skip
def test_a_fault_of_a_verb_is_found(
    name: str, verb: str, function: Any, old: str, new: str, says: str,
    done: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    edited(function, old, new)(monkeypatch)
    result, _ = done(name, "cuda:0", verb, "run.precision=fp32")
    assert result.exit_code and says in f"{result.output}{result.exception}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "old", "new", "says"),
    [
        (Batches.__init__, "torch.cat(labels).to(device)", "torch.cat(labels)",
         "indices should be"),
        (Streams.generator, "rng(self.device,", 'rng("cpu",', "for generator"),
        (_SquaredDistance.backward, "slope = gradients[0]", "slope = gradients[0].cpu()",
         "same device"),
    ],
)  # fmt: skip
def test_a_fault_of_a_training_step_is_found(
    function: Any, old: str, new: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(function, old, new)(monkeypatch)
    with computing_gpu(), pytest.raises(RuntimeError, match=says):
        recipe = small("ucgan_full", "cuda:0", tmp_path, *FULL)
        engine.run(recipe, tmp_path / "run", display=Display(quiet=True))
