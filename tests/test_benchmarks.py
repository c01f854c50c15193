"""The benchmarks run and report figures that can be read; how large they are is not tested."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    "name",
    [
        "startup",
        pytest.param("step", marks=pytest.mark.slow),
        pytest.param("data", marks=pytest.mark.slow),
        pytest.param("memory", marks=pytest.mark.slow),
        pytest.param("scaling", marks=pytest.mark.slow),
        pytest.param("depthwise", marks=pytest.mark.slow),
        pytest.param("quality", marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_prints_json_alone(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--fast", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {*found} == {"title", "rows", "notes", "machine"}
    assert {"python", "torch", "cores"} <= {*found["machine"]}
    ratios = []
    for row in found["rows"]:
        assert {*row} == {"what", "value", "unit", "ratio", "to"}
        assert row["what"] and row["unit"]
        assert math.isfinite(row["value"]) and row["value"] > 0
        assert (row["ratio"] is None) == (row["to"] == "")
        if row["ratio"] is not None:
            ratios.append(row["ratio"])
    assert len(ratios) >= 3
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios)


def test_candidates_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from common import Report, in_turn, median

    calls: list[str] = []

    def rate() -> float:
        calls.append("rate")
        return float(len(calls))

    figures = in_turn({"rate": rate, "time": lambda: calls.append("time")}, 3)
    assert calls == ["rate", "time"] * 4  # the first time does not count
    assert figures["rate"] == [3.0, 5.0, 7.0]
    assert len(figures["time"]) == 3 and min(figures["time"]) > 0
    report = Report("title")
    report.add("ours", 6.0, "s", median(figures["rate"]), "theirs")
    assert json.loads(report.as_json())["rows"][0]["ratio"] == 6.0 / 5.0


@pytest.mark.slow
def test_the_plain_loop_computes_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from plain import PlainLoop
    from step import SET, SMALL, Case

    from xraygan.recipe.loading import load

    recipe = load("ucgan_full", [*SET, *SMALL, "run.device=cpu"])
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # rounding grows to per cents within a few steps
    try:
        case = Case(recipe, "fp32")
        plain = PlainLoop(case.graph, recipe)
        for step in range(3):
            latent = case.latent(step)
            ours = {name: float(value) for name, value in case.train().items()}
            theirs = plain.step(case.real, case.labels, latent)
            assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-9)
    finally:
        torch.set_default_dtype(usual)
