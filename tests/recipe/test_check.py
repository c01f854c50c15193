"""`xraygan check` and what else looks at a recipe: without the network, and without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor, nn

from xraygan import Classifier, Task, UserError
from xraygan.cli import cli
from xraygan.graph.build import assemble, dry_build
from xraygan.parts.registry import installed
from xraygan.parts.weights import download_weights, load_matching, read_weights
from xraygan.recipe.files import shipped
from xraygan.recipe.loading import load
from xraygan.utils.planning import Blocked, planning

PHANTOM = "--set data.plugin=phantom --set data.classes=all --set data.only=[]"
FETCHING = "--set metrics.kid='{extractor=\"inception\"}' --set extractors.other.plugin=resnet18"


def offline(folder: Path, *lines: str) -> dict[str, Any]:
    """What commands come to in a process whose home, cache and working directory are empty."""
    places = {name: folder / name for name in ("home", "cache", "temporary", "here")}
    for place in places.values():
        place.mkdir()
    environment = {
        **{
            k: v
            for k, v in os.environ.items()
            if k not in ("TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR")
        },
        "HOME": str(places["home"]),
        "XDG_CACHE_HOME": str(places["cache"]),
        "TMPDIR": str(places["temporary"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    found = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "offline.py"), *lines],
        env=environment, cwd=places["here"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name, place in places.items():
        assert not list(place.rglob("*")), name
    return json.loads(found.stdout.splitlines()[-1])


def test_a_check_fetches_and_writes_nothing(tmp_path: Path) -> None:
    """Also of weights that only a metric or nobody reads."""
    line = f"check ucgan_full {PHANTOM} {FETCHING}"
    found = offline(tmp_path, line)
    assert found["asked"] == []
    assert found["ended"][line]["code"] == 0, found["ended"][line]["said"]
    assert "23,5" in found["ended"][line]["said"]  # the parameters of the ResNet-50


@pytest.mark.slow
def test_no_shipped_recipe_needs_the_network_to_be_looked_at(tmp_path: Path) -> None:
    lines = [f"check {name} {PHANTOM}" for name in shipped()]
    lines += ["list-plugins", "recipes", "schema", "describe extractor inception"]
    lines += ["describe classifier xrv_densenet121"]
    found = offline(tmp_path, *lines)
    assert found["asked"] == []
    for line, ended in found["ended"].items():
        assert ended["code"] == 0, (line, ended["said"])


class Published(Classifier):
    """A third party's: torchvision's own way to come by weights"""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = torchvision.models.resnet18(weights="DEFAULT")
        self.network.fc = nn.Linear(512, len(task.classes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(images.expand(-1, 3, -1, -1))}


class Fetching(Published):
    """A third party's: a way that nobody knows"""

    def __init__(self, task: Task) -> None:
        urllib.request.urlopen("http://localhost:9/weights")
        super().__init__(task)


class Writing(Published):
    """A third party's: it leaves a file where it is built"""

    def __init__(self, task: Task) -> None:
        Path("cache.bin").write_bytes(b"")
        super().__init__(task)


@pytest.mark.parametrize("part", [Published, Fetching, Writing])
def test_a_third_partys_weights_are_not_fetched_either(
    part: type[Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*of: object, **how: object) -> None:
        pytest.fail("it was fetched")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setitem(installed().get("classifier", "resnet18").__dict__, "cls", part)
    words = f"check baseline_resnet50 {PHANTOM} --set classifier.plugin=resnet18".split()
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 0, found.output
    if part is Published:
        assert "classification" in found.output
    else:
        assert "cannot be built here: it tried to " in " ".join(found.output.split())
    assert not list(tmp_path.iterdir())


def test_a_local_file_of_weights_is_looked_at(tmp_path: Path) -> None:
    """A missing one, one of another network, and one that is none are said; nothing is fetched."""
    task = Task(32, ("A", "B"), exclusive=True)
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    (tmp_path / "none.safetensors").write_text("none")
    for name, says in (
        ("other.safetensors", "does not fit this network"),
        ("other.pth", "does not fit this network"),
        ("none.safetensors", "not a file of weights"),
        ("missing.pth", "no such file"),
    ):
        with pytest.raises(UserError, match=says), planning():
            dry_build(load("baseline_resnet50", [f"classifier.weights={tmp_path / name}"]), task)


def test_after_a_plan_weights_are_fetched_and_files_written_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torchvision.models.resnet18(num_classes=2)
    before = (torch.hub.load_state_dict_from_url, nn.Module.load_state_dict)
    with planning():
        assert download_weights(torchvision.models.ResNet18_Weights.DEFAULT) == {}
        load_matching(network, {}, "nothing", last="fc.")
        with pytest.raises(Blocked, match=r"tried to write .*a\.txt"):
            (tmp_path / "a.txt").write_text("no")
        with pytest.raises(Blocked):
            (tmp_path / "folder").mkdir()
    assert (torch.hub.load_state_dict_from_url, nn.Module.load_state_dict) == before
    (tmp_path / "a.txt").write_text("yes")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    assert set(read_weights(tmp_path / "weights.pth")) == set(network.state_dict())
    with pytest.raises(UserError, match="does not fit"):
        load_matching(network, {}, "nothing", last="fc.")


def test_a_run_fetches_weights_when_it_is_rehearsed_and_once_more_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before images are decoded, and from the cache where it needs them."""
    asked: list[bool] = []

    def fetched(*of: object, **how: object) -> dict[str, Tensor]:
        asked.append(True)
        return torchvision.models.resnet18().state_dict()

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fetched)
    recipe = load(
        "baseline_resnet50", ["classifier.plugin=resnet18", "classifier.weights=imagenet"]
    )
    task = Task(32, ("A", "B"), exclusive=True)
    dry_build(recipe, task)
    assert len(asked) == 1
    assemble(recipe, task)
    assert len(asked) == 2
    with planning():
        dry_build(recipe, task)
        assemble(recipe, task)
    assert len(asked) == 2


def test_frozen_parameters_are_told_from_those_that_learn() -> None:
    words = f"check linear_probe {PHANTOM} --set classifier.weights=random".split()
    output = CliRunner().invoke(cli, words).output
    network = next(line for line in output.splitlines() if "timm" in line)
    assert "19,215 of 3,389,647" in network  # of 15 classes: 1,280 weights and a bias each
