"""The procedural radiographs: repeatable, the same at any size, and true to their findings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from xraygan_phantom.anatomy import Patient, render
from xraygan_phantom.dataset import Phantom
from xraygan_phantom.findings import FINDINGS

from xraygan import UserError


def pair(finding: str, number: int, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """The same patient's radiograph without and with a finding, as float arrays."""
    patient = Patient.draw(0, number)
    found = [render(patient, 0, names, size).astype(float) for names in ((), (finding,))]
    return found[0], found[1]


def test_the_same_options_give_the_same_pixels_in_any_order_and_thread() -> None:
    data = Phantom(None, images=24)
    paths = list(data.index()["path"])
    first = {path: data.load(path, 32) for path in paths}
    with ThreadPoolExecutor(4) as pool:
        again = pool.map(lambda path: Phantom(None, images=24).load(path, 32), reversed(paths))
    for path, image in zip(reversed(paths), again, strict=True):
        assert np.array_equal(first[path], image)
    assert not np.array_equal(Phantom(None, images=24, seed=1).load(paths[0], 32), first[paths[0]])
    assert Phantom(None, images=24, seed=1).identity(paths[0]) != data.identity(paths[0])


def test_patients_stay_in_one_split_and_classes_come_alike() -> None:
    table = Phantom(None, images=3000).index()
    assert len(table) == 3000 and table["path"].is_unique
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert 0.2 < (table["split"] == "test").mean() < 0.3
    assert set(table["labels"].map(len)) == {1}
    assert table["labels"].value_counts().to_dict() == {(name,): 200 for name in Phantom.classes}
    both = Phantom(None, images=3000, multiple=0.5).index()["labels"]
    assert 0.4 < (both.map(len) == 2).mean() < 0.55


def test_findings_choose_what_is_drawn() -> None:
    table = Phantom(None, images=10, findings=("Mass", "Edema")).index()
    assert set(table["labels"]) == {("Mass",), ("Edema",)}
    with pytest.raises(UserError, match="Masss"):
        Phantom(None, findings=("Masss",))


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_a_picture_is_the_same_at_any_size(size: int) -> None:
    image = render(Patient.draw(0, 3), 0, (), size)
    assert image.shape == (size, size) and image.dtype == np.uint8
    large = render(Patient.draw(0, 3), 0, (), 512).astype(float)
    small = large.reshape(size, 512 // size, size, 512 // size).mean(axis=(1, 3))
    assert np.abs(small - image).mean() < 6
    assert np.ptp(image) > 150


@pytest.mark.parametrize("finding", list(FINDINGS))
def test_every_finding_is_seen_in_every_patient(finding: str) -> None:
    for number in range(4):
        without, with_it = pair(finding, number)
        changed = np.abs(with_it - without) > 12
        assert 0.002 < changed.mean() < 0.5, (finding, number)


def test_lungs_are_darker_than_heart_and_abdomen() -> None:
    for number in range(6):
        image = render(Patient.draw(0, number), 0, (), 64).astype(float)
        lungs = (image[20:38, 12:22].mean() + image[20:38, 42:52].mean()) / 2
        assert image[58:, 20:44].mean() > lungs + 60
        assert image[36:44, 30:36].mean() > lungs + 40


def test_cardiomegaly_widens_the_heart() -> None:
    def width(image: np.ndarray) -> int:
        row = image[72]  # through the ventricles
        return int((row[24:104] > (row.min() + row[60:68].max()) / 2 * 0.9).sum())

    for number in range(6):
        without, with_it = pair("Cardiomegaly", number)
        assert width(with_it) > 1.2 * width(without)


def test_effusion_brightens_one_base_and_pneumothorax_darkens_one_side() -> None:
    for number in range(6):
        without, with_it = pair("Effusion", number)
        gain = with_it - without
        low = [gain[76:92, 14:40].mean(), gain[76:92, 88:114].mean()]
        assert max(low) > 40 and min(low) < 5
        without, with_it = pair("Pneumothorax", number)
        loss = without - with_it
        assert loss.max() > 60 and loss[loss > 30].size > 150


def test_edema_spares_the_periphery() -> None:
    for number in range(6):
        without, with_it = pair("Edema", number)
        gain = with_it - without
        assert gain[56:76, 36:52].mean() > 25
        assert gain[40:90, 14:20].mean() < 10
