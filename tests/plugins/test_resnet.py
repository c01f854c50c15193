"""ResNets as rulers: a run's classifier, fixed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from xraygan_resnet.extractors import ResNet18Features
from xraygan_resnet.networks import ResNet18

from xraygan import Task, UserError


def test_a_runs_classifier_as_an_extractor(tmp_path: Path) -> None:
    """From a checkpoint's file, the maps are the classifier's own."""
    torch.manual_seed(0)
    classifier = ResNet18(Task(32, ("a", "b", "c"), exclusive=True)).eval()
    file = tmp_path / "classifier.safetensors"
    save_file(classifier.state_dict(), file)
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    expected = classifier(images)
    found = ResNet18Features(weights=file).eval()(images)
    assert list(found) == ["layer1", "layer2", "layer3", "layer4"]
    assert all(torch.equal(maps, expected[name]) for name, maps in found.items())
    assert torch.equal(found["layer4"].mean(dim=(2, 3)), expected["features"])
    save_file({"network.conv1.weight": torch.zeros(64, 1, 7, 7)}, file)
    with pytest.raises(UserError, match="does not fit this network"):
        ResNet18Features(weights=file)
