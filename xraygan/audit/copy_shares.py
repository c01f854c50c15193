"""The audit's search for copies as figures of an evaluation, on fewer images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from xraygan.errors import UserError
from xraygan.parts.evaluation import Evaluation, Measurement
from xraygan.utils.progress import Display
from xraygan.utils.seeding import derive_seed

from .audit import compare, measure_resemblance
from .held_out import HeldOut
from .nearest_neighbors import spaces
from .verdict import Compared, detection_limit, dissimilarity, flagged_summary


def copy_shares(
    evaluation: Evaluation, generated: int, *, features: bool = False
) -> dict[str, Measurement]:
    """The share of generated images that the privacy audit flags as copies of training images.

    Args:
        generated: the number of the evaluation's generated images to compare, at most.
        features: compare in the classifier's features too, which classifies all training images;
            otherwise in pixels only.

    Returns:
        By space, ``"pixels"`` and ``"features"``: the share with its interval. The value is None if
        there are no held-out images, or too few images to distinguish copies from chance; the note
        says why.
    """
    seed = derive_seed(evaluation.seed, "copies")
    try:
        held = HeldOut.draw(evaluation.train, evaluation.test, np.random.default_rng(seed))
    except UserError as error:
        return {"pixels": Measurement(None, 0, note=str(error), better="lower")}
    embeds = {n: s for n, s in spaces(evaluation).items() if features or n == "pixels"}
    images = evaluation.fake_images[:generated]
    quiet = Display(quiet=True)
    compared = compare(evaluation, embeds, images, held, seed, quiet)
    resemblance = measure_resemblance(evaluation, images, held, quiet)
    shares = {name: _share_of(name, space, resemblance) for name, space in compared.items()}
    if "features" in shares:
        network = evaluation.network("classifier")
        shares["features"] = replace(shares["features"], network=network)
    return shares


def _share_of(name: str, space: Compared, resemblance: dict[str, Any]) -> Measurement:
    """The flagged share of one space; no value if the verdict is ``unlike`` or ``few``."""
    figures, n = space.figures, len(space.flagged)
    if resemblance["share"] > 0.5 and not figures["copies"]:
        note = f"{dissimilarity(resemblance)}; verdict: unlike"
        return Measurement(None, n, note=note, better="lower")
    limit = detection_limit(name, space)
    if figures["needed"] is None:
        return Measurement(None, n, note=f"{limit}; verdict: few", better="lower")
    verdict = "copies" if figures["copies"] else "none"
    note = f"{flagged_summary(name, space)}; verdict: {verdict}, p = {figures['p']:.2g}"
    note += limit and f"; {limit}"
    share = figures["share"]
    return Measurement(share["value"], n, share["interval"], note, better="lower")
