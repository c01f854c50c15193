"""How often intervals hold the truth, on data whose truth is known.

`python benchmarks/interval_coverage.py auc` draws test lists of clustered patients and counts how
often the interval of the AUC holds the AUC that the scores were drawn with; `... share` does so for
a share, such as accuracy. `... difference` draws two systems that are equally good, trained with
several seeds, and counts how often the interval of their difference leaves out 0; `... mean` counts
how often that of a mean over seeds holds the AUC. `--draws` says how often each is drawn;
docs/metrics.md has the tables of 2,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from xraygan.statistics.intervals import (
    auc_interval,
    bootstrap_variance,
    percentile_interval,
    share_interval,
)
from xraygan.statistics.paired_bootstrap import mean_over_seeds
from xraygan.statistics.seed_variance import SeedVariance

RESAMPLES = 200  # a run takes 1,000; the variance of these is within 10 %
Array = np.ndarray


@dataclass(frozen=True)
class Patients:
    """A test list: patients with one image or more, each positive or negative.

    Attributes:
        member: ``(N,)`` whose image each is, 0, 1, ...
        truth: ``(N,)`` 0/1.
    """

    member: Array
    truth: Array

    @classmethod
    def draw(
        cls,
        random: np.random.Generator,
        positive: int,
        negative: int,
        more: float,
        mixed: float = 0,
    ) -> Patients:
        """Patients with 1 + Poisson(``more``) images.

        Args:
            mixed: the share of negative images among the further ones of positive patients.
        """
        images = 1 + random.poisson(more, positive + negative)
        member = np.repeat(np.arange(positive + negative), images)
        further = np.r_[False, member[1:] == member[:-1]]
        truth = member < positive
        truth &= ~(further & (random.random(len(member)) < mixed))
        return cls(member, truth.astype(np.int64))

    @property
    def count(self) -> int:
        return int(self.member[-1]) + 1

    def having(self, of: int) -> int:
        """How many patients have images of a class."""
        return len(np.unique(self.member[self.truth == of]))

    def resamples(self, random: np.random.Generator) -> Array:
        """How often each image is drawn, ``(B, N)``, patients with replacement."""
        even = np.full(self.count, 1 / self.count)
        drawn = random.multinomial(self.count, even, size=RESAMPLES)
        return drawn[:, self.member].astype(np.float32)


def auc(truth: Array, scores: Array) -> float:
    """By ranks, ties counted by half."""
    positives = int(truth.sum())
    ranks = rankdata(scores)[truth == 1].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * (len(truth) - positives)))


def resampled_auc(truth: Array, scores: Array, weights: Array) -> Array:
    """The AUC in each resample ``(B,)``, NaN where one has no images of a class."""
    up, down = truth == 1, truth == 0
    above = (scores[up][:, None] > scores[down]).astype(np.float32)
    above += (scores[up][:, None] == scores[down]) / np.float32(2)
    won = ((weights[:, up] @ above) * weights[:, down]).sum(axis=1)
    pairs = weights[:, up].sum(axis=1) * weights[:, down].sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, won / pairs, np.nan)


# -- one figure, over patients ---------------------------------------------------------------------


def drawn_scores(
    random: np.random.Generator, patients: Patients, truth: float, alike: float, width: float
) -> Array:
    """Scores ``(N,)`` of the images with an AUC of ``truth``; see :func:`auc_covered`."""
    noise = math.sqrt(alike) * random.standard_normal(patients.count)[patients.member]
    noise += math.sqrt(1 - alike) * random.standard_normal(len(patients.member))
    if width:
        mean = float(ndtri(truth)) * math.hypot(1, width)
        return np.where(patients.truth == 1, mean + width * noise, noise)
    easy = (random.random(patients.count) < 2 * truth - 1)[patients.member]
    return noise + 100 * (easy & (patients.truth == 1))


def auc_covered(
    random: np.random.Generator,
    positive: int,
    negative: int,
    truth: float,
    alike: float,
    width: float,
) -> tuple[bool, bool]:
    """Whether the score interval and the percentile interval of one test list hold the AUC.

    Args:
        truth: the AUC that the scores are drawn with.
        alike: correlation of the scores of a patient's images; 0 for one image each.
        width: standard deviation of positive scores, against 1 of negative ones; 0 for positive
            patients of whom some are above all others and the rest like negative ones.
    """
    patients = Patients.draw(random, positive, negative, 1.0 if alike else 0.0)
    scores = drawn_scores(random, patients, truth, alike, width)
    found = resampled_auc(patients.truth, scores, patients.resamples(random))
    variance = bootstrap_variance(found, min(positive, negative))
    value = auc(patients.truth, scores)
    low, high = auc_interval(value, variance, positive, negative)
    plain = percentile_interval(found) or (value, value)
    return low <= truth <= high, plain[0] <= truth <= plain[1]


def share_covered(
    random: np.random.Generator, count: int, truth: float, alike: float
) -> tuple[bool, bool]:
    """The same of a share: of ``count`` patients' images, each right with the chance ``truth``.

    Args:
        alike: correlation between the images of a patient, in (0, 1).
    """
    patients = Patients.draw(random, count, 0, 1.0)
    spare = 1 / alike - 1
    chance = random.beta(truth * spare, (1 - truth) * spare, count)[patients.member]
    right = (random.random(len(chance)) < chance).astype(np.float32)
    weights = patients.resamples(random)
    found = (weights @ right) / weights.sum(axis=1)
    value = float(right.mean())
    low, high = share_interval(value, bootstrap_variance(found, count), count)
    plain = percentile_interval(found) or (value, value)
    return low <= truth <= high, plain[0] <= truth <= plain[1]


# -- a difference, over seeds and patients ---------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Two systems that are equally good.

    Attributes:
        seeds: how many runs each has.
        sd: standard deviation of the AUC between seeds, on endless patients.
        truth: the AUC of both, about.
        own: share of the scores' variance that is each network's own.
        of_system: share that the networks of one system have in common.
        positive, negative: patients; 428 of them with 624 images in all, as in Zhang's test list.
    """

    seeds: int
    sd: float
    truth: float = 0.95
    own: float = 0.3
    of_system: float = 0.1
    positive: int = 270
    negative: int = 158

    def differences(self, random: np.random.Generator) -> tuple[Array, Array]:
        """The difference of each seed ``(S,)``, and in each resample ``(S, B)``."""
        values, found, _ = self._systems(random, 2)
        return values[0] - values[1], found[0] - found[1]

    def system(self, random: np.random.Generator) -> tuple[Array, Array, Patients]:
        """The AUC of each seed of one system ``(S,)``, in each resample ``(S, B)``, and of whom."""
        values, found, patients = self._systems(random, 1)
        return values[0], found[0], patients

    def _systems(self, random: np.random.Generator, count: int) -> tuple[Array, Array, Patients]:
        patients = Patients.draw(random, self.positive, self.negative, 0.46)
        mean = float(ndtri(self.truth)) * math.sqrt(2)
        slope = math.exp(-((mean / math.sqrt(2)) ** 2) / 2) / math.sqrt(4 * math.pi)
        weights = patients.resamples(random)

        def of_patients(share: float) -> Array:
            return math.sqrt(share) * random.standard_normal(patients.count)[patients.member]

        hard = of_patients(1 - self.own - self.of_system)
        values = np.empty((count, self.seeds))
        found = np.empty((count, self.seeds, RESAMPLES))
        for system in range(count):
            common = hard + of_patients(self.of_system)
            for seed in range(self.seeds):
                noise = math.sqrt(self.own) * random.standard_normal(len(patients.member))
                trained = mean + random.standard_normal() * self.sd / slope
                scores = trained * patients.truth + common + noise
                values[system, seed] = auc(patients.truth, scores)
                found[system, seed] = resampled_auc(patients.truth, scores, weights)
        return values, found, patients


def difference_excludes_zero(random: np.random.Generator, world: World) -> tuple[bool, bool]:
    """Whether the interval over seeds and patients leaves out 0, and that over patients alone."""
    values, resamples = world.differences(random)
    variance = SeedVariance.of([*values], [*resamples])
    low, high = percentile_interval(resamples.mean(axis=0)) or (0.0, 0.0)
    return abs(float(values.mean())) > variance.half_width(), not low <= 0 <= high


# -- a mean, over seeds and patients ---------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run as far as :func:`xraygan.statistics.paired_bootstrap.mean_over_seeds` reads it."""

    score: float
    interval: tuple[float, float]
    resampled: Array
    tested = ("these",)

    def value(self, _: str) -> float:
        return self.score

    def measured(self, _: str) -> dict[str, object]:
        return {"interval": self.interval, "limits": [0.0, 1.0]}

    def resamples(self, _: str) -> Array:
        return self.resampled


def mean_covered(random: np.random.Generator, world: World) -> tuple[bool, bool]:
    """Whether the interval of a system's mean AUC over its seeds holds the AUC, and that over
    patients alone (percentiles)."""
    values, found, patients = world.system(random)
    counts = (patients.having(1), patients.having(0))
    runs = {
        seed: Run(
            float(value),
            auc_interval(value, bootstrap_variance(resamples, min(counts)), *counts),
            resamples,
        )
        for seed, (value, resamples) in enumerate(zip(values, found, strict=True))
    }
    low, high = mean_over_seeds(runs, "auc").interval or (0.0, 0.0)  # type: ignore[arg-type]
    plain = percentile_interval(found.mean(axis=0)) or (0.0, 0.0)
    return low <= world.truth <= high, plain[0] <= world.truth <= plain[1]


# -- tables ----------------------------------------------------------------------------------------


def rate(found: Sequence[tuple[bool, bool]]) -> str:
    """Shares of both columns, as percentages."""
    return " / ".join(f"{100 * float(np.mean(one)):.1f}" for one in zip(*found, strict=True))


@click.group()
def main() -> None:
    """Coverage of intervals over patients, and level of differences over seeds."""


@main.command("auc")
@click.option("--draws", default=2000, show_default=True)
def of_auc(draws: int) -> None:
    """Coverage of the AUC's interval, and in the same cells of the percentile bootstrap's."""
    worlds = [(0.0, 1.0), (0.7, 1.0), (0.5, 0.6), (0.5, 1.5), (0.7, 0.0)]
    names = " | ".join(f"alike {alike:g}, width {width:g}" for alike, width in worlds)
    print(f"| positive, negative patients | AUC | {names} |\n| --- | --- |{' --- |' * len(worlds)}")
    for counts in ((5, 100), (10, 100), (10, 400), (20, 400), (60, 60), (270, 158)):
        for truth in (0.7, 0.9, 0.98):
            random = np.random.default_rng([*counts, int(100 * truth)])
            cells = [
                rate([auc_covered(random, *counts, truth, *world) for _ in range(draws)])
                for world in worlds
            ]
            print(f"| {counts[0]}, {counts[1]} | {truth} | {' | '.join(cells)} |", flush=True)


@main.command("share")
@click.option("--draws", default=2000, show_default=True)
def of_share(draws: int) -> None:
    """Coverage of the interval of a share, such as accuracy, and of the percentile bootstrap's."""
    alike = (0.3, 0.7)
    names = " | ".join(f"alike {one:g}" for one in alike)
    print(f"| patients | share | {names} |\n| --- | --- |{' --- |' * len(alike)}")
    for count in (5, 10, 30, 100, 428):
        for truth in (0.5, 0.8, 0.95, 0.98):
            random = np.random.default_rng([count, int(100 * truth)])
            cells = [
                rate([share_covered(random, count, truth, one) for _ in range(draws)])
                for one in alike
            ]
            print(f"| {count} | {truth} | {' | '.join(cells)} |", flush=True)


@main.command("difference")
@click.option("--draws", default=2000, show_default=True)
def of_difference(draws: int) -> None:
    """How often the interval of no difference leaves out 0, and that over patients alone."""
    seeds = (3, 5, 10)
    names = " | ".join(f"{count} seeds" for count in seeds)
    print(
        f"| AUC | own, of system | sd of seeds | {names} |\n| --- | --- | --- | --- | --- | --- |"
    )
    for truth in (0.85, 0.95):
        for own, of_system in ((0.1, 0.0), (0.3, 0.1), (0.1, 0.3)):
            for sd in (0.0, 0.003, 0.007, 0.02):
                random = np.random.default_rng([int(100 * truth), int(10 * own), int(1e3 * sd)])
                cells = [
                    rate(
                        [
                            difference_excludes_zero(
                                random, World(count, sd, truth, own, of_system)
                            )
                            for _ in range(draws)
                        ]
                    )
                    for count in seeds
                ]
                where = f"{truth} | {own:g}, {of_system:g} | {sd:g}"
                print(f"| {where} | {' | '.join(cells)} |", flush=True)


@main.command("mean")
@click.option("--draws", default=2000, show_default=True)
def of_mean(draws: int) -> None:
    """Coverage of the interval of a mean over seeds, and of that over patients alone."""
    seeds = (3, 10)
    names = " | ".join(f"{count} seeds" for count in seeds)
    print(f"| positive, negative patients | AUC | sd of seeds | {names} |")
    print("| --- | --- | --- | --- | --- |")
    for counts in ((5, 100), (10, 100), (270, 158)):
        for truth in (0.9, 0.98):
            for sd in (0.0, 0.01):
                random = np.random.default_rng([*counts, int(100 * truth), int(1e3 * sd)])
                cells = []
                for count in seeds:
                    world = World(count, sd, truth, 0.1, 0.0, *counts)
                    cells.append(rate([mean_covered(random, world) for _ in range(draws)]))
                where = f"{counts[0]}, {counts[1]} | {truth} | {sd:g}"
                print(f"| {where} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
