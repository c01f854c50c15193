"""Does a trained generator copy its training images? Asked with images that it never saw.

``docs/audit.md`` says what the figures mean and what they cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xraygan._version import __version__
from xraygan.audit.verdict import Compared
from xraygan.data.datamodule import ImageSplit, to_range
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

from .memorization import (
    BOOTSTRAP,
    LEVEL,
    PERMUTATIONS,
    TAIL,
    copies,
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
from .verdict import notes, splits_differ, verdict

NEIGHBOURS = 50  # training images that are looked for; the nearest is compared with the others
MOST = 2000  # held-out images, one a patient
PICTURED = 16  # pairs of a kind in the picture

Object = dict[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """Which images stand for those that the generator never saw, and for those that it did.

    One image a patient, so that the images are independent, as the tests assume.

    Attributes:
        rows: ``(H,)`` test images with labels that training images have.
        unseen: ``(M,)`` some of ``rows``.
        seen: ``(M,)`` training images, each with the labels of its fellow in ``unseen``.
    """

    rows: np.ndarray
    unseen: np.ndarray
    seen: np.ndarray

    @classmethod
    def draw(cls, train: SplitImages, test: SplitImages, random: np.random.Generator) -> HeldOut:
        """Draw them at random.

        Raises:
            UserError: no test image has the labels of a training image.
        """
        ours, theirs = _kinds(train), _kinds(test)
        known = set(ours)
        rows = [row for row in _one_a_patient(test, random) if theirs[row] in known][:MOST]
        if not rows:
            raise UserError(
                "[data]: no test image has the labels of a training image. The audit compares with "
                "images that the generator never saw: give the dataset a test split of its classes"
            )
        left: dict[bytes, list[int]] = {}
        for row in _one_a_patient(train, random):
            left.setdefault(ours[row], []).append(row)
        pairs = [(row, left[theirs[row]].pop()) for row in rows if left.get(theirs[row])]
        unseen, seen = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(np.array(rows), unseen, seen)


def audit(
    session: Session, run_dir: RunDirectory, step: int, count: int, seed: int, display: Display
) -> Object:
    """Audit a trained graph and write ``audit.json`` and ``audit.png`` into its run directory.

    Args:
        step: the step of its checkpoint.
        count: how many images to generate: those of ``xraygan generate`` with the same seed.
        seed: of these and of every other draw.

    Returns:
        The content of ``audit.json``.

    Raises:
        UserError: the run has no generator, or there is nothing held out to compare with.
    """
    from .figure import draw_pairs  # matplotlib takes seconds to import

    if "generator" not in session.graph.networks:
        raise UserError(f"{run_dir.path}: the run has no generator, so there is nothing to audit")
    evaluation = session.evaluation("test")
    held = HeldOut.draw(evaluation.train, evaluation.test, _random(seed, "held-out"))
    images = sample_images(session, count, None, seed, display)[0].images
    embeds = spaces(evaluation)
    compared = compare(evaluation, embeds, images, held, seed, display)
    members = _membership(evaluation, embeds["pixels"], images, held, seed, display)
    alike = measure_resemblance(evaluation, images, held, display)
    content = {
        **verdict(compared, members, alike),
        "step": step,
        "xraygan": __version__,
        "protocol": _protocol(evaluation, held, count, seed) | _data(session, run_dir),
        "copies": {name: found.figures for name, found in compared.items()},
        "membership": members,
        "resemblance": alike,
        "notes": notes(
            compared, members, alike, trained_on(run_dir), session.data.fingerprint, session.differs
        ),
        "nearest": _pairs(compared, evaluation),
    }
    picture = draw_pairs(_panels(compared, evaluation, images, held))
    files = {run_dir.audit_picture: picture, run_dir.audit: as_json(content).encode()}
    try:
        write_together(files, remove=[run_dir.audit])
        note_use(run_dir, step, session.data, session.differs)
    except OSError as error:
        raise UserError(f"{run_dir.path}: cannot be written ({error.strerror})") from error
    return content


# -- figures ---------------------------------------------------------------------------------------


def compare(
    evaluation: Evaluation,
    embeds: Mapping[str, Embed],
    images: Tensor,
    held: HeldOut,
    seed: int,
    display: Display,
) -> dict[str, Compared]:
    """In each space, the training images nearest to generated and to held-out images, and which
    generated ones are flagged as copies.

    Args:
        embeds: the spaces, of :func:`xraygan.audit.nearest_neighbors.spaces`.
        images: ``(N, S, S)`` uint8, generated.
    """
    train, cut = evaluation.train, len(images)
    found = {}
    for name, embed in embeds.items():
        queries = torch.cat([embed(images, False), embed(_rows(evaluation.test, held.rows), True)])
        with _passing(train, embed, f"nearest in {name}", display) as part:
            near = nearest_neighbors(queries, part, len(train), min(NEIGHBOURS, len(train)))
        generated = Neighbours(near.distances[:cut], near.rows[:cut])
        held_out = Neighbours(near.distances[cut:], near.rows[cut:])
        random = _random(seed, name)
        figures, flags = copies(generated, held_out, LEVEL / len(embeds), random)
        found[name] = Compared(generated, held_out, figures, flags)
    return found


def measure_resemblance(
    evaluation: Evaluation, images: Tensor, held: HeldOut, display: Display
) -> Object:
    """Whether generated images ``(N, S, S)`` uint8 look like the data at all; see
    :func:`xraygan.audit.memorization.resemblance`."""
    embed, cut = partial(patterns, evaluation), len(images)
    both = torch.cat([embed(images, False), embed(_rows(evaluation.test, held.rows), True)])
    with _passing(evaluation.train, embed, "resemblance", display) as part:
        far = nearest_neighbors(both, part, len(evaluation.train)).distances[:, 0]
    correlation = 1 - far**2 / 2  # of points of length 1
    return resemblance(correlation[:cut], correlation[cut:])


def _membership(
    evaluation: RunEvaluation,
    embed: Embed,
    images: Tensor,
    held: HeldOut,
    seed: int,
    display: Display,
) -> Object:
    """What tells training images from held-out ones.

    Not in the classifier's features: it has its own memory of the training images.
    """
    count = len(held.seen)
    if not count:
        return {"pairs": 0}
    train, test = evaluation.train, evaluation.test
    made = embed(images, False)
    both = torch.cat([embed(_rows(train, held.seen), True), embed(_rows(test, held.unseen), True)])
    numbers = np.unique(train.patients, return_inverse=True)[1]
    patients = torch.from_numpy(numbers).to(evaluation.device)
    # Neither image of a pair is compared with the patient of the one that was seen: the training
    # images that are left are to both what others are.
    own = patients[torch.from_numpy(held.seen).to(evaluation.device)].repeat(2)
    to_made = nearest_neighbors(both, made.__getitem__, len(made)).distances[:, 0]
    with _passing(train, embed, "membership", display) as part:
        to_train = nearest_neighbors(both, part, len(train), apart=(own, patients)).distances[:, 0]
    scores = {
        "relative": ratio(to_made, to_train),
        "distance": to_made,
        "control": to_train,
    }
    if "discriminator" in evaluation.networks:
        seen = _discriminate(evaluation, train, held.seen)
        scores["discriminator"] = -np.concatenate(
            [seen, _discriminate(evaluation, test, held.unseen)]
        )
    random = {name: _random(seed, "membership", name) for name in scores}
    found = {n: membership(s[:count], s[count:], random[n]) for n, s in scores.items()}
    leaks = found["relative"]["p"] <= LEVEL and not splits_differ(found)
    return {"pairs": count, "level": LEVEL, "leaks": leaks, **found}


def _discriminate(evaluation: RunEvaluation, split: ImageSplit, rows: np.ndarray) -> np.ndarray:
    """The discriminator's logits ``(N,)`` for real images and, if it wants them, their labels."""
    graph, config = evaluation.graph, evaluation.recipe.tables
    discriminator = graph.trained("discriminator")
    size, logits = config.evaluation.batch_size, []
    was_training = discriminator.training
    discriminator.eval()
    with torch.inference_mode(), graph.autocast():
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            images = split.images[torch.from_numpy(part)].to(evaluation.device)[:, None]
            given = [to_range(images, config.data.value_range)]
            if discriminator.conditional:
                labels = torch.from_numpy(split.label_matrix[part]).float()
                told = split.encoded(graph.task.metadata)[part]
                given.append(torch.cat([labels, told], dim=1).to(evaluation.device))
            logits.append(discriminator(*given).double().cpu())
    discriminator.train(was_training)
    found = torch.cat(logits).numpy()
    if not np.isfinite(found).all():
        raise UserError(
            "the discriminator's logits of real images are not finite; audit another --checkpoint"
        )
    return found


def _protocol(evaluation: RunEvaluation, held: HeldOut, count: int, seed: int) -> Object:
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
    """Which data were compared, and in what they are not those of the training."""
    said: Object = {"fingerprint": session.data.fingerprint}
    if (trained := trained_on(run_dir)) not in (None, session.data.fingerprint):
        said["trained_on_fingerprint"] = trained
    return said | ({"data_differs": session.differs} if session.differs else {})


# -- pairs -----------------------------------------------------------------------------------------


def _pairs(compared: dict[str, Compared], evaluation: RunEvaluation) -> list[Object]:
    """Each generated image, as ``xraygan generate`` names it, and the training image it is nearest
    to; of each space the relatively nearest first."""
    pairs = []
    for name, found in compared.items():
        near, how_near = found.generated, relative(found.generated)
        pairs += [
            {
                "space": name,
                "generated": f"{i:06d}.png",
                "training": evaluation.train.paths[near.rows[i, 0]],
                "distance": float(near.distances[i, 0]),
                "relative_distance": float(how_near[i]),
                "flagged": bool(found.flagged[i]),
            }
            for i in np.argsort(how_near, kind="stable")
        ]
    return pairs


def _panels(
    compared: dict[str, Compared], evaluation: RunEvaluation, images: Tensor, held: HeldOut
) -> list[tuple[str, list[tuple[np.ndarray, np.ndarray, str, bool]]]]:
    """Of each space, the closest pairs of generated and of held-out images, as the picture wants
    them; no training image twice."""

    panels = []
    test = evaluation.test.images
    for space, found in compared.items():
        for name, near, real in (
            ("generated", found.generated, False),
            ("held out", found.held_out, True),
        ):
            how_near = relative(near)
            order = closest(how_near, near.rows[:, 0])
            shown = test[torch.from_numpy(held.rows[order])] if real else images[order]
            theirs = evaluation.train.images[torch.from_numpy(near.rows[order, 0])]
            flags = np.zeros(len(order), dtype=bool) if real else found.flagged[order]
            cells = zip(
                as_shown(evaluation, shown, real),
                as_shown(evaluation, theirs, True),
                how_near[order],
                flags,
                strict=True,
            )
            title = f"{name} | nearest training image, in {space}"
            panels.append((title, [(a, b, f"{d:.2f}", bool(flag)) for a, b, d, flag in cells]))
    return panels


def closest(how_near: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The places of the smallest values, the smallest first, no row of ``rows`` twice."""
    order = np.argsort(how_near, kind="stable")
    first = np.sort(np.unique(rows[order], return_index=True)[1])
    return order[first][:PICTURED]


# -- images ----------------------------------------------------------------------------------------


def _random(seed: int, *purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "audit", *purpose))


@contextmanager
def _passing(
    split: SplitImages, embed: Embed, what: str, display: Display
) -> Iterator[Callable[[slice], Tensor]]:
    """Parts of a split as points, with a line that says how far the pass over it is."""
    with display.progress(what, len(split)) as advance:

        def part(which: slice) -> Tensor:
            points = embed(_rows(split, np.arange(which.start, which.stop)), True)
            advance(len(points))
            return points

        yield part


def _rows(split: SplitImages, rows: Sequence[int] | np.ndarray) -> Images:
    """Some images of a split, not yet read."""
    return split.images.take(torch.as_tensor(rows))


def _kinds(split: SplitImages) -> list[bytes]:
    """The labels of each image as something to compare."""
    return [row.tobytes() for row in split.label_matrix]


def _one_a_patient(split: SplitImages, random: np.random.Generator) -> np.ndarray:
    """A random image of each patient, in random order."""
    order = random.permutation(len(split))
    first = np.unique(split.patients[order], return_index=True)[1]
    return random.permutation(order[first])
