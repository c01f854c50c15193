"""What the tables of a recipe compute: lengths, learning rates, phases, the parts they name."""

from __future__ import annotations

import math

import pytest

from xraygan.recipe.optimization import Optimizer, Phase, Schedule
from xraygan.recipe.schema import Named, RecipeConfig, Run, Score


def test_a_run_is_as_long_as_its_steps_or_epochs() -> None:
    assert Run(steps=7).total(5) == 7
    assert Run(epochs=3).total(5) == 15


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.4, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2), (0.6, 0.55)],
)
def test_a_learning_rate_rises_and_falls_by_half_a_cosine(progress: float, factor: float) -> None:
    found = Optimizer(schedule="cosine", warmup=0.2, floor=0.1).factor(progress)
    assert found == pytest.approx(factor)


def test_a_constant_learning_rate_rises_too() -> None:
    words = Optimizer(warmup=0.5, floor=0.1)
    assert [words.factor(x) for x in (0.0, 0.25, 0.5, 0.9)] == [0.0, 0.5, 1.0, 1.0]
    assert Optimizer().factor(0.0) == 1.0
    assert Optimizer(schedule="cosine").factor(0.0) == 1.0
    assert Optimizer(schedule="cosine", floor=0.2).factor(1 - 1e-9) == pytest.approx(0.2)


def test_an_update_is_due_in_its_ratio() -> None:
    def due(ratio: str, count: int) -> list[tuple[bool, bool]]:
        return [Phase(ratio=ratio).due(step) for step in range(count)]

    assert due("1:1", 2) == [(True, True)] * 2
    assert due("3:1", 4) == [(True, False), (True, False), (True, True), (True, False)]
    assert due("1:2", 3) == [(False, True), (True, True), (False, True)]
    assert due("3:2", 4) == [(True, False), (True, True), (True, True), (True, False)]
    assert due("2:3", 4) == [(False, True), (True, True), (True, True), (False, True)]


def test_a_phase_lasts_until_its_share_of_the_run() -> None:
    first, second, last = Phase(until=0.25), Phase(until=0.5, ratio="2:1"), Phase(ratio="3:1")
    schedule = Schedule(phases=[first, second, last])
    found = [schedule.phase(x) for x in (0.0, 0.2499, 0.25, 0.4999, 0.5, 0.99, 1.0)]
    assert found == [first, first, second, second, last, last, last]


def test_the_parts_that_tables_name_by_kind() -> None:
    part = {"plugin": "one"}
    tables = RecipeConfig.model_validate(
        {
            "run": {"steps": 1},
            "data": {"plugin": "phantom"},
            "classifier": part,
            "labeler": part,
            "scores": {"a": part, "b": part},
            "extractors": {"c": part},
            "metrics": {"d": part},
            "trackers": {"e": part},
        }
    )
    found = tables.parts()
    assert {table: kind for table, (kind, _) in found.items()} == {
        "data": "dataset",
        "classifier": "classifier",
        "labeler": "labeler",
        "scores.a": "score",
        "scores.b": "score",
        "extractors.c": "extractor",
        "metrics.d": "metric",
        "trackers.e": "tracker",
    }
    assert found["data"][1] is tables.data and found["classifier"][1] is tables.classifier
    assert isinstance(found["scores.b"][1], Score) and isinstance(found["trackers.e"][1], Named)
    assert found["scores.b"][1] is tables.scores["b"]
