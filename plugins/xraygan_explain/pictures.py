"""The pictures of ``xraygan explain``; each needs some networks of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xraygan import Evaluation, UserError
from xraygan.plugin_api import (
    Display,
    Generated,
    Session,
    as_shown,
    did_you_mean,
    nearest_training_images,
    open_dataset,
    rng,
    sample_images,
    to_range,
    to_uint8,
    write_together,
)

from .cam import grad_cam
from .drawing import Panel, draw, overlay_heat
from .latents import slerp

POOL = 256  # images of an unconditional generator, from which those of each class are chosen
BETWEEN = 8  # images in an interpolated row, both ends included
NEIGHBOURS = 5
MOST = 16  # generated images that are shown with their neighbours


class LeftOut(Exception):
    """A picture is left out; the message gives the reason as the end of a sentence."""


@dataclass(frozen=True)
class Explanation:
    """A run's networks, and the options of the command.

    Args:
        count: images of each class, and the least number of rows of latents.
        classes: the classes to show; empty for all classes that are measured.
        layer: see :func:`~xraygan_explain.cam.grad_cam`.
        seed: seed of the latents, as for ``xraygan generate``, and of the choice of real images.

    Raises:
        UserError: the run has no such class, or its generated images have no classes.
    """

    session: Session
    count: int
    classes: tuple[str, ...]
    layer: str | None
    seed: int
    display: Display

    def __post_init__(self) -> None:
        known = self.evaluation.classes
        for name in self.classes:
            if name not in known:
                raise UserError(f"--class: no class is named {name!r}; {did_you_mean(name, known)}")
        if self.classes and not self.conditional and not self.has("classifier"):
            raise UserError(
                "--class: the run's generator is unconditional and it has no classifier"
            )

    @cached_property
    def evaluation(self) -> Evaluation:
        return self.session.evaluation("test")

    def has(self, network: str) -> bool:
        return network in self.session.graph.networks

    @property
    def conditional(self) -> bool:
        return self.has("generator") and self.session.graph.networks["generator"].conditional

    @property
    def columns(self) -> dict[str, int]:
        """The classes to show, and their columns in label vectors."""
        known = self.evaluation.classes
        return {name: known[name] for name in dict.fromkeys(self.classes or known)}

    @cached_property
    def generated(self) -> dict[str, Tensor]:
        """Class -> generated images ``(n, S, S)`` uint8, ``count`` at most.

        A conditional generator makes the images of every class from the same latents. Of an
        unconditional generator, they are the images among :data:`POOL` for which the classifier
        predicts the class. Without a classifier, all images are of the class "".
        """
        if self.conditional:
            return {name: self._sample(self.count, name)[0].images for name in self.columns}
        if not self.has("classifier"):
            return {"": self._sample(self.count)[0].images}
        (images, *_), probs = self._sample(POOL)
        assert probs is not None
        predicted = probs > 0.5
        if self.evaluation.task.exclusive:
            predicted = probs.argmax(dim=1)[:, None] == torch.arange(probs.shape[1])
        return {name: images[predicted[:, k]][: self.count] for name, k in self.columns.items()}

    def _sample(self, count: int, name: str | None = None) -> tuple[Generated, Tensor | None]:
        return sample_images(self.session, count, name, self.seed, self.display)

    def real(self, column: int) -> Tensor:
        """Random test images ``(n, S, S)`` uint8 of a class, ``count`` at most."""
        test = self.evaluation.test
        rows = torch.from_numpy(np.flatnonzero(test.label_matrix[:, column]))
        source = rng("cpu", self.seed, "explain", "real", column)
        chosen = rows[torch.randperm(len(rows), generator=source)][: self.count]
        return test.images[chosen]

    def random_latents(self, count: int, purpose: str) -> Tensor:
        """``(count, latent_size)``, standard normal."""
        device = self.session.device
        size = self.session.graph.networks["generator"].latent_size
        source = rng(device, self.seed, "explain", purpose)
        return torch.randn(count, size, generator=source, device=device)

    def generate_rows(self, z: Tensor, labels: Tensor) -> np.ndarray:
        """Rows of images ``(N, T, S, S)`` uint8 from latents ``(N, T, D)`` and conditions
        ``(N, T, C)``, which an unconditional generator ignores."""
        generator = self.session.graph.trained("generator").eval()
        inputs = [z.flatten(0, 1)]
        if self.conditional:
            inputs.append(labels.to(z).flatten(0, 1))
        with torch.inference_mode(), self.session.graph.autocast():
            images = to_uint8(generator(*inputs)[:, 0].float())
        return images.unflatten(0, z.shape[:2]).cpu().numpy()

    def one_hot(self, columns: list[int]) -> Tensor:
        """Conditions ``(N, C)`` of classes, with unknown metadata."""
        task = self.evaluation.task
        return torch.eye(len(task.classes), task.condition_size)[columns]


def write(explanation: Explanation, out: Path) -> tuple[list[Path], list[str]]:
    """Draw every picture of :data:`PICTURES` for which the run has the networks.

    The same run and seed give the same bytes. The files are written after all pictures are drawn.

    Returns:
        The files, and a sentence with the reason for each picture that was left out.

    Raises:
        UserError: an option does not fit the run, or the folder cannot be written.
    """
    drawn: dict[Path, bytes] = {}
    notes: list[str] = []
    for name, panels in PICTURES.items():
        try:
            drawn[out / f"{name}.png"] = draw(panels(explanation))
        except LeftOut as reason:
            notes.append(f"{name}: left out, because {reason}")
    if explanation.has("classifier") and not explanation.has("generator"):
        notes.append("grad_cam: only real images, because the run has no generator")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_together(drawn)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
    return list(drawn), notes


# -- the pictures ----------------------------------------------------------------------------------


def cams(explanation: Explanation) -> list[Panel]:
    """Grad-CAM: one row for each class, real test images beside generated images."""
    if not explanation.has("classifier"):
        raise LeftOut("the run has no classifier")
    _needs_data(explanation)
    names = list(explanation.columns)
    real = [
        _heated(explanation, name, explanation.real(k), real=True)
        for name, k in explanation.columns.items()
    ]
    panels = [Panel("real test images", names, real, explanation.count)]
    if explanation.has("generator"):
        fake = [
            _heated(explanation, name, explanation.generated[name], real=False) for name in names
        ]
        panels.append(Panel("generated images", names, fake, explanation.count))
    return panels


def latents(explanation: Explanation) -> list[Panel]:
    """Interpolations between pairs of latents: one row for each pair, the classes in turn."""
    _needs_generator(explanation)
    names = list(explanation.columns) if explanation.conditional else [""]
    names = [names[i % len(names)] for i in range(max(explanation.count, len(names)))]
    ends = explanation.random_latents(2 * len(names), "latents").unflatten(0, (2, len(names)))
    z = slerp(ends[0], ends[1], torch.linspace(0, 1, BETWEEN))
    columns = [explanation.columns.get(name, 0) for name in names]
    images = explanation.generate_rows(
        z, explanation.one_hot(columns)[:, None].expand(-1, BETWEEN, -1)
    )
    rows = [[(image, "") for image in row] for row in images]
    return [Panel("from one latent to another", names, rows, BETWEEN)]


def classes(explanation: Explanation) -> list[Panel]:
    """Interpolations between the conditions of successive classes, with one latent."""
    _needs_generator(explanation)
    if not explanation.conditional:
        raise LeftOut("the generator is not conditional")
    if len(explanation.columns) < 2:
        raise LeftOut("there is only one class")
    steps = list(pairwise(explanation.columns))
    starts, ends = (
        explanation.one_hot([explanation.columns[pair[i]] for pair in steps]) for i in (0, 1)
    )
    conditions = torch.lerp(
        starts[:, None], ends[:, None], torch.linspace(0, 1, BETWEEN)[None, :, None]
    )
    z = explanation.random_latents(1, "classes")[None].expand(len(steps), BETWEEN, -1)
    rows = [[(image, "") for image in row] for row in explanation.generate_rows(z, conditions)]
    titles = [f"{start} to {end}" for start, end in steps]
    return [Panel("from one class to another, one latent", titles, rows, BETWEEN)]


def neighbours(explanation: Explanation) -> list[Panel]:
    """Generated images with their nearest training images, in each space of the audit."""
    _needs_generator(explanation)
    _needs_data(explanation)
    # The first image of every class, then the second of every class, and so on.
    shown = [
        (name, images[i])
        for i in range(explanation.count)
        for name, images in explanation.generated.items()
        if i < len(images)
    ][:MOST]
    if not shown:
        raise LeftOut(f"none of {POOL} generated images is of a class to show")
    names, images = [name for name, _ in shown], torch.stack([image for _, image in shown])
    evaluation, train = explanation.evaluation, explanation.evaluation.train
    k = min(NEIGHBOURS, len(train))
    panels = []
    for space, nearest in nearest_training_images(evaluation, images, k).items():
        rows = []
        for i, image in enumerate(as_shown(evaluation, images, real=False)):
            training = train.images[torch.from_numpy(nearest.rows[i])]
            distances = [f"{distance:.3g}" for distance in nearest.distances[i]]
            tiles = as_shown(evaluation, training, real=True)
            rows.append([(image, ""), *zip(tiles, distances, strict=True)])
        panels.append(Panel(f"generated | nearest training images, in {space}", names, rows, 1 + k))
    return panels


PICTURES: dict[str, Callable[[Explanation], list[Panel]]] = {
    "grad_cam": cams,
    "latents": latents,
    "classes": classes,
    "neighbours": neighbours,
}


def _needs_generator(explanation: Explanation) -> None:
    if not explanation.has("generator"):
        raise LeftOut("the run has no generator")


def _needs_data(explanation: Explanation) -> None:
    root = explanation.session.recipe.tables.data.root
    if root is None or Path(root).is_dir():
        return
    try:
        open_dataset(explanation.session.recipe)  # some datasets need no folder
    except UserError:
        raise LeftOut(
            f"it shows real images, and their folder {root} does not exist; set the folder with "
            "--set data.root=DIR"
        ) from None


def _heated(
    explanation: Explanation, name: str, images: Tensor, *, real: bool
) -> list[tuple[np.ndarray, str]]:
    """Images ``(n, S, S)`` uint8 with heat maps for a class, and the class's probability."""
    if not len(images):
        return []
    evaluation, column = explanation.evaluation, explanation.columns[name]
    classifier = explanation.session.graph.trained("classifier")
    span = evaluation.value_range if real else (-1.0, 1.0)
    inputs = to_range(images.to(explanation.session.device)[:, None], span)
    heat = grad_cam(classifier, inputs, column, explanation.layer).cpu().numpy()
    probs = evaluation.classify(images, real=real)[1][:, column]
    tiles = overlay_heat(as_shown(evaluation, images, real=real), heat)
    return [(tile, f"{p:.2f}") for tile, p in zip(tiles, probs, strict=True)]
