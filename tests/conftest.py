"""What several tests share: small recipes that keep the shape of the shipped ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One thread for each of the processes that share the tests, and for what they start: threads that
# wait for each other on processors that others use are slower than none.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from rich.console import Console

from xraygan.recipe.loading import Recipe, load, load_tree
from xraygan.training.engine import run
from xraygan.utils.progress import Display

collect_ignore = ["fixtures"]  # tests of plugins of an earlier version, run by one of ours

DATA = Path(__file__).parents[2] / "shared" / "data"

#: the full UCGAN graph at a size that a test can afford
SMALL = (
    "data.plugin=phantom",
    "data.images=120",
    "data.image_size=32",
    "generator.width=4",
    "discriminator.width=4",
    "classifier.plugin=resnet18",
    "scores.gram.extractor=classifier",
    "scores.style_transfer.extractor=classifier",
    "run.batch_size=4",
    "run.log_every=1",
    "evaluation.generated=16",
    "evaluation.bootstrap=20",
    "evaluation.batch_size=16",
)

#: the tables of the smallest GAN, for the text of a recipe
DCGAN_TABLES = """\
[generator]
plugin = "dcgan"
width = 4
[discriminator]
plugin = "dcgan"
width = 4
[objective]
plugin = "minmax"
"""

#: a GAN alone
GAN: dict[str, Any] = {
    "extends": "ucgan_full",
    **dict.fromkeys(("classifier", "labeler", "scores", "extractors", "metrics"), False),
    "run": {"steps": 4, "batch_size": 8},
    "data": {"plugin": "phantom", "images": 120, "image_size": 32, "classes": ["Edema", "Mass"]},
    "generator": {"width": 4},
    "discriminator": {"width": 4, "normalization": "none"},
    "schedule": {"phases": [{"ratio": "1:1"}]},
    "evaluation": {"generated": 4, "bootstrap": 0},
}


def gan(**tables: dict[str, Any]) -> Recipe:
    """The recipe of a GAN alone, with keys of its tables set to other values.

    A table that names a plugin is given whole.
    """
    changed = {
        name: keys if "plugin" in keys else {**(GAN.get(name) or {}), **keys}
        for name, keys in tables.items()
    }
    return load_tree({**GAN, **changed}, Path("gan.toml"))


@pytest.fixture(autouse=True, scope="session")  # or fixtures of modules would not have it
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep image stores out of the user's cache, and share them between tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own, with a command line of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a GAN with two checkpoints, to be copied and damaged."""
    from malformed import WHOLE

    folder = tmp_path_factory.mktemp("finished")
    small = WHOLE.split("[classifier]")[0] + "[evaluation]\ngenerated = 4\nbootstrap = 0\n"
    (folder / "recipe.toml").write_text(small)
    run(load(folder / "recipe.toml"), folder / "run", display=Display(Console(quiet=True)))
    return folder / "run"


@pytest.fixture(autouse=True)
def _fresh_torch_modes() -> None:
    if torch.are_deterministic_algorithms_enabled():  # setting it imports PyTorch's compiler
        torch.use_deterministic_algorithms(False)


def real_data(name: str) -> Path:
    """The folder of real images, or a skip that says where they are expected."""
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"the real images are not at {path}")
    return path
