"""The pictures of ``xraygan explain``, and which a run has the networks for."""

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
from .drawing import Panel, draw, heated
from .latents import slerp

POOL = 256  # images of an unconditional generator among which those of each class are looked for
BETWEEN = 8  # images in a row from one end to the other, both included
NEIGHBOURS = 5
MOST = 16  # generated images whose neighbours are shown


class LeftOut(Exception):
    """Why a picture is left out, as the end of a sentence."""


@dataclass(frozen=True)
class Explanation:
    """A run's networks, and what is asked of them.

    Args:
        count: images of a class, and rows of latents at least.
        classes: the classes to show; all that are measured if there are none.
        layer: see :func:`~xraygan_explain.cam.grad_cam`.
        seed: of the latents, as for ``xraygan generate``, and of which real images are shown.

    Raises:
        UserError: the run has no such class, or nothing that tells generated images' classes.
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
        """The classes that are shown, and their columns in label vectors."""
        known = self.evaluation.classes
        return {name: known[name] for name in dict.fromkeys(self.classes or known)}

    @cached_property
    def generated(self) -> dict[str, Tensor]:
        """Class -> generated images ``(n, S, S)`` uint8, ``count`` at most.

        A conditional generator makes them, of the same latents for every class; of an unconditional
        one, they are those among :data:`POOL` that the classifier takes for the class. Without
        either, images of the class "".
        """
        if self.conditional:
            return {name: self._sample(self.count, name)[0].images for name in self.columns}
        if not self.has("classifier"):
            return {"": self._sample(self.count)[0].images}
        (images, *_), probs = self._sample(POOL)
        assert probs is not None
        taken = probs > 0.5
        if self.evaluation.task.exclusive:
            taken = probs.argmax(dim=1)[:, None] == torch.arange(probs.shape[1])
        return {name: images[taken[:, k]][: self.count] for name, k in self.columns.items()}

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

    def make(self, z: Tensor, labels: Tensor) -> np.ndarray:
        """Rows of images ``(N, T, S, S)`` uint8 of latents ``(N, T, D)`` and conditions
        ``(N, T, C)``, which an unconditional generator is not given."""
        generator = self.session.graph.trained("generator").eval()
        given = [z.flatten(0, 1)]
        if self.conditional:
            given.append(labels.to(z).flatten(0, 1))
        with torch.inference_mode(), self.session.graph.autocast():
            made = to_uint8(generator(*given)[:, 0].float())
        return made.unflatten(0, z.shape[:2]).cpu().numpy()

    def one_hot(self, columns: list[int]) -> Tensor:
        """Conditions ``(N, C)`` of classes, without metadata."""
        task = self.evaluation.task
        return torch.eye(len(task.classes), task.condition_size)[columns]


def write(asked: Explanation, out: Path) -> tuple[list[Path], list[str]]:
    """Draw every picture of :data:`PICTURES` that the run has the networks for.

    The same run and seed give the same bytes. Nothing is written before all of them are drawn.

    Returns:
        The files, and sentences about what was left out and why.

    Raises:
        UserError: what is asked for cannot be, or the folder cannot be written.
    """
    drawn: dict[Path, bytes] = {}
    notes: list[str] = []
    for name, panels in PICTURES.items():
        try:
            drawn[out / f"{name}.png"] = draw(panels(asked))
        except LeftOut as reason:
            notes.append(f"{name}: left out, for {reason}")
    if asked.has("classifier") and not asked.has("generator"):
        notes.append("grad_cam: real images alone, for the run has no generator")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_together(drawn)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
    return list(drawn), notes


# -- the pictures ----------------------------------------------------------------------------------


def cams(asked: Explanation) -> list[Panel]:
    """Grad-CAM: a row a class, real test images beside generated ones."""
    if not asked.has("classifier"):
        raise LeftOut("the run has no classifier")
    _needs_data(asked)
    names = list(asked.columns)
    real = [_heated(asked, name, asked.real(k), real=True) for name, k in asked.columns.items()]
    panels = [Panel("real test images", names, real, asked.count)]
    if asked.has("generator"):
        made = [_heated(asked, name, asked.generated[name], real=False) for name in names]
        panels.append(Panel("generated images", names, made, asked.count))
    return panels


def latents(asked: Explanation) -> list[Panel]:
    """From one latent to another, along the great circle: a row a pair, of the classes in turn."""
    _needs_generator(asked)
    names = list(asked.columns) if asked.conditional else [""]
    names = [names[i % len(names)] for i in range(max(asked.count, len(names)))]
    ends = asked.random_latents(2 * len(names), "latents").unflatten(0, (2, len(names)))
    z = slerp(ends[0], ends[1], torch.linspace(0, 1, BETWEEN))
    columns = [asked.columns.get(name, 0) for name in names]
    images = asked.make(z, asked.one_hot(columns)[:, None].expand(-1, BETWEEN, -1))
    rows = [[(image, "") for image in row] for row in images]
    return [Panel("from one latent to another", names, rows, BETWEEN)]


def classes(asked: Explanation) -> list[Panel]:
    """From one class to the next with one latent: conditions on the straight line between them."""
    _needs_generator(asked)
    if not asked.conditional:
        raise LeftOut("the generator is not conditional")
    if len(asked.columns) < 2:
        raise LeftOut("there is only one class")
    steps = list(pairwise(asked.columns))
    starts, ends = (asked.one_hot([asked.columns[pair[i]] for pair in steps]) for i in (0, 1))
    conditions = torch.lerp(
        starts[:, None], ends[:, None], torch.linspace(0, 1, BETWEEN)[None, :, None]
    )
    z = asked.random_latents(1, "classes")[None].expand(len(steps), BETWEEN, -1)
    rows = [[(image, "") for image in row] for row in asked.make(z, conditions)]
    titles = [f"{start} to {end}" for start, end in steps]
    return [Panel("from one class to another, one latent", titles, rows, BETWEEN)]


def neighbours(asked: Explanation) -> list[Panel]:
    """Generated images, and the training images that are nearest in each space of the audit."""
    _needs_generator(asked)
    _needs_data(asked)
    # Of every class one, then the second of each.
    turns = [
        (name, images[i])
        for i in range(asked.count)
        for name, images in asked.generated.items()
        if i < len(images)
    ][:MOST]
    if not turns:
        raise LeftOut(f"none of {POOL} generated images is of a class that is shown")
    names, made = [name for name, _ in turns], torch.stack([image for _, image in turns])
    evaluation, train = asked.evaluation, asked.evaluation.train
    k = min(NEIGHBOURS, len(train))
    panels = []
    for space, found in nearest_training_images(evaluation, made, k).items():
        rows = []
        for i, image in enumerate(as_shown(evaluation, made, real=False)):
            theirs = as_shown(evaluation, train.images[torch.from_numpy(found.rows[i])], real=True)
            far = [f"{distance:.3g}" for distance in found.distances[i]]
            rows.append([(image, ""), *zip(theirs, far, strict=True)])
        panels.append(Panel(f"generated | nearest training images, in {space}", names, rows, 1 + k))
    return panels


PICTURES: dict[str, Callable[[Explanation], list[Panel]]] = {
    "grad_cam": cams,
    "latents": latents,
    "classes": classes,
    "neighbours": neighbours,
}


def _needs_generator(asked: Explanation) -> None:
    if not asked.has("generator"):
        raise LeftOut("the run has no generator")


def _needs_data(asked: Explanation) -> None:
    root = asked.session.recipe.tables.data.root
    if root is None or Path(root).is_dir():
        return
    try:
        open_dataset(asked.session.recipe)  # there are datasets that need no folder
    except UserError:
        raise LeftOut(
            f"it shows real images, and their folder {root} is not there; --set data.root=DIR says "
            "where it is"
        ) from None


def _heated(
    asked: Explanation, name: str, images: Tensor, *, real: bool
) -> list[tuple[np.ndarray, str]]:
    """Images ``(n, S, S)`` uint8 under their heat maps for a class, and its probability."""
    if not len(images):
        return []
    evaluation, column = asked.evaluation, asked.columns[name]
    classifier = asked.session.graph.trained("classifier")
    span = evaluation.value_range if real else (-1.0, 1.0)
    given = to_range(images.to(asked.session.device)[:, None], span)
    heat = grad_cam(classifier, given, column, asked.layer).cpu().numpy()
    probs = evaluation.classify(images, real=real)[1][:, column]
    tiles = heated(as_shown(evaluation, images, real=real), heat)
    return [(tile, f"{p:.2f}") for tile, p in zip(tiles, probs, strict=True)]
