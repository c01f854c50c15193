"""Grad-CAM: the positions of an image by which a classifier recognises a class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xraygan import Classifier, UserError
from xraygan.plugin_api import did_you_mean


def grad_cam(
    classifier: Classifier, images: Tensor, column: int, layer: str | None = None
) -> Tensor:
    """The evidence for a class at each position of an image, by Grad-CAM

    With the C feature maps A_k of a layer, h x w, and the logit y of the class,

    a_k = mean over i, j of dy / dA_k(i, j),    L = max(0, sum_k a_k A_k).

    L is interpolated (bilinearly) to the size of the image. y is the logit and not the probability,
    whose gradient vanishes for a certain prediction. The classifier runs in evaluation mode.

    Source: Selvaraju et al., arXiv:1610.02391.

    Args:
        classifier: any classifier; the layers are the activations that it returns.
        images: ``(N, 1, S, S)``, in the range that the classifier was trained on.
        column: the class, a column of the logits.
        layer: the name of a feature map ``(N, C, h, w)`` that the classifier returns; its last one
            by default.

    Returns:
        ``(N, S, S)``, at least 0, in the units of the logit; 0 without evidence for the class.

    Raises:
        UserError: the classifier returns no such feature map, or its logits do not depend on it.
    """
    was_training = classifier.training
    classifier.eval()
    try:
        # The images require gradients, because the parameters of an average do not.
        with torch.enable_grad():
            activations = classifier(images.detach().requires_grad_())
            layer = _choose_layer(activations, layer)
            # The gradient of the sum is that of each image: no logit depends on another image.
            (gradients,) = torch.autograd.grad(
                activations["logits"][:, column].sum(), activations[layer], allow_unused=True
            )
    finally:
        classifier.train(was_training)
    if gradients is None:
        raise UserError(f"--layer: the classifier's logits do not depend on its {layer!r}")
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations[layer].detach()).sum(dim=1, keepdim=True).relu()
    return F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _choose_layer(activations: dict[str, Tensor], name: str | None) -> str:
    """The name of a feature map that the classifier returns; of the last one by default."""
    maps = [key for key, value in activations.items() if value.ndim == 4]
    if not maps:
        raise UserError("the classifier returns no feature map, and Grad-CAM needs one")
    if name is not None and name not in maps:
        raise UserError(f"--layer: no feature map is named {name!r}; {did_you_mean(name, maps)}")
    return name or maps[-1]
