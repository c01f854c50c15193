"""The audit's search for copies as figures of an evaluation, on fewer images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from xraygan.errors import UserError
from xraygan.parts.evaluation import Evaluation, Measurement
from xraygan.utils.progress import Display
from xraygan.utils.seeding import derive_seed

from .audit import Compared, HeldOut, compare, measure_resemblance
from .nearest_neighbors import spaces
from .verdict import detection_limit, dissimilarity, flagged_summary


def copy_shares(
    evaluation: Evaluation, generated: int, *, features: bool = False
) -> dict[str, Measurement]:
    """The share of generated images that the privacy audit flags as copies of training images.

    Args:
        generated: how many of the evaluation's generated images are looked at, at most.
        features: look in the classifier's features too, which takes a pass over all training
            images; else in pixels alone.

    Returns:
        By space, ``"pixels"`` and ``"features"``: the share with its interval. None where there is
        nothing to compare with, or too little to tell copies from chance; the note says why.
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
    alike = measure_resemblance(evaluation, images, held, quiet)
    found = {name: _measured(name, one, alike) for name, one in compared.items()}
    if "features" in found:
        network = evaluation.network("classifier")
        found["features"] = replace(found["features"], network=network)
    return found


def _measured(name: str, found: Compared, alike: dict[str, Any]) -> Measurement:
    if alike["share"] > 0.5 and not found.figures["copies"]:
        note = f"{dissimilarity(alike)}; verdict: unlike"
        return Measurement(None, len(found.flagged), note=note, better="lower")
    share, p = found.figures["share"], found.figures["p"]
    limit = detection_limit(name, found)
    if found.figures["needed"] is None:
        return Measurement(None, len(found.flagged), note=f"{limit}; verdict: few", better="lower")
    verdict = "copies" if found.figures["copies"] else "none"
    note = f"{flagged_summary(name, found)}; verdict: {verdict}, p = {p:.2g}"
    note += limit and f"; {limit}"
    return Measurement(share["value"], len(found.flagged), share["interval"], note, better="lower")
