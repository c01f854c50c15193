"""Figures by age, sex and view, against the same figures of the images of a group alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from measured import Measured, predictions
from sklearn.metrics import roc_auc_score
from xraygan_metrics.classification import AUC
from xraygan_metrics.operating_point import SensitivityAtSpecificity
from xraygan_metrics.subgroups import Subgroups, age_bands

from xraygan import UserError
from xraygan.utils.naming import subgroup_figure


def grouped(n: int = 600, *, validation: bool = True) -> Measured:
    """Images of 300 patients: of women, men and unknown, of all ages, all of them PA."""
    measured = predictions(n, per_patient=2)
    random = np.random.default_rng(3)
    patients = n // 2
    sex = random.choice([0.0, 1.0, np.nan], p=[0.3, 0.6, 0.1], size=patients).repeat(2)
    age = random.integers(0, 90, size=patients).astype(float).repeat(2)
    metadata = {"age": age, "sex": sex, "view": np.ones(n)}
    measured.test = SimpleNamespace(metadata=metadata)
    if validation:
        other = predictions(200)
        measured.validation = SimpleNamespace(label_matrix=other.labels, patients=other.patients)
        measured.validation_probs = np.random.default_rng(7).dirichlet(np.ones(3), size=200)
    return measured


def alone(measured: Measured, rows: np.ndarray) -> Measured:
    """The evaluation of some of the images."""
    part = Measured(("A", "B", "C"), labels=measured.labels[rows], probs=measured.probs[rows])
    part.patients = measured.patients[rows]
    part.validation, part.validation_probs = measured.validation, measured.validation_probs
    return part


def test_each_groups_figures_are_those_of_its_images_alone() -> None:
    measured = grouped()
    found = Subgroups(by=("sex",)).compute(measured)
    for value, group in ((0.0, "F"), (1.0, "M")):
        rows = measured.test.metadata["sex"] == value
        part = alone(measured, rows)
        expected = AUC().compute(part) | SensitivityAtSpecificity().compute(part)
        for name, other in expected.items():
            if name in ("sensitivity/0.9/mean", "specificity/0.9/mean"):
                continue
            one = found[f"{name}[sex={group}]"]
            assert one.value == pytest.approx(other.value), name
            assert one.n == rows.sum()
            # Other resamples, since patients of all groups are drawn.
            assert one.interval == pytest.approx(other.interval, abs=0.03), name
        count = found[f"images[sex={group}]"]
        patients = len(set(measured.patients[rows]))
        assert count.value == rows.sum() and f"600 test images; {patients} patients" in count.note
    unknown = found["images[sex=unknown]"]
    assert unknown.value == np.isnan(measured.test.metadata["sex"]).sum() > 0
    assert "in no group" in unknown.note
    assert {subgroup_figure(name).key for name in found} == {"sex"}


def test_the_difference_of_two_groups_and_of_a_band_and_the_others() -> None:
    measured = grouped()
    found = Subgroups(by=("sex", "age", "view"), ages=(30, 60)).compute(measured)
    sex, age = measured.test.metadata["sex"], measured.test.metadata["age"]
    one = found["auc_difference/A[sex=F]"]
    expected = found["auc/A[sex=F]"].value - found["auc/A[sex=M]"].value
    assert one.value == pytest.approx(expected)
    assert "auc_difference/A[sex=M]" not in found  # it is minus the other one
    assert one.interval is not None and one.interval[0] < one.value < one.interval[1]
    assert "descriptive" in one.note and one.limits == (-1.0, 1.0)
    others = (age < 30) | (age >= 60)
    truth, probs = measured.labels[:, 1], measured.probs[:, 1]
    expected = found["auc/B[age=30-59]"].value - roc_auc_score(truth[others], probs[others])
    assert found["auc_difference/B[age=30-59]"].value == pytest.approx(expected)
    assert {"auc/A[age=0-29]", "auc/A[age=60+]", "auc/A[view=PA]"} <= found.keys()
    assert not any("difference" in name and "view" in name for name in found)  # one group alone
    assert np.isnan(sex).any()


def test_groups_that_do_not_differ_have_a_difference_of_about_0_and_others_do_not() -> None:
    measured = grouped()
    same = Subgroups(by=("sex",)).compute(measured)["auc_difference/A[sex=F]"]
    assert same.interval is not None and same.interval[0] < 0 < same.interval[1]
    women = measured.test.metadata["sex"] == 0
    measured.probs[women] = np.random.default_rng(0).dirichlet(np.ones(3), size=women.sum())
    worse = Subgroups(by=("sex",)).compute(measured)["auc_difference/A[sex=F]"]
    assert worse.interval is not None and worse.interval[1] < 0


def test_a_group_of_few_patients_says_so_and_has_no_figure() -> None:
    measured = grouped()
    women = np.flatnonzero(measured.test.metadata["sex"] == 0)
    measured.labels[women, 0] = 0
    measured.labels[women[:4], 0] = 1  # of two patients
    found = Subgroups(by=("sex",)).compute(measured)
    assert found["auc/A[sex=F]"].value is None
    assert found["auc/A[sex=F]"].note == "4 positive images of 2 patients, fewer than 5"
    assert found["sensitivity/0.9/A[sex=F]"].value is None
    assert found["specificity/0.9/A[sex=F]"].value is not None
    assert found["auc/mean[sex=F]"].note == "1 of 3 classes have no AUC here"
    assert "auc_difference/A[sex=F]" not in found
    found = Subgroups(by=("sex",), least=2).compute(measured)
    assert found["auc/A[sex=F]"].value is not None


def test_without_validation_images_only_the_aucs_are_measured() -> None:
    found = Subgroups().compute(grouped(validation=False))
    assert found and not any("sensitivity" in name for name in found)


def test_a_data_set_without_metadata_says_so() -> None:
    measured = grouped()
    measured.test.metadata["age"] = np.full(600, np.nan)
    found = Subgroups(by=("age",)).compute(measured)
    assert [*found] == ["images[age=unknown]"]
    assert found["images[age=unknown]"].note == (
        "the data set gives the age of no test image, so there are no figures by age"
    )


def test_bands_of_age_are_whole_years_and_an_unknown_age_is_in_none() -> None:
    bands = age_bands(np.array([0, 17.9, 18, 59, 60, 99, np.nan]), (18, 60))
    assert {name: rows.tolist() for name, rows in bands.items()} == {
        "0-17": [True, True, False, False, False, False, False],
        "18-59": [False, False, True, True, False, False, False],
        "60+": [False, False, False, False, True, True, False],
    }
    assert [*age_bands(np.zeros(1), ())] == ["0+"]
    for wrong in ((60, 40), (18.5,)):
        with pytest.raises(UserError, match="ages: expected rising whole numbers"):
            Subgroups(ages=wrong)


def test_the_name_of_a_subgroup_figure() -> None:
    found = subgroup_figure("auc/Effusion[sex=F]")
    assert found is not None and [*found] == ["auc/Effusion", "sex", "F"]
    assert found.name == "auc/Effusion[sex=F]"
    assert subgroup_figure("auc/Effusion") is None and subgroup_figure("mine[3]") is None
