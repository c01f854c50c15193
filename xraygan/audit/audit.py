"""The audit of a trained generator: does it copy its training images?

It compares generated images with held-out images, which the generator was not trained on.
``docs/audit.md`` explains the figures and their limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xraygan._version import __version__
from xraygan.data.datamodule import to_range
from xraygan.data.image_splits import ImageSplit
from xraygan.errors import UserError
from xraygan.evaluation.evaluation import CONFIDENCE, RunEvaluation
from xraygan.parts.evaluation import Evaluation, Images, SplitImages
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.image_record import note_use
from xraygan.rundir.provenance import trained_on
from xraygan.session.sampling import sample_images
from xraygan.session.session import Session
from xraygan.utils.atomic_files import as_json, write_together
from xraygan.utils.progress import Display
from xraygan.utils.seeding import derive_seed

from .held_out import HeldOut
from .memorization import (
    BOOTSTRAP,
    LEVEL,
    PERMUTATIONS,
    TAIL,
    flag_copies,
    membership,
    ratio,
    relative,
    resemblance,
)  # fmt: skip
from .nearest_neighbors import (
    SIDE,
    Embed,
    Neighbours,
    as_shown,
    nearest_neighbors,
    patterns,
    spaces,
)
from .verdict import Compared, notes, splits_differ, verdict

NEIGHBOURS = 50  # nearest training images of an image; the first is compared with the others
PICTURED = 16  # pairs of generated, and of held-out images, in the picture

Object = dict[str, Any]


def audit(
    session: Session, run_dir: RunDirectory, step: int, count: int, seed: int, display: Display
) -> Object:
    """Audit a trained graph and write ``audit.json`` and ``audit.png`` into its run directory.

    The arguments and exceptions are those of :func:`audit_run`.

    Returns:
        The content of ``audit.json``.
    """
    content, picture = audit_run(session, run_dir, step, count, seed, display)
    files = {run_dir.audit_picture: picture, run_dir.audit: as_json(content).encode()}
    try:
        write_together(files, remove=[run_dir.audit])
        note_use(run_dir, step, session.data, session.differs)
    except OSError as error:
        raise UserError(f"{run_dir.path}: cannot be written ({error.strerror})") from error
    return content


def audit_run(
    session: Session, run_dir: RunDirectory, step: int, count: int, seed: int, display: Display
) -> tuple[Object, bytes]:
    """Audit a trained graph, and write nothing.

    Args:
        step: the step of its checkpoint.
        count: number of images to generate; they are those of ``xraygan generate`` with this seed.
        seed: seed of the images and of all other draws.

    Returns:
        The content of ``audit.json``, and of ``audit.png``.

    Raises:
        UserError: the run has no generator, or there are no held-out images.
    """
    if "generator" not in session.graph.networks:
        raise UserError(f"{run_dir.path}: the run has no generator, so it cannot be audited")
    evaluation = session.evaluation("test")
    held = HeldOut.draw(evaluation.train, evaluation.test, random_source(seed, "held-out"))
    images = sample_images(session, count, None, seed, display)[0].images
    embeds, trained = spaces(evaluation), trained_on(run_dir)
    fingerprint, differs = session.data.fingerprint, session.differs
    found = examine(evaluation, embeds, images, held, seed, display)
    content = {
        **found.verdict,
        "step": step,
        "xraygan": __version__,
        "protocol": protocol(evaluation, held, count, seed) | _data(session, run_dir),
        **found.figures,
        "notes": notes(*found.tests, trained, fingerprint, differs),
        "nearest": found.nearest,
    }
    return content, found.picture


# -- figures ---------------------------------------------------------------------------------------


class Examined(NamedTuple):
    """What an audit found.

    Attributes:
        verdict: the keys ``verdict`` and ``says`` of ``audit.json``.
        figures: its keys ``copies``, ``membership`` and ``resemblance``.
        nearest: its key ``nearest``.
        tests: what :func:`xraygan.audit.verdict.notes` reads.
        picture: the content of ``audit.png``.
    """

    verdict: Object
    figures: Object
    nearest: list[Object]
    tests: tuple[dict[str, Compared], Object, Object]
    picture: bytes


def examine(
    evaluation: RunEvaluation,
    embeds: Mapping[str, Embed],
    images: Tensor,
    held: HeldOut,
    seed: int,
    display: Display,
    names: Sequence[str] | None = None,
) -> Examined:
    """Compare generated images with training and held-out images, wherever they are from.

    Args:
        embeds: the spaces in which copies are searched.
        images: ``(N, S, S)`` uint8, generated.
        seed: seed of the draws.
        names: N names of the images; those of ``xraygan generate`` by default.
    """
    from .figure import draw_pairs  # matplotlib takes seconds to import

    compared = compare(evaluation, embeds, images, held, seed, display)
    members = _membership(evaluation, embeds["pixels"], images, held, seed, display)
    resembles = measure_resemblance(evaluation, images, held, display)
    figures = {
        "copies": {name: space.figures for name, space in compared.items()},
        "membership": members,
        "resemblance": resembles,
    }
    tests = (compared, members, resembles)
    picture = draw_pairs(_panels(compared, evaluation, images, held))
    return Examined(verdict(*tests), figures, _pairs(compared, evaluation, names), tests, picture)


def compare(
    evaluation: Evaluation,
    embeds: Mapping[str, Embed],
    images: Tensor,
    held: HeldOut,
    seed: int,
    display: Display,
) -> dict[str, Compared]:
    """Find the training images nearest to generated and to held-out images in each space, and flag
    generated images that may be copies.

    Args:
        embeds: the spaces, of :func:`xraygan.audit.nearest_neighbors.spaces`.
        images: ``(N, S, S)`` uint8, generated.
    """
    train, cut = evaluation.train, len(images)
    compared = {}
    for name, embed in embeds.items():
        queries = torch.cat([embed(images, False), embed(_rows(evaluation.test, held.rows), True)])
        with _progress_over(train, embed, f"nearest in {name}", display) as part:
            both = nearest_neighbors(queries, part, len(train), min(NEIGHBOURS, len(train)))
        generated = Neighbours(both.distances[:cut], both.rows[:cut])
        held_out = Neighbours(both.distances[cut:], both.rows[cut:])
        random = random_source(seed, name)
        figures, flags = flag_copies(generated, held_out, LEVEL / len(embeds), random)
        compared[name] = Compared(generated, held_out, figures, flags)
    return compared


def measure_resemblance(
    evaluation: Evaluation, images: Tensor, held: HeldOut, display: Display
) -> Object:
    """Whether generated images ``(N, S, S)`` uint8 look like the data at all; see
    :func:`xraygan.audit.memorization.resemblance`."""
    embed, cut = partial(patterns, evaluation), len(images)
    both = torch.cat([embed(images, False), embed(_rows(evaluation.test, held.rows), True)])
    with _progress_over(evaluation.train, embed, "resemblance", display) as part:
        distances = nearest_neighbors(both, part, len(evaluation.train)).distances[:, 0]
    correlation = 1 - distances**2 / 2  # since the points have length 1
    return resemblance(correlation[:cut], correlation[cut:])


def _membership(
    evaluation: RunEvaluation,
    embed: Embed,
    images: Tensor,
    held: HeldOut,
    seed: int,
    display: Display,
) -> Object:
    """How well distances and the discriminator separate training images from held-out ones.

    Not in the classifier's features, since the classifier memorizes training images itself.
    """
    count = len(held.members)
    if not count:
        return {"pairs": 0}
    train, test = evaluation.train, evaluation.test
    generated = embed(images, False)
    members = embed(_rows(train, held.members), True)
    both = torch.cat([members, embed(_rows(test, held.non_members), True)])
    codes = np.unique(train.patients, return_inverse=True)[1]
    patients = torch.from_numpy(codes).to(evaluation.device)
    # Both images of a pair are compared with the training images without the member's patient, so
    # that the member is not nearer to them only because it is one of them.
    excluded = patients[torch.from_numpy(held.members).to(evaluation.device)].repeat(2)
    to_generated = nearest_neighbors(both, generated.__getitem__, len(generated)).distances[:, 0]
    with _progress_over(train, embed, "membership", display) as part:
        to_train = nearest_neighbors(both, part, len(train), apart=(excluded, patients)).distances[
            :, 0
        ]
    scores = {
        "relative": ratio(to_generated, to_train),
        "distance": to_generated,
        "control": to_train,
    }
    if "discriminator" in evaluation.networks:
        logits = _discriminate(evaluation, train, held.members)
        scores["discriminator"] = -np.concatenate(
            [logits, _discriminate(evaluation, test, held.non_members)]
        )
    random = {name: random_source(seed, "membership", name) for name in scores}
    results = {n: membership(s[:count], s[count:], random[n]) for n, s in scores.items()}
    leaks = results["relative"]["p"] <= LEVEL and not splits_differ(results)
    return {"pairs": count, "level": LEVEL, "leaks": leaks, **results}


def _discriminate(evaluation: RunEvaluation, split: ImageSplit, rows: np.ndarray) -> np.ndarray:
    """The discriminator's logits ``(N,)`` of real images, with their labels if it takes them."""
    graph, config = evaluation.graph, evaluation.recipe.tables
    discriminator = graph.trained("discriminator")
    size, logits = config.evaluation.batch_size, []
    was_training = discriminator.training
    discriminator.eval()
    with torch.inference_mode(), graph.autocast():
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            images = split.images[torch.from_numpy(part)].to(evaluation.device)[:, None]
            inputs = [to_range(images, config.data.value_range)]
            if discriminator.conditional:
                labels = torch.from_numpy(split.label_matrix[part]).float()
                metadata = split.encoded(graph.task.metadata)[part]
                inputs.append(torch.cat([labels, metadata], dim=1).to(evaluation.device))
            logits.append(discriminator(*inputs).double().cpu())
    discriminator.train(was_training)
    result = torch.cat(logits).numpy()
    if not np.isfinite(result).all():
        raise UserError(
            "the discriminator's logits of real images are not finite; audit another --checkpoint"
        )
    return result


def protocol(evaluation: RunEvaluation, held: HeldOut, count: int, seed: int) -> Object:
    train, size = evaluation.train, evaluation.task.image_size
    side = min(SIDE, size)
    return {
        "dataset": evaluation.recipe.choices["data"].part.name,
        "training_images": len(train),
        "training_patients": len(np.unique(train.patients)),
        "held_out_images": len(held.rows),
        "held_out": "test images with the labels of a training image, one a patient",
        "generated": count,
        "seed": seed,
        "pixels": f"greys in [0, 1] of {size} x {size} averaged to {side} x {side}, RMS difference",
        "neighbours": min(NEIGHBOURS, len(train)),
        "tail": TAIL,
        "level": LEVEL,
        "bootstrap": BOOTSTRAP,
        "permutations": PERMUTATIONS,
        "confidence": CONFIDENCE,
    }


def _data(session: Session, run_dir: RunDirectory) -> Object:
    """The fingerprint of the compared data, and its differences from the training data."""
    entries: Object = {"fingerprint": session.data.fingerprint}
    if (trained := trained_on(run_dir)) not in (None, session.data.fingerprint):
        entries["trained_on_fingerprint"] = trained
    return entries | ({"data_differs": session.differs} if session.differs else {})


# -- pairs -----------------------------------------------------------------------------------------


def _pairs(
    compared: dict[str, Compared], evaluation: Evaluation, names: Sequence[str] | None = None
) -> list[Object]:
    """Each generated image, as ``xraygan generate`` names it by default, with its nearest training
    image; in each space the relatively nearest pair comes first."""
    pairs = []
    for name, space in compared.items():
        neighbours, distances = space.generated, relative(space.generated)
        pairs += [
            {
                "space": name,
                "generated": names[i] if names else f"{i:06d}.png",
                "training": evaluation.train.paths[neighbours.rows[i, 0]],
                "distance": float(neighbours.distances[i, 0]),
                "relative_distance": float(distances[i]),
                "flagged": bool(space.flagged[i]),
            }
            for i in np.argsort(distances, kind="stable")
        ]
    return pairs


def _panels(
    compared: dict[str, Compared], evaluation: RunEvaluation, images: Tensor, held: HeldOut
) -> list[tuple[str, list[tuple[np.ndarray, np.ndarray, str, bool]]]]:
    """For each space, the closest pairs of generated and of held-out images for the picture.

    No training image occurs twice in a panel.
    """
    panels = []
    test = evaluation.test.images
    for space_name, space in compared.items():
        for name, neighbours, real in (
            ("generated", space.generated, False),
            ("held out", space.held_out, True),
        ):
            distances = relative(neighbours)
            order = closest_pairs(distances, neighbours.rows[:, 0])
            shown = test[torch.from_numpy(held.rows[order])] if real else images[order]
            training = evaluation.train.images[torch.from_numpy(neighbours.rows[order, 0])]
            flags = np.zeros(len(order), dtype=bool) if real else space.flagged[order]
            cells = zip(
                as_shown(evaluation, shown, real),
                as_shown(evaluation, training, True),
                distances[order],
                flags,
                strict=True,
            )
            title = f"{name} | nearest training image, in {space_name}"
            panels.append((title, [(a, b, f"{d:.2f}", bool(flag)) for a, b, d, flag in cells]))
    return panels


def closest_pairs(distances: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The indices of the smallest distances, smallest first, with no value of ``rows`` twice."""
    order = np.argsort(distances, kind="stable")
    first = np.sort(np.unique(rows[order], return_index=True)[1])
    return order[first][:PICTURED]


# -- images ----------------------------------------------------------------------------------------


def random_source(seed: int, *purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "audit", *purpose))


@contextmanager
def _progress_over(
    split: SplitImages, embed: Embed, title: str, display: Display
) -> Iterator[Callable[[slice], Tensor]]:
    """A function from a slice of a split to points, which shows the progress over the split."""
    with display.progress(title, len(split)) as advance:

        def part(rows: slice) -> Tensor:
            points = embed(_rows(split, np.arange(rows.start, rows.stop)), True)
            advance(len(points))
            return points

        yield part


def _rows(split: SplitImages, rows: Sequence[int] | np.ndarray) -> Images:
    """Some images of a split, which are read later."""
    return split.images.take(torch.as_tensor(rows))
