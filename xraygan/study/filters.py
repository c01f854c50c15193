"""Filters of generated images: which of them a classifier is to learn from.

A filter gives each image a number and keeps the images with the largest ones, in each class on its
own if classes are exclusive, so that their frequencies stay. It reads only what whoever trains the
classifier has: the real training images of its run and a classifier of them, so that each run has
images of its own, or the training images of the generator where privacy is the point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from xraygan.audit.nearest_neighbors import nearest_neighbors, squared_distances, thumbnails
from xraygan.data.datamodule import prepare
from xraygan.data.image_splits import ImageSplit
from xraygan.data.tables import read_table
from xraygan.evaluation.folders import FolderEvaluation
from xraygan.session.session import restore_session
from xraygan.sweep.plan import plan
from xraygan.utils.atomic_files import write_atomically
from xraygan.utils.csv_cells import as_csv
from xraygan.utils.progress import Display

from .design import AGAIN, Arm, Design, Images, describe_real
from .pool import FILTERED, Pool

#: neighbours whose distance is the radius of a real image's ball
NEIGHBOURS = 5


@dataclass(frozen=True)
class Basis:
    """What filters read.

    Attributes:
        evaluation: the generated images, and as its training images those of the generator.
        real: the real images of a run.
        run: the directory of the run with the same real images, twice as often, and no other.
        extractor: in whose features images are compared; None for pixels.
    """

    evaluation: FolderEvaluation
    real: ImageSplit
    run: Path
    extractor: str | None


def confidence(pool: Pool, basis: Basis, display: Display) -> np.ndarray:
    """The probability of an image's own labels, by a classifier of the real images alone.

    With several labels, the geometric mean over the classes, (N,) in [0, 1].
    """
    session, _, _ = restore_session(basis.run, (), display, measure=False)
    probs = session.evaluation().classify(pool.split.images, real=True)[1]
    labels = pool.split.label_matrix.astype(bool)
    if session.graph.task.exclusive:
        return probs[labels]
    right = np.where(labels, probs, 1 - probs)
    return np.exp(np.log(np.clip(right, 1e-12, None)).mean(axis=1))


def density(pool: Pool, basis: Basis, display: Display) -> np.ndarray:
    """The number of balls around real images that hold an image, ``(N,)``.

    A ball reaches to the fifth nearest other real image: the density of Naeem et al.
    (arXiv:2002.09797) of a single image. Ties are broken by the distance to the nearest real image.
    """
    embed = partial(thumbnails, basis.evaluation)
    if basis.extractor is not None:
        embed = partial(basis.evaluation.embed, basis.extractor)  # type: ignore[assignment]
    real, generated = embed(basis.real.images, True), embed(pool.split.images, False)
    index = torch.arange(len(real), device=real.device)
    k = min(NEIGHBOURS, len(real) - 1)
    nearest = nearest_neighbors(real, real.__getitem__, len(real), k, apart=(index, index))
    radius = torch.from_numpy(nearest.distances[:, -1]).to(real.device)
    found = []
    for start in range(0, len(generated), 1024):
        distances = squared_distances(generated[start : start + 1024], real).sqrt()
        inside = (distances <= radius).sum(dim=1).double()
        closest = distances.min(dim=1).values
        found.append(inside + 1 / (1 + closest))
    return torch.cat(found).cpu().numpy()


def distance(pool: Pool, basis: Basis, display: Display) -> np.ndarray:
    """The distance in pixels to the nearest training image of the generator, ``(N,)``.

    The images that are nearest to a training image, and so may be copies, are left out.
    """
    embed, train = partial(thumbnails, basis.evaluation), basis.evaluation.train
    generated = embed(pool.split.images, False)

    def part(rows: slice) -> torch.Tensor:
        return embed(train.images.take(torch.arange(rows.start, rows.stop)), True)

    return nearest_neighbors(generated, part, len(train)).distances[:, 0]


Filter = Callable[[Pool, Basis, Display], np.ndarray]

#: the filters by name
FILTERS: dict[str, Filter] = {"confidence": confidence, "density": density, "distance": distance}

#: those that read the real images of a run, or a classifier of them
OF_RUN = ("confidence", "density")

#: no filter
NONE = "none"


class FilteredImages:
    """The generated images that filters keep for the runs of a study."""

    def __init__(
        self, design: Design, pool: Pool, evaluation: FolderEvaluation, display: Display
    ) -> None:
        self.design, self.pool = design, pool
        self.evaluation, self.display = evaluation, display
        self._values: dict[tuple[str, int | None, int | None], np.ndarray] = {}

    def keep(self, images: Images, real: int | None, *, choose: bool) -> Images:
        """Those of some images that their filter keeps, in tables that are written.

        A filter that reads real images reads those of the run that learns from what it keeps. With
        the real images of another run it would give that run knowledge of more of them.

        Args:
            choose: whether for the runs that choose, or for those that are tested. Those of real
                images again must be complete.
        """
        if images.filter not in OF_RUN:
            return replace(images, table=self._table(images, real, None, choose))
        seeds = self.design.seeds(choose=choose)
        tables = {seed: self._table(images, real, seed, choose) for seed in seeds}
        return replace(images, table=tables)

    def _table(self, images: Images, real: int | None, seed: int | None, choose: bool) -> Path:
        name = f"{images.filter}-{images.keep:g}"
        if seed is not None:
            name += f"-{real or 'all'}-seed-{seed}"
        path = self.design.folder / FILTERED / f"{name}.csv"
        if not path.exists():  # of a study that was interrupted
            key = (images.filter, real, seed)
            if key not in self._values:
                of_run = "" if seed is None else f", {describe_real(real)}, seed {seed}"
                self.display.say(f"filter by {images.filter}{of_run}")
                first = self.design.seeds(choose=choose)[0]
                basis = self._basis(real, first if seed is None else seed, choose)
                self._values[key] = FILTERS[images.filter](self.pool, basis, self.display)
            values = self._values[key]
            rows = kept_rows(values, self.pool.split.label_matrix, images.keep)
            write_filtered(self.pool, rows, values, path)
        return path

    def _basis(self, real: int | None, seed: int, choose: bool) -> Basis:
        keys = [f"run.seed={seed}", *([f"data.limit={real}"] if real is not None else [])]
        data = prepare(self.design.recipe.changed(*keys), self.display.progress)
        sweep = self.design.sweep({real: [Arm(AGAIN)]}, choose=choose)
        runs = plan(sweep, self.design.stage(choose=choose))
        again = next(run.run_dir.path for run in runs if run.seed == seed)
        return Basis(self.evaluation, data.splits["train"], again, self.design.options.extractor)


def kept_rows(values: np.ndarray, labels: np.ndarray, keep: float) -> np.ndarray:
    """The rows of the images that a filter keeps, in their order.

    Args:
        values: ``(N,)``, the larger the better.
        labels: ``(N, K)`` uint8; each class on its own if every image has exactly one.
        keep: share that is kept, rounded down.
    """
    exclusive = bool((labels.sum(axis=1) == 1).all())
    groups = labels.argmax(axis=1) if exclusive else np.zeros(len(values), dtype=np.int64)
    kept = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order = members[np.argsort(-values[members], kind="stable")]
        kept.append(order[: int(len(members) * keep)])
    return np.sort(np.concatenate(kept))


def write_filtered(pool: Pool, rows: np.ndarray, values: np.ndarray, path: Path) -> None:
    """Write the table of the images that a filter keeps, with their numbers."""
    table = read_table(pool.table, ["path", "label"]).map(str.strip)
    table = table.set_index("path").loc[[pool.split.paths[row] for row in rows], ["label"]]
    table["filter"] = [f"{value:.6g}" for value in values[rows]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, as_csv(table.reset_index()))
