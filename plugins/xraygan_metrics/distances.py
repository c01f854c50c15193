"""The Inception Score and Frechet distances of the generated images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from xraygan import Evaluation, Measurement, Metric, UserError
from xraygan.plugin_api import weights_digest

from .features import FeatureMetric, generated_labels, image_counts
from .inception import Inception
from .intervals import BLOCKS, with_jackknife


def inception_score(probs: np.ndarray, weights: np.ndarray | None = None) -> float:
    """exp(mean_i KL(p_i || q)) with q the mean of the rows p_i (Eq. 3); in [1, K].

    Args:
        probs: ``(N, K)`` float64, rows that sum to 1.
        weights: ``(N,)``, how often each row counts; once by default.
    """
    weights = np.ones(len(probs)) if weights is None else weights
    # Without the rows of weight 0: one may be alone in its class, where log(marginal) is -inf.
    probs, weights = probs[weights > 0], weights[weights > 0]
    weights = weights / weights.sum()
    marginal = weights @ probs
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probs > 0, probs * (np.log(probs) - np.log(marginal)), 0.0)
    return float(np.exp(weights @ terms.sum(axis=1)))


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """|mu_r - mu_g|^2 + Tr(S_r + S_g - 2 (S_r S_g)^(1/2)) of two samples' features (Eq. 4).

    The trace of the root is the sum of the singular values of S_r^(1/2) S_g^(1/2). With the centred
    and scaled samples X and Y (S_r = X^T X, S_g = Y^T Y) these are the singular values of X Y^T. So
    no matrix root is needed, and the result is exact for fewer images than dimensions, where a
    matrix root of rank-deficient covariances is not.

    Args:
        real, generated: ``(N, D)`` and ``(M, D)`` float64.
    """
    x, y = real - real.mean(axis=0), generated - generated.mean(axis=0)
    x, y = x / np.sqrt(len(x) - 1), y / np.sqrt(len(y) - 1)
    # With more images than dimensions, X = Q R is replaced by the smaller R: R^T R = X^T X.
    if x.shape[0] > x.shape[1]:
        x = np.linalg.qr(x, mode="r")
    if y.shape[0] > y.shape[1]:
        y = np.linalg.qr(y, mode="r")
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    means = np.square(real.mean(axis=0) - generated.mean(axis=0)).sum()
    return float(max(means + np.square(x).sum() + np.square(y).sum() - 2 * root, 0.0))


def frechet(real: np.ndarray, generated: np.ndarray, note: str) -> Measurement:
    """The Frechet distance with a jackknife interval, if there are enough images."""
    if min(len(real), len(generated)) < 2:
        note += ": too few for a covariance"
        return Measurement(None, len(generated), note=note, better="lower")
    return with_jackknife(
        lambda some: frechet_distance(real, some), generated, note, better="lower", low=0.0
    )


class InceptionScore(Metric):
    """Inception Score of the generated images, by the run's classifier (Eq. 3)

    exp(E_z[KL(p(y|G(z)) || p(y))]), from 1 to the number of classes. It is not comparable with
    scores by Inception, nor between classifiers. The interval is a bootstrap over generated images.

    Source: Salimans et al., arXiv:1606.03498; Eq. 3 of XRAY-GAN.
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if not {"generator", "classifier"} <= set(evaluation.networks):
            return {}
        key = "inception_score_classifier"
        if not evaluation.task.exclusive:
            return {key: Measurement(None, 0, note="defined for exclusive classes only")}
        probs = evaluation.fake_probs
        note = f"by the run's own classifier; 1 to {probs.shape[1]}"
        score = evaluation.over_generated(
            inception_score(probs), lambda weights: inception_score(probs, weights), note
        )
        return {key: replace(score, network=evaluation.network("classifier"))}


class Frechet(FeatureMetric):
    """Frechet distance between real and generated images, in any network's features (Eq. 4)

    In the features of the run's own classifier it is comparable only within the run. In those of a
    published network it is comparable between runs with equal numbers of images: with
    extractor = "inception" it is FID; an extractor that was trained on radiographs fits their
    domain better. The interval is a jackknife over ten blocks of the generated images.

    Source: Heusel et al., arXiv:1706.08500; Eq. 4 of XRAY-GAN.

    Args:
        extractor: "classifier" for the run's own classifier, or a name of [extractors].
    """

    def __init__(self, *, extractor: str = "classifier") -> None:
        self.extractor = extractor

    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, space: str
    ) -> Mapping[str, Measurement]:
        note = f"{space}; {image_counts(evaluation, real, generated)}"
        return {f"frechet/{self.extractor}": frechet(real, generated, note)}


class FrechetPerClass(FeatureMetric):
    """Frechet distance of each class, between its real images and its generated images

    The class of an image is its condition if the generator is conditional, and otherwise the
    prediction of the run's classifier, so that an unrealistic image counts against some class. The
    distance is biased upwards for few images: compare only classes and runs with the same counts,
    which the note gives. Intervals are jackknives over ten blocks of the class's generated images.

    Source: Eq. 4 of XRAY-GAN; by class after Ravuri and Vinyals, arXiv:1905.10887.

    Args:
        extractor: "classifier" for the run's own classifier, or a name of [extractors].
        least: number of real and of generated images that a class needs to have a distance.
    """

    def __init__(
        self,
        *,
        extractor: str = "classifier",
        least: Annotated[int, Field(ge=2, le=1_000_000)] = 2 * BLOCKS,
    ) -> None:
        self.extractor = extractor
        self.least = least

    def networks(self, evaluation: Evaluation) -> tuple[str, ...]:
        networks = evaluation.networks
        if networks["generator"].conditional or self.extractor == "classifier":
            return (self.extractor,)
        # The classifier, if there is one, predicts the images' classes.
        return (self.extractor, *({"classifier"} & set(networks)))

    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, space: str
    ) -> Mapping[str, Measurement]:
        labelled = generated_labels(evaluation)
        if labelled is None:
            return {}
        labels, origin = labelled
        distances = {}
        for name, column in evaluation.classes.items():
            x = real[evaluation.reference_labels[:, column] == 1]
            y = generated[labels[:, column] == 1]
            kind = evaluation.reference_kind
            note = f"{space}; {len(x)} {kind} images, and {len(y)} generated ones {origin} it"
            if min(len(x), len(y)) < self.least:
                note += f": fewer than {self.least}"
                measured = Measurement(None, len(y), note=note, better="lower")
            else:
                measured = frechet(x, y, note)
            distances[f"frechet_per_class/{self.extractor}/{name}"] = measured
        return distances


class FrechetClassifier(FeatureMetric):
    """Frechet distance in the features of the run's own classifier (Eq. 4); not FID

    Between real and generated images. It needs no download. It is comparable only within one
    run, since another run's classifier has other features.

    Source: Eq. 4 of XRAY-GAN; Heusel et al., arXiv:1706.08500.
    """

    extractor = "classifier"

    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, space: str
    ) -> Mapping[str, Measurement]:
        note = f"{space}, not FID; {image_counts(evaluation, real, generated)}"
        return {"frechet_classifier": frechet(real, generated, note)}


class FID(Metric):
    """Frechet Inception Distance, by pytorch-fid's Inception (Eq. 4)

    Between real and generated images, in the 2,048 features of the last pooling layer. If the
    weights cannot be downloaded there is no figure, and the note gives the reason.

    Source: Heusel et al., arXiv:1706.08500; pytorch-fid (Seitzer, 2020).

    Args:
        weights: "download" (pytorch-fid's own, kept in torch's hub cache), or the path of a local
            copy of pt_inception-2015-12-05-6726825d.pth (or of the same as .safetensors).
    """

    def __init__(self, *, weights: Literal["download"] | Path = "download") -> None:
        self.weights = weights

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "generator" not in evaluation.networks:
            return {}
        try:
            network = Inception(weights=self.weights)
        except UserError as error:
            if isinstance(self.weights, Path):
                raise
            note = f"left out: {error}: --set metrics.fid.weights=PATH"
            return {"fid": Measurement(None, 0, note=note, better="lower")}
        note = "by pytorch-fid's Inception"
        if len(evaluation.fake_images) < 2048:
            note += ", biased upwards by fewer than 2,048 images"
        both = evaluation.reference_images, evaluation.fake_images
        real, generated = (evaluation.extract(network.eval(), images) for images in both)
        fid = frechet(real, generated, f"{note}; {image_counts(evaluation, real, generated)}")
        return {"fid": replace(fid, network=weights_digest(network))}
