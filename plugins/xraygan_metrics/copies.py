"""How many generated images are copies, as the privacy audit flags them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from xraygan import Evaluation, Measurement, Metric
from xraygan.plugin_api import copy_shares


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
        if "generator" not in evaluation.networks:
            return {}
        shares = copy_shares(evaluation, self.generated, features=self.features)
        return {f"copies/{space}": share for space, share in shares.items()}
