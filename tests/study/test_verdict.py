"""What a study says: verdicts at the right level, choices in their order, files that agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xraygan.rundir.directory import RunDirectory
from xraygan.statistics.paired_bootstrap import Estimate
from xraygan.statistics.seed_variance import SeedVariance
from xraygan.study import choice as choosing
from xraygan.study import verdict
from xraygan.study.choice import Chooser
from xraygan.study.design import AGAIN, BEFORE, MIXED, Arm, Images, describe_real
from xraygan.study.figure import _figure
from xraygan.study.verdict import Outcome, recommendation, sentence
from xraygan.sweep.file import Row
from xraygan.sweep.plan import Run


def gap(value: float, spread: float, seeds: int = 5) -> Estimate:
    """A difference with a standard error of ``spread`` between seeds."""
    variance = SeedVariance(0.0, spread**2, seeds)
    width = variance.half_width()
    values = dict.fromkeys(range(seeds), value)
    return Estimate(values, (value - width, value + width), None, variance)


def found(gaps: Mapping[int | None, Estimate]) -> tuple[verdict.Outcomes, dict[int | None, str]]:
    plain = {
        real: {AGAIN: Outcome(Estimate({0: 0.8})), MIXED: Outcome(Estimate({0: 0.8}), one)}
        for real, one in gaps.items()
    }
    chosen: dict[int | None, str] = dict.fromkeys(gaps, MIXED)
    return verdict._tested(plain, chosen), chosen


def test_a_verdict_needs_p_below_the_level_after_holm() -> None:
    # Of four p-values that are 0.02 alone, none is below 0.05 after Holm; one alone is.
    one = gap(0.03, 0.03 / 3.75)
    assert one.p == pytest.approx(0.02, abs=0.005)
    alone, _ = found({20: one})
    assert alone[20][MIXED].verdict == "gain"
    among, _ = found({20: one, 40: one, 100: one, None: one})
    assert among[20][MIXED].verdict == "none shown"
    assert among[20][MIXED].adjusted == pytest.approx(4 * (one.p or 0))
    said = sentence(among[20][MIXED], "AUC")
    assert said.startswith(f"no gain shown: {one.value:+.3f} (+") and ", p = 0.08" in said
    assert " (Holm, 4 comparisons); this design" in said
    assert "Holm" not in sentence(alone[20][MIXED], "AUC")
    assert among[20][MIXED].detectable > alone[20][MIXED].detectable  # type: ignore[operator]


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (
            0.05,
            "gain",
            "gain: +0.050 (+0.022 to +0.078) AUC against repeated real images",
        ),
        (-0.05, "loss", "loss: -0.050 (-0.078 to -0.022) AUC"),
        (0.004, "none shown", "no gain shown: +0.004 (-0.024 to +0.032) AUC"),
    ],
)
def test_the_sentence_says_how_much_and_how_sure(value: float, kind: str, said: str) -> None:
    tested, _ = found({20: gap(value, 0.01)})
    outcome = tested[20][MIXED]
    assert outcome.verdict == kind and sentence(outcome, "AUC").startswith(said)
    shown = f"; this design could have shown about {outcome.detectable:.3f}"
    assert sentence(outcome, "AUC").endswith(shown) == (kind == "none shown")


@pytest.mark.parametrize(("value", "kind"), [(0.1, "gain"), (0.3, "loss")])
def test_less_may_be_better(value: float, kind: str, tmp_path: Path) -> None:
    def run(arm: str, seed: int, value: float) -> Run:
        metrics = {"brier/mean": {"value": value, "better": "lower"}}
        folder = tmp_path / f"{arm}-{seed}"
        folder.mkdir()
        (folder / "evaluation.json").write_text(json.dumps({"step": 1, "metrics": metrics}))
        row = Row("", arm, describe_real(20), "", {})
        return Run(row, seed, RunDirectory(folder), tmp_path, tmp_path)

    seeds = range(5)
    runs = [run(AGAIN, seed, 0.2 + 0.001 * seed) for seed in seeds]
    runs += [run(MIXED, seed, value + 0.002 * seed) for seed in seeds]
    outcome = verdict.outcomes(runs, [20], {20: MIXED}, "brier/mean")[20][MIXED]
    assert outcome.verdict == kind
    said = sentence(outcome, "brier/mean")
    assert said.startswith(f"{kind}: {value - 0.198:+.3f} (")
    assert "brier/mean (less is better) against repeated real images" in said


def test_a_difference_that_cannot_be_tested_shows_nothing() -> None:
    outcome = Outcome(Estimate({0: 0.8}), Estimate({0: 0.1}, why="one seed does not show it"))
    assert outcome.verdict == "none shown"
    assert sentence(outcome, "AUC") == (
        "not tested, one seed does not show it: +0.100 AUC against repeated real images"
    )


def test_the_recommendation_names_gains_losses_and_copies() -> None:
    tested, chosen = found({20: gap(0.05, 0.01), 100: gap(-0.05, 0.01), None: gap(0, 0.01)})
    assert recommendation(tested, chosen, "none") == (
        "The generated images help with real images: 20 a class; they do harm with real images: "
        "100 a class"
    )
    for audit in ("copies", "leaks"):
        assert recommendation(tested, chosen, audit).startswith("NOT RECOMMENDED: the audit found")
    none, chosen = found({20: gap(0.0, 0.01)})
    assert recommendation(none, chosen, "unlike") == "No help is shown"


class Choices(Chooser):
    """A chooser whose runs have the figures that a test gives them."""

    def __init__(self, design: Any, pool: Any, figures: Mapping[str, float], sign: int) -> None:
        super().__init__(design, pool, None, None, None)  # type: ignore[arg-type]
        self.figures, self.sign, self.asked = figures, sign, []

    def _run(self, arms: Mapping[int | None, Any]) -> None:
        for real, some in arms.items():
            for arm in some:
                self.asked.append(arm.name)
                self._measured.setdefault(real, {})[arm.name] = {
                    0: type("Run", (), {
                        "value": lambda self, _, n=arm.name: sign * figures[n],
                        "sign": lambda *_: sign,
                    })()
                }  # fmt: skip
        figures, sign = self.figures, self.sign

    def _filtered(self, real: int | None, arm: Arm) -> list[Arm]:
        assert arm.images is not None
        return [arm, choosing.candidate(Images(Path("f.csv"), arm.images.ratio, "density", 0.5))]


@pytest.mark.parametrize(
    ("better", "ratio", "filtered", "use"),
    [
        ({}, 0.5, "", MIXED),
        ({"ratio 2": 0.9}, 2, "", MIXED),
        ({"ratio 2": 0.9, "ratio 2, density (50%)": 0.95}, 2, "density (50%)", MIXED),
        ({"ratio 0.5, density (50%)": 0.95, BEFORE: 0.97}, 0.5, "density (50%)", BEFORE),
        ({"ratio 2, density (50%)": 0.99}, 0.5, "", MIXED),  # at a ratio that was not chosen
        ({AGAIN: 0.99}, 0.5, "", MIXED),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_ratio_is_chosen_first_then_the_filter_then_the_order(
    sign: int,
    better: dict[str, float],
    ratio: float,
    filtered: str,
    use: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["ratio 0.5", "ratio 2"]
    names += [f"{name}, density (50%)" for name in names] + [BEFORE, AGAIN]
    monkeypatch.setattr(choosing, "difference", lambda *_: Estimate({0: 0.0}))
    options = type("Options", (), {
        "ratios": (0.5, 2.0), "filters": ("none", "density"), "metric": "auc", "arms": ("before",),
    })  # fmt: skip
    pool = type("Pool", (), {
        "real": {20: None}, "table": Path("all.csv"),
        "suffices": lambda self, real, ratio: True, "largest": lambda self, real, ratios: 2.0,
    })()  # fmt: skip
    design = type("Design", (), {"options": options, "folder": Path()})
    chooser = Choices(design, pool, dict.fromkeys(names, 0.8) | better, sign)
    chosen = chooser.choose()[20]
    some = Images(Path("f.csv"), ratio, "density", 0.5)
    assert chosen.mixed == Arm(MIXED, some if filtered else Images(Path("all.csv"), ratio))
    assert chosen.mixed.images is not None and chosen.mixed.images.filtered == filtered
    assert chosen.use == use and chosen.before.use == "before"
    assert chooser.asked[:3] == [AGAIN, "ratio 0.5", "ratio 2"]
    assert AGAIN not in chosen.tried and BEFORE in chosen.tried


def test_a_picture_names_each_candidate_where_columns_have_others() -> None:
    """Columns share their rows: a candidate of one must not bear the name of another's."""

    def one(value: float) -> dict[str, Any]:
        interval = [value - 0.01, value + 0.01]
        return {"difference": {"value": value, "seeds": {}, "interval": interval}}

    tried = [{"ratio 1": one(0.1), "ratio 5, density": one(0.2), BEFORE: one(0.3)},
             {"ratio 1": one(0.4), "ratio 1, density": one(0.5), BEFORE: one(0.6)}]  # fmt: skip
    real = [
        {"described": str(i), "chosen": MIXED, "arms": {AGAIN: {}, MIXED: one(0.7)},
         "tried_on_validation": some}
        for i, some in enumerate(tried)
    ]  # fmt: skip
    (above, _, *below) = _figure({"real": real, "metric": "AUC"}).axes
    names = [label.get_text() for label in below[0].get_yticklabels()]
    assert not below[0].get_shared_x_axes().joined(below[0], above)  # of few runs, so wider
    for axes, some in zip(below, tried, strict=True):
        dots = {
            names[int(line.get_ydata()[0])]: line.get_xdata()[0]  # type: ignore[index]
            for line in axes.lines
            if line.get_marker() == "o"
        }
        assert dots == {name: figures["difference"]["value"] for name, figures in some.items()}
