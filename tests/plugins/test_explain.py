"""Pictures of what networks look at: the equations against loops, the command on small runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from saved_run import CLASSIFIER, gan, saved, xraygan
from torch import Tensor
from xraygan_explain.cam import grad_cam
from xraygan_explain.drawing import overlay_heat
from xraygan_explain.latents import slerp
from xraygan_explain.pictures import Explanation, neighbours

from xraygan import UserError
from xraygan.session.session import restore_session
from xraygan.testing.stand_ins import Bench, StandInClassifier
from xraygan.utils.progress import Display

QUIET = Display(quiet=True)
ONE = ("--images", "1", "--quiet")

# -- Grad-CAM --------------------------------------------------------------------------------------


@pytest.fixture
def classifier() -> Any:
    return Bench().networks["classifier"].double().eval()


def images(count: int = 2) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 32, 32, generator=source, dtype=torch.float64) * 2 - 1


def after(classifier: Any, layer: str, maps: Tensor) -> Tensor:
    """The logits from a layer's maps on."""
    second = classifier.second(maps).tanh() if layer == "first" else maps
    return 20 * classifier.head(second.mean(dim=(2, 3)))


def interpolated(coarse: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, the corners of both grids on each other."""
    out = np.zeros((size, size))
    h = len(coarse)
    for y in range(size):
        for x in range(size):
            v, u = (min(max((i + 0.5) * h / size - 0.5, 0), h - 1) for i in (y, x))
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, h - 1)
            a, b = v - y0, u - x0
            top = (1 - b) * coarse[y0, x0] + b * coarse[y0, x1]
            bottom = (1 - b) * coarse[y1, x0] + b * coarse[y1, x1]
            out[y, x] = (1 - a) * top + a * bottom
    return out


@pytest.mark.parametrize("layer", ["first", "second"])
@pytest.mark.parametrize("column", [0, 2])
def test_grad_cam_is_that_of_a_loop(classifier: Any, layer: str, column: int) -> None:
    """With slopes by central differences, one entry of the maps at a time."""
    given = images()
    with torch.no_grad():
        every = classifier(given)[layer]
        step = 1e-5
        found = grad_cam(classifier, given, column, layer)
        for n in range(len(given)):
            maps = every[n : n + 1]
            _, channels, h, w = maps.shape
            total = np.zeros((h, w))
            for c in range(channels):
                slope = 0.0
                for i in range(h):
                    for j in range(w):
                        moved = torch.zeros_like(maps)
                        moved[0, c, i, j] = step
                        up, down = (after(classifier, layer, maps + s * moved) for s in (1, -1))
                        slope += float((up - down)[0, column]) / (2 * step)
                total += slope / (h * w) * maps[0, c].numpy()
            expected = interpolated(np.maximum(total, 0), 32)
            assert found[n].numpy() == pytest.approx(expected, abs=1e-7)
            assert expected.max() > 0 or layer == "second"


def test_the_last_map_is_the_default_and_the_classifier_is_left_as_it_was(
    classifier: Any,
) -> None:
    classifier.train().requires_grad_(False)  # as an average is
    given = images(3)
    found = grad_cam(classifier, given, 1)
    assert torch.equal(found, grad_cam(classifier, given, 1, "second"))
    assert found.shape == (3, 32, 32) and found.dtype == torch.float64
    # No image's map depends on the others.
    assert torch.allclose(found[1], grad_cam(classifier, given[1:2], 1)[0], atol=1e-12)
    assert classifier.training and not given.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_a_layer_that_cannot_be_weighed_is_refused(
    classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no feature map is named 'frist'; did you mean 'first'"):
        grad_cam(classifier, images(), 0, "frist")
    forward = StandInClassifier.forward
    monkeypatch.setattr(
        StandInClassifier, "forward", lambda self, x: {"aside": x * 2, **forward(self, x)}
    )
    with pytest.raises(UserError, match="do not depend on its 'aside'"):
        grad_cam(classifier, images(), 0, "aside")
    flat = {"features": torch.zeros(2, 3), "logits": torch.zeros(2, 3)}
    monkeypatch.setattr(StandInClassifier, "forward", lambda self, x: flat)
    with pytest.raises(UserError, match="returns no feature map"):
        grad_cam(classifier, images(), 0)


def test_heat_covers_the_grey_image_where_it_is_hot() -> None:
    grey = np.full((2, 3, 3), 100, dtype=np.uint8)
    heat = np.zeros((2, 3, 3))
    heat[1, 0, 0] = 7.0
    mixed = overlay_heat(grey, heat)
    cold = np.ones((2, 3, 3), dtype=bool)
    cold[1, 0, 0] = False
    assert (mixed[cold] == 100).all()
    assert (mixed[1, 0, 0] != 100).any()


# -- latents ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.floats(0, 1), st.integers(2, 64))
def test_slerp_turns_by_a_share_of_the_angle(seed: int, share: float, size: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, size))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    across = b - (a @ b) * a
    angle = math.acos(np.clip(a @ b, -1, 1)) * share
    expected = math.cos(angle) * a + math.sin(angle) * across / np.linalg.norm(across)
    pair = (torch.from_numpy(x)[None] for x in (a, b))
    found = slerp(*pair, torch.tensor([share], dtype=torch.float64))
    assert found.shape == (1, 1, size)
    assert found[0, 0].numpy() == pytest.approx(expected, abs=1e-6)


def test_slerp_ends_at_its_ends_and_is_straight_without_a_circle() -> None:
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    b = torch.tensor([[-2.0, 5.0], [3.0, 6.0], [-1.0, -2.0]])  # any, the same way, the opposite
    found = slerp(a, b, torch.tensor([0.0, 0.25, 1.0]))
    assert found.dtype == a.dtype
    assert torch.allclose(found[:, 0], a, atol=1e-6) and torch.allclose(found[:, 2], b, atol=1e-6)
    assert torch.allclose(found[1:, 1], (0.75 * a + 0.25 * b)[1:])


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("c"), gan("cgan"), CLASSIFIER)


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("u"), gan("dcgan"), CLASSIFIER)


def pictures(place: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((place / "explain").glob("*"))}


def test_every_picture_of_a_run_that_has_every_network(
    conditional: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["--images", "2", "--quiet"]
    said = xraygan(capsys, "explain", conditional, *small).splitlines()
    names = ["grad_cam", "latents", "classes", "neighbours"]
    assert said == [str(conditional / "explain" / f"{name}.png") for name in names]
    first = pictures(conditional)
    assert set(first) == set(names)
    for path in said:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
    # The folder is of no concern to a dataset that reads none.
    xraygan(capsys, "explain", conditional, *small, "--set", f"data.root={tmp_path / 'nowhere'}")
    assert pictures(conditional) == first
    said = xraygan(
        capsys, "explain", conditional, "--images", "1", "--seed", "1", "--class", "Edema",
        "--layer", "layer2", "--checkpoint", "1", "--out", tmp_path / "other",
    ).splitlines()  # fmt: skip
    assert said[-1] == "classes: left out, because there is only one class"
    assert not {path.read_bytes() for path in (tmp_path / "other").iterdir()} & {*first.values()}


def test_what_a_run_has_no_network_for_is_left_out_and_named(
    unconditional: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = xraygan(capsys, "explain", unconditional, *ONE).splitlines()
    assert said[3:] == ["classes: left out, because the generator is not conditional"]
    place = saved(tmp_path_factory.mktemp("g"), gan("dcgan"))
    said = xraygan(capsys, "explain", place, *ONE).splitlines()
    assert [Path(line).name for line in said[:2]] == ["latents.png", "neighbours.png"]
    assert said[2] == "grad_cam: left out, because the run has no classifier"
    said = xraygan(capsys, "explain", place, "--class", "Edema", code=2)
    assert "unconditional and it has no classifier" in said
    place = saved(tmp_path_factory.mktemp("k"), CLASSIFIER)
    said = xraygan(capsys, "explain", place, *ONE).splitlines()
    assert said[0] == str(place / "explain" / "grad_cam.png")
    assert said[1] == "latents: left out, because the run has no generator"
    assert said[-1] == "grad_cam: only real images, because the run has no generator"
    assert set(pictures(place)) == {"grad_cam"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--class", "Edma"], "--class: no class is named 'Edma'; did you mean 'Edema'"),
        (["--layer", "layr4"], "--layer: no feature map is named 'layr4'; did you mean 'layer4'"),
        (["--checkpoint", "7"], "there is no checkpoint '7'"),
        (["--images", "0"], "0 is not in the range 1<=x<=16"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    conditional: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    out = tmp_path / "pictures"
    assert says in xraygan(capsys, "explain", conditional, "--out", out, *words, code=2)
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_said_to_be(
    conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["--images", "1", "--out", tmp_path / "file" / "below"]
    assert "cannot be written" in xraygan(capsys, "explain", conditional, *words, code=2)


def test_the_nearest_of_a_training_image_is_itself(unconditional: Path) -> None:
    session, _, _ = restore_session(unconditional, (), QUIET)
    asked = Explanation(session, 2, (), None, 0, QUIET)
    train = asked.evaluation.train.images
    asked.__dict__["generated"] = {"Edema": train[torch.tensor([5, 0])], "Mass": train[7:8]}
    panels = neighbours(asked)
    assert [panel.title.split()[-1] for panel in panels] == ["pixels", "features"]
    for panel in panels:
        assert panel.names == ["Edema", "Mass", "Edema"]
        for row in panel.rows:
            (image, _), (found, far), *others = row
            assert np.array_equal(image, found) and float(far) < 1e-6
            assert len(others) == 4 and all(float(words) > 0 for _, words in others)


def test_generated_images_are_of_the_classes_that_are_shown(unconditional: Path) -> None:
    session, _, _ = restore_session(unconditional, (), QUIET)
    asked = Explanation(session, 3, (), None, 0, QUIET)
    for name, found in asked.generated.items():
        assert len(found) <= 3
        if len(found):
            probs = asked.evaluation.classify(found, real=False)[1]
            assert (probs.argmax(axis=1) == asked.columns[name]).all()
    assert sum(map(len, asked.generated.values())) > 0
    test = asked.evaluation.test
    for column in asked.columns.values():
        shown = asked.real(column)
        of_class = test.images[torch.from_numpy(test.label_matrix[:, column]).bool()]
        assert len(shown) == 3
        assert all((of_class == image).flatten(1).all(dim=1).any() for image in shown)
