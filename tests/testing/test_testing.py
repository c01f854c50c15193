"""The checks for plugin authors: every built-in part passes, wrong parts fail for their reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DATA
from PIL import Image
from torch import Tensor, nn

from xraygan import (
    Augmenter,
    Classifier,
    Dataset,
    Discriminator,
    Extractor,
    Generator,
    Labeler,
    Measurement,
    Metric,
    Objective,
    Score,
    Step,
    Task,
    Tracker,
    UserError,
    testing,
)
from xraygan.cli.options import run_argument
from xraygan.parts.registry import Part, installed

CHECKS: dict[str, Callable[..., list[str]]] = {
    name.removeprefix("check_"): getattr(testing, name)
    for name in testing.__all__
    if name.startswith("check_")
}
XRV = ("classifier", "extractor")
#: options that need no download and make networks small
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    **{("classifier", name): {"weights": "random"} for name in installed().names("classifier")},
    **{
        ("extractor", name): {"weights": "random"}
        for name in ("vgg16", "vgg19", "resnet18", "resnet50")
    },
    **{(kind, "xrv_densenet121"): {"weights": "random", "size": 32} for kind in XRV},
    ("extractor", "timm"): {"weights": "random", "size": 64},
    **{(kind, "residual"): {"width": 4} for kind in ("generator", "discriminator")},
    ("generator", "residual_conditional"): {"width": 4},
    ("discriminator", "projection"): {"width": 4, "spectral_norm": True},
    ("extractor", "inception"): {"weights": "random", "size": 75},
    **{(kind, "dcgan"): {"width": 8} for kind in ("generator", "discriminator")},
    **{(kind, "dcgan_per_class"): {"width": 8} for kind in ("generator", "discriminator")},
    **{("generator", name): {"width": 4} for name in ("fastgan", "fastgan_conditional")},
    ("dataset", "phantom"): {"images": 40},
    ("dataset", "chestxray14"): {"root": DATA / "chestxray14"},
    ("dataset", "zhang"): {"root": DATA / "zhang"},
    ("score", "mean_teacher"): {"order_matters": True},  # each image is disturbed in its own way
    ("metric", "classification_accuracy_score"): {"steps": 5},
    ("objective", "wgan_gp"): {"order_matters": True},  # a place between each pair is drawn
    ("augmenter", "ada"): {"start": 0.8},
}
BUILT_IN = [part for part in installed().parts() if part.distribution == "xraygan"]


@pytest.mark.parametrize("part", BUILT_IN, ids=lambda part: f"{part.kind}-{part.name}")
def test_a_built_in_part_passes(part: Part, tmp_path: Path) -> None:
    if part.name.startswith("xrv_"):
        pytest.importorskip("torchxrayvision", reason="pip install 'xraygan[xrv]'")
    options = OPTIONS.get((part.kind, part.name), {})
    if (part.kind, part.name) == ("dataset", "csv"):
        options = {"root": own_images(tmp_path)}
    if "root" in options and not options["root"].is_dir():
        pytest.skip(f"the real images are not at {options['root']}")
    passed = CHECKS[part.kind](part.cls, **options)
    assert {"kind", "summary", "options"} < set(passed)


def own_images(root: Path) -> Path:
    """A folder as the dataset ``csv`` wants it."""
    rows = ["path,label,patient,split"]
    for i in range(6):
        Image.new("L", (40, 40), 40 * i).save(root / f"{i}.png")
        rows.append(
            f"{i}.png,{'Mass' if i % 2 else 'No Finding'},p{i},{'test' if i > 3 else 'train'}"
        )
    (root / "images.csv").write_text("\n".join(rows))
    return root


def test_there_is_a_check_for_every_kind() -> None:
    from xraygan.parts.registry import KINDS

    assert set(CHECKS) == set(KINDS)


# -- wrong parts -----------------------------------------------------------------------------------


class Detached(Score):
    """A score that nothing can learn from"""

    def forward(self, step: Step) -> Tensor:
        return step.fake_probs.detach().square().mean()


class Real(Score):
    """A score that trains the generator and looks at real images alone"""

    trains = ("generator", "classifier")

    def forward(self, step: Step) -> Tensor:
        return step.real_probs.square().mean()


class Elementwise(Score):
    """A score that forgot its mean"""

    def forward(self, step: Step) -> Tensor:
        return (step.fake_probs - step.real_probs).square().mean(dim=1)


class Unbiased(Score):
    """A variance that is not defined for one image"""

    def forward(self, step: Step) -> Tensor:
        return step.fake_probs.var(dim=0).sum()


class Noisy(Score):
    """A score that draws from torch's own random numbers"""

    def forward(self, step: Step) -> Tensor:
        return (step.fake + torch.randn_like(step.fake)).square().mean()


class Ordered(Score):
    """A score that counts the first images most"""

    def forward(self, step: Step) -> Tensor:
        weights = torch.arange(step.batch_size, 0, -1)
        return (step.fake.square().mean(dim=(1, 2, 3)) * weights).mean()


class Meddling(Score):
    """A score that clamps the batch that others read"""

    def forward(self, step: Step) -> Tensor:
        step.real.clamp_(-0.5, 0.5)
        return (step.fake - step.real).square().mean()


class Backward(Score):
    """A score that takes its gradient itself"""

    def forward(self, step: Step) -> Tensor:
        value = step.fake_probs.square().mean()
        value.backward(retain_graph=True)
        return value


class Sleepy(Score):
    """A score that puts the classifier into evaluation mode"""

    def forward(self, step: Step) -> Tensor:
        step.networks["classifier"].eval()
        return step.fake_probs.square().mean()


class Hoarding(Score):
    """A score that remembers every value with its graph"""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, step: Step) -> Tensor:
        self.seen.append(step.fake_probs.square().mean())
        return self.seen[-1]


class Taking(Score):
    """A score that records something under a term's name"""

    def forward(self, step: Step) -> Tensor:
        step.record("generator", step.fake.mean())
        return step.fake_probs.square().mean()


class Leaving(Score):
    """A score that ends the process"""

    def forward(self, step: Step) -> Tensor:
        sys.exit(0)


class Half(Score):
    """A score in half precision"""

    def forward(self, step: Step) -> Tensor:
        return step.fake.half().square().mean()


class Rash(Augmenter):
    """Changes of this part of the batch, which nothing is learned through, more in every step"""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("most", torch.tensor(0.1))

    def forward(self, images: Tensor, step: Step) -> Tensor:
        shift = self.most * torch.rand(len(images), generator=step.rng, device=images.device)
        return images.detach() + shift[:, None, None, None]

    def adapt(self, held: Tensor | None) -> None:
        self.most += 0.1


class Untyped(Score):
    """A score whose option has no type"""

    def __init__(self, *, power=2) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.power = power

    def forward(self, step: Step) -> Tensor:
        return step.fake.pow(self.power).mean()


class Unbounded(Generator):
    """A generator without its tanh"""

    latent_size = 4

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.size = task.image_size
        self.layer = nn.Linear(4, self.size**2)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return 3 * self.layer(z).view(-1, 1, self.size, self.size)


class Deaf(Unbounded):
    """A conditional generator that does not look at its labels"""

    conditional = True

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(z).tanh()


class Square(Discriminator):
    """A discriminator that keeps a dimension, and a layer that it never uses"""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.layer = nn.Linear(task.image_size**2, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layer(images.flatten(1))


class Together(Classifier):
    """A classifier that normalizes by the batch when it is tested, and forgot its features"""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.layer = nn.Linear(task.image_size**2, len(task.classes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer((images - images.mean(dim=0)).flatten(1))}


class Absent(Extractor):
    """An extractor that recommends a layer it does not have"""

    content_layer = "relu5"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"relu1": self.layer(images.mean(dim=1, keepdim=True))}


class Swapped(Objective):
    """An objective that teaches each network the other's loss"""

    def generator_loss(self, step: Step) -> Tensor:
        return -step.real_scores.mean()

    def discriminator_loss(self, step: Step) -> Tensor:
        return step.fake_scores.detach().mean()


class Probable(Labeler):
    """A labeler that gives probabilities for labels, and a weight below zero"""

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        probs = step.fake_probs.detach()
        return probs, probs.max(dim=1).values - 1


class Undeclared(Labeler):
    """A labeler that reads an average that it does not say it needs"""

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = step.classify(step.fake, averaged=True)["logits"].detach()
        return logits.argmax(dim=1), torch.ones(len(logits))


class Upside(Metric):
    """A metric whose interval does not hold its value"""

    def compute(self, evaluation: Any) -> Mapping[str, Measurement]:
        probs = evaluation.probs
        return {"mean": Measurement(float(probs.mean()), len(probs), (0.9, 0.1)), "n": 3.0}  # type: ignore[dict-item]


class Tensorial(Metric):
    """A metric that measures a tensor"""

    def compute(self, evaluation: Any) -> Mapping[str, Measurement]:
        return {"mean": Measurement(torch.ones(()), 36)}  # type: ignore[arg-type]


class Leaky(Dataset):
    """A dataset with a patient on both sides, an unknown label, and images in float"""

    classes = ("Healthy",)

    def __init__(self, root: Path | None) -> None:
        pass

    def index(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "path": ["a.png", "b.png", "b.png"],
                "labels": [("Healthy",), ("Healthy",), ("Ill",)],
                "patient": ["1", "1", "2"],
                "split": ["train", "test", "test"],
                "age": [40.0, float("nan"), 400.0],
                "sex": ["M", "F", "W"],
                "view": ["PA", "", ""],
            }
        )

    def load(self, path: str, size: int) -> np.ndarray:
        return np.zeros((size, size))


class Greedy(Tracker):
    """A tracker that rewrites the run's recipe"""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def log(self, step: int, values: Mapping[str, float]) -> None:
        (self.directory / "recipe.toml").write_text(str(step))


WRONG: dict[type, dict[str, str]] = {
    Detached: {"gradient": "nothing can be learned from it"},
    Real: {"gradient": "no gradient reaches generator"},
    Elementwise: {"scalar": "shape (6,); expected a scalar"},
    Unbiased: {"batch of one": "not finite"},
    Noisy: {"deterministic": "draw from step.rng alone"},
    Ordered: {"order of the batch": "another order"},
    Meddling: {"leaves the step": "changed step.real"},
    Backward: {"leaves the step": "called backward()"},
    Sleepy: {"leaves the step": "changed the classifier"},
    Hoarding: {"keeps no step": "it keeps every step"},
    Taking: {"scalar": "recorded 'generator', which is a term's name"},
    Leaving: {"scalar": "it raised SystemExit: 0"},
    Half: {"scalar": "torch.float16"},
    Rash: {
        "parts of a batch": "draw through step.draw",
        "gradient": "detached from the images",
        "held": "held is 1",
    },
    Untyped: {"options": "power has no type"},
    Unbounded: {"range": "expected [-1, 1]"},
    Deaf: {"labels": "different labels give the same images"},
    Square: {"shape": "shape (4, 1); expected (4,)", "gradient": "unused.weight, unused.bias"},
    Together: {"activations": "'features' is missing", "batch of one": "on the others"},
    Absent: {"recommended layers": "recommends relu5"},
    Swapped: {"gradient": "no gradient reaches generator"},
    Probable: {"labels": "shape (6, 3); expected (6,)"},
    Undeclared: {"labels": "KeyError: 'classifier'"},
    Upside: {"measures": "are swapped"},
    Tensorial: {"measures": "mean is Tensor, not a number"},
    Leaky: {
        "paths": "occurs twice",
        "labels": "not one of ('Healthy',)",
        "split": "patients are in several splits",
        "metadata": "sex",
        "images": "float64",
    },
    Greedy: {"leaves the run": "changed recipe.toml"},
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_part_fails_for_its_reason_alone(wrong: type) -> None:
    kind = next(base for base in wrong.__mro__ if base.__module__ == "xraygan.parts.interfaces")
    with pytest.raises(testing.CheckFailed) as caught:
        CHECKS[kind.__name__.lower()](wrong)
    failures = caught.value.failures
    assert set(failures) == set(WRONG[wrong]), failures
    for check, why in WRONG[wrong].items():
        assert why in failures[check]
        assert f"{check}: {failures[check]}" in str(caught.value)


def silent(directory: Path) -> None:
    pass


def crashing(directory: Path, depth: int) -> None:
    """Read what is not there."""
    (directory / "recipe.toml").read_text()


def vague(directory: Path) -> None:
    """Refuse without a name, and leave a note."""
    (directory / "note.txt").touch()
    raise UserError("no such run")


@pytest.mark.parametrize(
    ("function", "failures"),
    [
        (
            silent,
            {"summary": "it is empty", "help": "silent has no help", "no run": "is not refused"},
        ),
        (
            crashing,
            {"options": "crashing --depth has no help", "no run": "raises FileNotFoundError"},
        ),
        (vague, {"no run": "lacks it: 'no such run'"}),
    ],
)
def test_a_wrong_command_fails_for_its_reason_alone(
    function: Callable[..., None], failures: dict[str, str]
) -> None:
    if function is crashing:
        function = click.option("--depth", type=int)(function)
    with pytest.raises(testing.CheckFailed) as caught:
        testing.check_command(click.command()(run_argument(function)))
    assert set(caught.value.failures) == set(failures)
    for check, why in failures.items():
        assert why in caught.value.failures[check]


def test_what_is_of_another_kind_or_has_unknown_options_is_said() -> None:
    with pytest.raises(testing.CheckFailed, match="kind: no subclass of Score"):
        testing.check_score(Unbounded)  # type: ignore[arg-type]
    with pytest.raises(testing.CheckFailed, match="kind: not a click command"):
        testing.check_command(Unbounded)  # type: ignore[arg-type]
    with pytest.raises(testing.CheckFailed, match="widht: unknown option"):
        testing.check_score(Detached, widht=3)
