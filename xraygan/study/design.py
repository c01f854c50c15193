"""The design of a utility study: its options, its arms, and the sweeps that run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from xraygan.errors import UserError
from xraygan.recipe.files import Tree
from xraygan.recipe.loading import Recipe, load_tree
from xraygan.sweep.file import Layout, Row, Sweep

#: file of the recipe that all runs extend
BASE = "base.toml"
#: folders of a study with the runs that choose, and with those that are tested
STAGES = ("choice", "test")
#: seeds of the runs that choose start here, so that they differ from those that are tested
CHOICE_SEED = 1000

#: the arms of a study, as tables and pictures call them
REAL = "real images"
AGAIN = "real images again"
AUGMENTED = "more augmentation"
MIXED = "real + generated"
BEFORE = "generated, then real"
ALONE = "generated alone"

#: arms that can be left out, by the names that options have for them
OPTIONAL = {"real": REAL, "augmented": AUGMENTED, "before": BEFORE, "alone": ALONE}

#: the augmentation of the arm :data:`AUGMENTED`
STRONG = {"scale": [0.4, 1.0], "ratio": [0.7, 1.43], "flip": 0.5}

#: training steps of a run, unless they are given
STEPS = 600
#: metrics of a run without a generator
METRICS = ("auc", "classification")

#: tables of a recipe that a classifier alone does not need
_ADVERSARIAL = ("generator", "discriminator", "objective", "augmenter", "labeler", "schedule")


@dataclass(frozen=True)
class Options:
    """What a study is asked for.

    Attributes:
        real: numbers of real images of each class; None for all.
        ratios: numbers of generated images for each real one.
        filters: names of :data:`xraygan.study.filters.FILTERS`, or ``none``.
        keep: shares of the generated images that a filter keeps.
        seeds, choice_seeds: numbers of runs of each arm that are tested, and that choose.
        steps: of each run; None for those of the recipe.
        count: most images of each class that are generated.
        metric: the figure that arms are compared by.
        extractor: in whose features images are compared; None for pixels alone.
        arms: keys of :data:`OPTIONAL`: the arms beside real images again, and real and generated
            images together.
        overrides: ``"table.key=value"`` each, as ``--set`` on the command line.
    """

    real: tuple[int | None, ...]
    ratios: tuple[float, ...]
    filters: tuple[str, ...]
    keep: tuple[float, ...]
    seeds: int
    choice_seeds: int
    steps: int | None
    count: int
    metric: str
    extractor: str | None
    arms: tuple[str, ...]
    seed: int = 0
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """Generated images that an arm learns from.

    Attributes:
        table: see :class:`xraygan.recipe.training_images.GeneratedImages`; by seed, if each run has
            a table of its own.
        ratio: generated images for each real one.
        filter: name of the filter by which they were chosen, empty for all.
        keep: share of the images that it keeps.
    """

    table: Path | Mapping[int, Path]
    ratio: float
    filter: str = ""
    keep: float = 1.0

    def table_of(self, seed: int) -> Path:
        """The table of the run with a seed."""
        return self.table if isinstance(self.table, Path) else self.table[seed]

    @property
    def filtered(self) -> str:
        """``confidence (50%)``; empty without a filter."""
        return f"{self.filter} ({100 * self.keep:g}%)" if self.filter else ""

    def describe(self) -> str:
        """``1 generated image for each real one, filtered by confidence (50%)``."""
        plural = "" if self.ratio == 1 else "s"
        by = f", filtered by {self.filtered}" if self.filtered else ""
        return f"{self.ratio:g} generated image{plural} for each real one{by}"


@dataclass(frozen=True)
class Arm:
    """One way to train a classifier.

    Attributes:
        name: as the rows of a sweep are called.
        images: the generated images, if it has any.
        use: how they are used; see :class:`xraygan.recipe.training_images.GeneratedImages`.
    """

    name: str
    images: Images | None = None
    use: str = "beside"


def candidate(images: Images) -> Arm:
    """An arm with real and generated images from which one is chosen, under a name of its own."""
    by = f", {images.filtered}" if images.filtered else ""
    return Arm(f"ratio {images.ratio:g}{by}", images)


@dataclass(frozen=True)
class Design:
    """The base of all runs of a study.

    Attributes:
        recipe: the classifier's recipe, without generated images.
        options: what the study is asked for.
        folder: of the study.
        root: folder that the paths of tables of generated images are relative to.
    """

    recipe: Recipe
    options: Options
    folder: Path
    root: Path

    @cached_property
    def base(self) -> Path:
        """The file of the recipe that all runs extend."""
        return self.folder / BASE

    def over(self, arm: Arm, real: int | None) -> dict[str, Any]:
        """The keys in which a run of an arm differs from the base.

        Every run has as many steps. ``REAL`` has half the batch: it sees a real image as often as
        an arm with as many generated images does, and ``AGAIN`` sees it twice as often.
        """
        tables, keys = self.recipe.tables, cast("dict[str, Any]", {})
        if real is not None:
            keys["data.limit"] = real
        if arm.name == REAL:
            keys["run.batch_size"] = tables.run.batch_size // 2
        elif arm.name == AUGMENTED:
            keys["data.augmentation"] = STRONG
        return keys

    def generated(self, arm: Arm, seed: int) -> dict[str, Any]:
        """The key that gives the run of an arm with a seed its generated images."""
        if arm.images is None:
            return {}
        table = {
            "table": str(arm.images.table_of(seed)),
            "root": str(self.root),
            "ratio": arm.images.ratio,
            "use": arm.use,
        }
        return {"data.generated": table}

    def stage(self, *, choose: bool) -> Path:
        """The folder of the runs that choose, or of those that are tested."""
        return self.folder / STAGES[0 if choose else 1]

    def seeds(self, *, choose: bool) -> list[int]:
        """The seeds of the runs that choose, or of those that are tested."""
        first = self.options.seed + (CHOICE_SEED if choose else 0)
        count = self.options.choice_seeds if choose else self.options.seeds
        return list(range(first, first + count))

    def sweep(self, arms: Mapping[int | None, Sequence[Arm]], *, choose: bool) -> Sweep:
        """The runs of some arms with some numbers of real images, as a sweep.

        Args:
            choose: whether they choose on validation images, and are not tested.
        """
        rows, seeds, folder = [], self.seeds(choose=choose), self.stage(choose=choose)
        base = str(self.base.resolve())
        for real, some in arms.items():
            for arm in some:
                keys = self.over(arm, real) | {"evaluation.split": "val" if choose else "test"}
                point = describe_real(real)
                own = {seed: self.generated(arm, seed) for seed in seeds}
                rows.append(Row(f"{arm.name}, {point}", arm.name, point, base, keys, own))
        layout = Layout(metrics=[self.options.metric], baseline=AGAIN)
        # The source must not be the file that its recipes extend.
        return Sweep(folder, folder.name, folder.name, seeds, rows, layout, "", {})


def describe_real(real: int | None) -> str:
    """``20 a class``, or ``all``."""
    return "all" if real is None else f"{real:,} a class"


def base_recipe(source: Recipe, options: Options) -> Recipe:
    """The recipe of a classifier alone, from a recipe that may also train a generator.

    Raises:
        UserError: the recipe has no classifier, or an override is at fault.
    """
    if "classifier" not in source.choices:
        raise UserError(
            f"{source.name}: the recipe has no [classifier], and utility is what generated images "
            "do for a classifier; add one with --set classifier.plugin=NAME"
        )
    tree = source.resolved()
    if "generator" in source.choices:
        for table in (*_ADVERSARIAL, "scores", "start", "extractors"):
            tree.pop(table, None)
        tree["metrics"] = {name: tree.get("metrics", {}).get(name, {}) for name in METRICS}
        tree["classifier"].pop("weight", None)  # it may have learned from generated images alone
        tree["run"].pop("steps", None)  # a generator needs far more of them
    run: Tree = tree["run"] | {"save_every": 0, "sample_every": 0, "evaluate_every": 0}
    for key in ("epochs", "keep_best", "name"):
        run.pop(key, None)
    if options.steps is not None or run.get("steps") is None:
        run["steps"] = options.steps or STEPS
    data = tree["data"] | {"unlabelled": False}
    for key in ("limit", "generated"):
        data.pop(key, None)
    tree |= {"run": run, "data": data}
    tree.pop("trackers", None)
    return load_tree(tree, source.source, options.overrides)
