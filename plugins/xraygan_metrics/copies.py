"""How many generated images are copies, as the privacy audit flags them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from xraygan import Measurement, Metric, UserError
from xraygan.audit.audit import HeldOut, compare, resembling
from xraygan.audit.nearest_neighbors import spaces
from xraygan.audit.verdict import Compared, few, flagged, unlike
from xraygan.evaluation.evaluation import Evaluation
from xraygan.utils.progress import Display
from xraygan.utils.seeding import derive_seed


class Copies(Metric):
    """Share of generated images that the privacy audit flags as copies of training images

    The audit's own comparison with images of patients that the generator never saw, on fewer
    images, so that sweeps can show it beside other figures: some 1 % is flagged by chance, and the
    note says how many, and whether the audit would speak of copies. There is no figure where the
    generated images do not resemble the data, since none of them could be a copy, or where the
    images are too few to tell any number of copies from chance. Membership is
    left to `xraygan audit`. It looks at every training image. The interval is a bootstrap in which
    images with the same nearest training image are drawn together.

    Source: docs/audit.md; after Carlini et al., arXiv:2301.13188.

    Args:
        generated: how many of the evaluation's generated images are looked at, at most.
        features: look in the classifier's features too, which takes a pass over all training
            images; else in pixels alone.
    """

    def __init__(
        self, *, generated: Annotated[int, Field(gt=0, le=1_000_000)] = 512, features: bool = False
    ) -> None:
        self.generated = generated
        self.features = features

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "generator" not in evaluation.graph.networks:
            return {}
        seed = derive_seed(evaluation.recipe.tables.run.seed, "copies")
        random = np.random.default_rng(seed)
        try:
            held = HeldOut.draw(evaluation.train, evaluation.test, random)
        except UserError as error:
            return {"copies/pixels": Measurement(None, 0, note=str(error), better="lower")}
        embeds = {n: s for n, s in spaces(evaluation).items() if self.features or n == "pixels"}
        images = evaluation.fake_images[: self.generated]
        quiet = Display(quiet=True)
        compared = compare(evaluation, embeds, images, held, seed, quiet)
        alike = resembling(evaluation, images, held, quiet)
        found = {f"copies/{name}": _measured(name, one, alike) for name, one in compared.items()}
        if "features" in compared:
            network = evaluation.network("classifier")
            found["copies/features"] = replace(found["copies/features"], network=network)
        return found


def _measured(name: str, found: Compared, alike: dict[str, Any]) -> Measurement:
    if alike["share"] > 0.5 and not found.figures["copies"]:
        note = f"{unlike(alike)}; verdict: unlike"
        return Measurement(None, len(found.flagged), note=note, better="lower")
    share, p = found.figures["share"], found.figures["p"]
    doubt = few(name, found)
    if found.figures["needed"] is None:
        return Measurement(None, len(found.flagged), note=f"{doubt}; verdict: few", better="lower")
    verdict = "copies" if found.figures["copies"] else "none"
    note = f"{flagged(name, found)}; verdict: {verdict}, p = {p:.2g}" + (doubt and f"; {doubt}")
    return Measurement(share["value"], len(found.flagged), share["interval"], note, better="lower")
