"""Where a classifier sees a class: Grad-CAM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xraygan import Classifier, UserError
from xraygan.plugin_api import did_you_mean


def grad_cam(
    classifier: Classifier, images: Tensor, column: int, layer: str | None = None
) -> Tensor:
    """How much each place of an image speaks for a class, by Grad-CAM

    With the C feature maps A_k of a layer, h x w, and the logit y of the class,

    a_k = mean over i, j of dy / dA_k(i, j),    L = max(0, sum_k a_k A_k),

    which is interpolated (bilinearly) to the size of the image. The logit, not the probability: a
    sure classifier has no gradient left. The classifier is asked in evaluation mode.

    Source: Selvaraju et al., arXiv:1610.02391.

    Args:
        classifier: any; its activations are those that it returns.
        images: ``(N, 1, S, S)``, in the range that the classifier was trained on.
        column: the class, a column of the logits.
        layer: the name of a feature map ``(N, C, h, w)`` that the classifier returns; its last one
            by default.

    Returns:
        ``(N, S, S)``, 0 or more, in the units of the logit; 0 where nothing speaks for the class.

    Raises:
        UserError: the classifier returns no such feature map, or its logits do not depend on it.
    """
    was_training = classifier.training
    classifier.eval()
    try:
        with torch.enable_grad():  # an average has no parameters that learn: images carry the graph
            found = classifier(images.detach().requires_grad_())
            layer = _layer(found, layer)
            # No image's logit depends on another image, so one sum serves all.
            (slopes,) = torch.autograd.grad(
                found["logits"][:, column].sum(), found[layer], allow_unused=True
            )
    finally:
        classifier.train(was_training)
    if slopes is None:
        raise UserError(f"--layer: the classifier's logits do not depend on its {layer!r}")
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    maps = (weights * found[layer].detach()).sum(dim=1, keepdim=True).relu()
    return F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _layer(found: dict[str, Tensor], name: str | None) -> str:
    """A feature map that a classifier returned, the last one if none is named."""
    maps = [key for key, value in found.items() if value.ndim == 4]
    if not maps:
        raise UserError("the classifier returns no feature map, and Grad-CAM weighs one")
    if name is not None and name not in maps:
        raise UserError(f"--layer: no feature map is named {name!r}; {did_you_mean(name, maps)}")
    return name or maps[-1]
