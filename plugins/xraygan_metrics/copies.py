"""The share of generated images that the privacy audit flags as copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from xraygan import Evaluation, Measurement, Metric
from xraygan.plugin_api import copy_shares


class Copies(Metric):
    """Share of generated images that the privacy audit flags as copies of training images

    This is the audit's comparison with held-out patients, on fewer images, so that sweeps can show
    it beside other figures. It compares with all training images. About 1 % is flagged by chance;
    the note gives the expected number and the audit's verdict on copies. There is no figure if the
    generated images do not resemble the data, since none of them could be a copy, or if there are
    too few images to distinguish any number of copies from chance. Only `xraygan audit` tests
    membership. The interval is a bootstrap in which images with the same nearest training image are
    drawn together.

    Source: docs/audit.md; after Carlini et al., arXiv:2301.13188.

    Args:
        generated: the number of the evaluation's generated images to compare, at most.
        features: compare in the classifier's features too, which classifies all training images;
            otherwise in pixels only.
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
