"""Several ranks compute what one does, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import rank
import rank_gradients
import rank_norms
import rank_objectives
import torch
from conftest import SMALL
from forked import fork_ranks
from safetensors.torch import load_file
from torch import Tensor

from xraygan.distributed.ranks import DistributedContext
from xraygan.rundir import checkpoint

#: of class distributions, and once more of features
DISTANCES = (
    "energy_distance",
    "mixture_mmd",
    "polynomial_mmd",
    "sinkhorn",
    "sliced_wasserstein",
)
EVERY_SCORE = (
    "scores.gram.extractor=vgg19",
    "scores.style_transfer.extractor=vgg19",
    "extractors.vgg19.weights=random",
    "scores.mean_teacher.weight=2.0",
    "scores.unlabelled_pseudo_label={threshold=0.3, noise=0.1}",
    *(f"scores.{name}.weight=1.0" for name in DISTANCES),
    *(f"scores.deep_{name}={{plugin='{name}', extractor='vgg19'}}" for name in DISTANCES),
    "classifier.average=0.9",
    "labeler.threshold=0.4",
)
#: Adam turns the sign of a gradient that is all rounding into a full step
SGD = tuple(
    f"{name}.optimizer.name=sgd"
    for name in ("generator", "discriminator", "classifier", "scores.style_transfer")
)
SIZE = ("data.plugin=phantom", "classifier.plugin=resnet18", "classifier.weights=random")
TEACHER = "labeler.plugin=teacher"
#: labels and metadata that are given to a generator and a discriminator, several an image
MULTI = (
    "discriminator.dropout=0.0",  # whose masks are each rank's own
    "data.label_policy=multi",
    'data.metadata=["age", "view"]',
    "classifier.metadata=true",
    "scores.mmd.weight=1.0",
    "scores.mmd.formula=released",
    "scores.gram.weight=1.0",
    "scores.gram.formula=released",
    "scores.gram.extractor=classifier",
)


def ended(ranks: list[ForkServerProcess]) -> list[int | None]:
    """The exit codes of processes; what went wrong in them is on the standard error."""
    for process in ranks:
        process.join(300)
    return [process.exitcode for process in ranks]


def train(out: Path, count: int, *arguments: str) -> tuple[list[dict], dict[str, Tensor]]:
    """What ``count`` ranks came to: each step's terms, and the networks."""
    assert ended(fork_ranks(count, rank.train, str(out), *arguments)) == [0] * count
    return json.loads(out.with_suffix(".json").read_text()), load_file(
        out.with_suffix(".safetensors")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "steps", "error", "recipe", "overrides"),
    [
        # In float64 nothing hides behind rounding; in float32 the ReLUs and small batch norms of
        # untrained networks turn a rounding into per cents within a few steps.
        ("float64", "2", 1e-9, "ucgan_full", (*SMALL, *EVERY_SCORE)),
        ("float32", "1", 1e-5, "ucgan_full", (*SMALL, *EVERY_SCORE, *SGD, TEACHER)),
        ("float64", "1", 1e-9, "cgan_zhang", (*SIZE, *MULTI, *SGD[:3])),
    ],
)
def test_ranks_compute_what_one_computes(
    tmp_path: Path,
    precision: str,
    steps: str,
    error: float,
    recipe: str,
    overrides: tuple[str, ...],
) -> None:
    given = (precision, steps, "12", recipe, *overrides)
    losses, networks = train(tmp_path / "one", 1, *given)
    for count in (2,):
        others, apart = train(tmp_path / str(count), count, *given)
        for ours, expected in zip(others, losses, strict=True):
            assert ours == pytest.approx(expected, rel=error, abs=error / 10)
        assert apart.keys() == networks.keys()
        for network in {name.split(".")[0] for name in networks}:
            ours, expected = (
                torch.cat([v.double().flatten() for n, v in found.items() if n.startswith(network)])
                for found in (apart, networks)
            )
            assert (ours - expected).norm() <= error * expected.norm(), network


def test_gradients_keep_the_order_in_memory_of_their_parameters(tmp_path: Path) -> None:
    assert ended(fork_ranks(2, rank_gradients.average, str(tmp_path / "rank"))) == [0, 0]
    of_ranks = [rank_gradients.gradients(rank) for rank in range(2)]
    for index in range(2):
        averaged = rank_gradients.read(f"{tmp_path}/rank{index}")
        assert torch.equal(averaged.pop("a/0"), torch.full((2,), 0.5))
        rows = zip(rank_gradients.parameters(), *of_ranks, strict=True)
        for i, (parameter, first, second) in enumerate(rows):
            mean = averaged.pop(f"b/{i}", None)
            given = [gradient for gradient in (first, second) if gradient is not None]
            assert (mean is None) == (not given)
            if given:
                assert mean.stride() == parameter.stride()
                assert torch.equal(mean, sum(given) / 2)
        assert not averaged


def test_penalties_of_ranks_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Behind global batch norms too, whose gathering is then differentiated twice."""
    ranks = fork_ranks(2, rank_objectives.write, str(tmp_path / "rank"))
    try:
        expected = rank_objectives.compute(DistributedContext())
    finally:
        torch.set_default_dtype(torch.float32)
        assert ended(ranks) == [0, 0]
    for index in range(2):
        found = load_file(tmp_path / f"rank{index}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name] - value).norm() <= 1e-9 * value.norm(), name


@pytest.fixture(scope="module")
def norms(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two ranks came to with the batch norms of processors and with those of GPUs."""
    out = tmp_path_factory.mktemp("norms") / "rank"
    assert ended(fork_ranks(2, rank_norms.write, str(out))) == [0, 0]
    return [rank_norms.read(f"{out}{index}") for index in range(2)]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", rank_norms.CASES)
def test_batch_norms_of_ranks_are_that_of_the_whole_batch(
    case: str, fused: bool, norms: list[dict]
) -> None:
    rank_norms.expect_the_whole_batch(case, [found[f"{case} {fused}"] for found in norms])


def test_batch_norms_of_processors_alone_can_be_differentiated_twice(norms: list[dict]) -> None:
    for found in norms:
        assert found["twice False"] == ""
        assert "batch_norm_backward" in found["twice True"]  # TrainingGraph looks for this


def small(*overrides: str) -> list[str]:
    """Arguments of `xraygan run` for a small run on two ranks."""
    sets = [*SMALL, "classifier.weights=random", "run.save_every=0", *overrides]
    return ["run", "ucgan_full", "--devices", "2", *(w for text in sets for w in ("--set", text))]


COMMAND = [sys.executable, "-m", "xraygan", *small("run.steps=12")]


def hashes(directory: Path) -> dict[str, str]:
    return checkpoint.latest(directory / "checkpoints").manifest.files


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing happened to."""
    out = tmp_path_factory.mktemp("ranks") / "whole"
    done = subprocess.run(
        [*COMMAND, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_ends_the_run_with_what_is_whole_saved(
    whole: Path, tmp_path: Path, rank: int
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (out / "metrics.jsonl").exists() or len(logged(out)) < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(children(process.pid)[rank], signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert f"rank {rank} of 2 ended: SIGKILL" in said
    assert "is saved: continue it with --resume" in said
    assert "Traceback" not in said
    assert 4 <= checkpoint.latest(out / "checkpoints").step < 12

    done = subprocess.run(
        [*COMMAND, "--out", str(out), "--resume"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert hashes(out) == hashes(whole)
    assert [line["step"] for line in logged(out)] == list(range(1, 13))


def logged(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "xraygan", *small("run.batch_size=5", "run.steps=2")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("5 images cannot be divided into 2 equal parts") == 1
    assert not (tmp_path / "run").exists()
