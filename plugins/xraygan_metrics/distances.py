"""Metrics of the generated images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pytorch_fid import inception
from pytorch_fid.inception import InceptionV3
from torch import Tensor, nn

from xraygan import Measurement, Metric, UserError
from xraygan.evaluate import Evaluation
from xraygan.weights import read_weights

BLOCKS = 10  # of the jackknife
Z95 = 1.959964


def inception_score(probs: np.ndarray, weights: np.ndarray | None = None) -> float:
    """exp(mean_i KL(p_i || q)), q the mean of the rows p_i (Eq. 3); in [1, K].

    Args:
        probs: ``(N, K)`` float64 rows that sum to 1.
        weights: ``(N,)`` how often each row counts; once by default.
    """
    weights = np.ones(len(probs)) if weights is None else weights
    # A row that does not count may be alone in its class: log(marginal) would be -inf for it.
    probs, weights = probs[weights > 0], weights[weights > 0]
    weights = weights / weights.sum()
    marginal = weights @ probs
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probs > 0, probs * (np.log(probs) - np.log(marginal)), 0.0)
    return float(np.exp(weights @ terms.sum(axis=1)))


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """|mu_r - mu_g|^2 + Tr(S_r + S_g - 2 (S_r S_g)^(1/2)) of two samples' features (Eq. 4).

    The trace of the root is the sum of the singular values of S_r^(1/2) S_g^(1/2), and with the
    centred samples X and Y (S = X^T X / (n - 1)) those of X Y^T: exact for fewer images than
    dimensions, and never negative under the root.

    Args:
        real, generated: ``(N, D)`` and ``(M, D)`` float64.
    """
    x, y = real - real.mean(axis=0), generated - generated.mean(axis=0)
    x, y = x / np.sqrt(len(x) - 1), y / np.sqrt(len(y) - 1)
    if x.shape[0] > x.shape[1]:  # more images than dimensions: the triangular factor is smaller
        x = np.linalg.qr(x, mode="r")
    if y.shape[0] > y.shape[1]:
        y = np.linalg.qr(y, mode="r")
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    means = np.square(real.mean(axis=0) - generated.mean(axis=0)).sum()
    return float(max(means + np.square(x).sum() + np.square(y).sum() - 2 * root, 0.0))


def with_jackknife(real: np.ndarray, generated: np.ndarray, note: str) -> Measurement:
    """The Frechet distance with a normal 95 % interval from a delete-one-block jackknife.

    Ten blocks of the generated images are left out in turn. A bootstrap would be biased here:
    repeated images shrink the covariance. The training images are held fixed.
    """
    note = f"{note}; {len(real)} training and {len(generated)} generated images"
    if min(len(real), len(generated)) < 2:
        return Measurement(None, len(generated), note=f"{note}: too few for a covariance")
    value = frechet_distance(real, generated)
    interval = None
    if len(generated) >= 2 * BLOCKS:
        blocks = np.array_split(np.arange(len(generated)), BLOCKS)
        without = np.array(
            [frechet_distance(real, np.delete(generated, block, axis=0)) for block in blocks]
        )
        spread = Z95 * np.sqrt((BLOCKS - 1) / BLOCKS * np.square(without - without.mean()).sum())
        interval = (max(value - float(spread), 0.0), value + float(spread))
        note += f"; interval by a jackknife over {BLOCKS} blocks of the generated images"
    return Measurement(value, len(generated), interval, note, better="lower")


class InceptionScore(Metric):
    """Inception Score of the generated images, by the run's classifier (Eq. 3)

    exp(E_z[KL(p(y|G(z)) || p(y))]), from 1 to the number of classes. Not comparable with scores by
    Inception, nor between classifiers. The interval is a bootstrap over generated images.

    Source: Salimans et al., arXiv:1606.03498; Eq. 3 of XRAY-GAN.
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if not {"generator", "classifier"} <= set(evaluation.graph.networks):
            return {}
        key = "inception_score_classifier"
        if not evaluation.task.exclusive:
            return {key: Measurement(None, 0, note="defined for exclusive classes only")}
        probs = evaluation.fake_probs
        note = f"by the run's own classifier; 1 to {probs.shape[1]}"
        found = evaluation.over_generated(
            inception_score(probs), lambda weights: inception_score(probs, weights), note
        )
        return {key: found}


class FrechetClassifier(Metric):
    """Frechet distance in the features of the run's own classifier (Eq. 4); not FID

    Between training and generated images. It needs no download, and compares images within one
    run; another run's classifier has other features.

    Source: Eq. 4 of XRAY-GAN; Heusel et al., arXiv:1706.08500.
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if not {"generator", "classifier"} <= set(evaluation.graph.networks):
            return {}
        real, generated = evaluation.reference_features, evaluation.fake_features
        note = "by the run's own classifier, not FID"
        return {"frechet_classifier": with_jackknife(real, generated, note)}


class FID(Metric):
    """Frechet Inception Distance, by pytorch-fid's Inception (Eq. 4)

    Between training and generated images, in the 2,048 features of the last pooling layer. Where
    the weights are not at hand it is left out, and says so.

    Source: Heusel et al., arXiv:1706.08500; pytorch-fid (Seitzer, 2020).

    Args:
        weights: "download" (pytorch-fid's own, kept in torch's hub cache), or the path of a local
            copy of pt_inception-2015-12-05-6726825d.pth (or of the same as .safetensors).
    """

    def __init__(self, *, weights: Literal["download"] | Path = "download") -> None:
        self.weights = weights

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "generator" not in evaluation.graph.networks:
            return {}
        try:
            network = self._network()
        except (OSError, RuntimeError) as error:
            note = (
                f"left out: Inception's weights could not be fetched ({error}); give a local copy "
                "with --set metrics.fid.weights=PATH"
            )
            return {"fid": Measurement(None, 0, note=note)}
        network = network.to(evaluation.device).eval().requires_grad_(False)
        size = evaluation.recipe.tables.evaluation.batch_size

        def features(images: Tensor) -> np.ndarray:
            return inception_features(network, images, size, evaluation.device)

        note = "by pytorch-fid's Inception"
        if len(evaluation.fake_images) < 2048:
            note += ", biased upwards by fewer than 2,048 images"
        real, generated = features(evaluation.reference_images), features(evaluation.fake_images)
        return {"fid": with_jackknife(real, generated, note)}

    def _network(self) -> nn.Module:
        if isinstance(self.weights, Path):
            return local_inception(self.weights)
        # Not by pytorch-fid's own call, which unpickles whatever it was sent.
        weights = torch.hub.load_state_dict_from_url(
            inception.FID_WEIGHTS_URL, map_location="cpu", progress=False, check_hash=True,
            weights_only=True,
        )  # fmt: skip
        return _inception(weights)


def local_inception(path: Path) -> nn.Module:
    """pytorch-fid's feature network with weights from a local file.

    Raises:
        UserError: the file does not fit.
    """
    weights = read_weights(path)
    try:
        return _inception(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not the weights of pytorch-fid's Inception ({reason})") from None


def _inception(weights: dict[str, Tensor]) -> nn.Module:
    """pytorch-fid's feature network with these weights."""
    fetch = inception.load_state_dict_from_url
    # pytorch-fid's constructor knows no other way to come by its weights than to fetch them.
    inception.load_state_dict_from_url = lambda *_, **__: weights
    try:
        return InceptionV3()
    finally:
        inception.load_state_dict_from_url = fetch


def inception_features(
    network: nn.Module, images: Tensor, batch_size: int, device: torch.device
) -> np.ndarray:
    """Features ``(N, 2048)`` float64 of grey ``(N, S, S)`` uint8 images, resized to 299."""
    found = []
    with torch.inference_mode():
        for batch in images.split(batch_size):
            grey = batch.to(device)[:, None].expand(-1, 3, -1, -1).float() / 255
            found.append(network(grey)[0].flatten(1).double().cpu())
    return torch.cat(found).numpy()
