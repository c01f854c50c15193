"""The toolkit from Python: train a recipe, open what it left, sample from it, read its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from xraygan.errors import UserError
from xraygan.recipe.files import start_overrides
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.file_readers import LARGEST
from xraygan.rundir.reader import RunFiles
from xraygan.utils.csv_cells import parse_csv
from xraygan.utils.parsing import read_text

if TYPE_CHECKING:
    from xraygan.session.session import Session

Found = TypeVar("Found")


class Run:
    """A run directory, opened.

    Its networks and its data are loaded when they are first needed.

    Args:
        path: the run directory.
        checkpoint: ``"latest"``, ``"best"``, or a step.
        overrides: ``"table.key=value"`` each, for example ``"data.root=/elsewhere"``.

    Raises:
        UserError: it is no run directory.
    """

    def __init__(self, path: str | Path, *overrides: str, checkpoint: str | int = "latest") -> None:
        self._place = RunDirectory.open(Path(path))
        self._overrides = overrides
        self._checkpoint = str(checkpoint)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        return self._place.path

    @cached_property
    def recipe(self) -> Recipe:
        """What was run, defaults included."""
        return load(self._place.recipe, self._overrides)

    @property
    def report(self) -> Path:
        """The page about the run; written when it ends."""
        return self.path / "report.html"

    # -- what it logged and measured ---------------------------------------------------------------

    @property
    def metrics(self) -> pd.DataFrame:
        """What was logged while it trained: a row a logged step, a column a term or record."""
        lines = [line for line in self._files.lines if "terms" in line]
        rows = [
            {
                **line["terms"],
                **line.get("records", {}),
                "images_per_second": line["images_per_second"],
            }
            for line in lines
        ]
        steps = pd.Index([line["step"] for line in lines], name="step", dtype=int)
        return pd.DataFrame(rows, index=steps)

    @property
    def evaluation(self) -> pd.DataFrame:
        """The metrics of the test images (of the validation images, if the recipe's ``[evaluation]
        split`` is ``"val"``): ``value``, its 95 % interval ``low`` to ``high``, ``n``
        and ``note`` of each. A confusion matrix is a nested list.

        Raises:
            UserError: the run is not evaluated yet.
        """
        rows = {}
        evaluation = self._evaluated("evaluation.json", self._files.evaluation)
        for name, found in evaluation.get("metrics", {}).items():
            low, high = found.get("interval") or (None, None)
            given = {"value": found.get("value"), "low": low, "high": high}
            rows[name] = given | {"n": found.get("n"), "note": found.get("note")}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")

    @property
    def predictions(self) -> pd.DataFrame:
        """The classifier's probabilities for each measured image, beside its labels and patient.

        Raises:
            UserError: the run has no classifier, or is not evaluated yet.
        """
        self._evaluated("predictions.csv", self._files.predictions)
        table = parse_csv(read_text(self._place.predictions, LARGEST)).reset_index(drop=True)
        texts = ("path", "patient")
        return table.assign(**{n: pd.to_numeric(table[n]) for n in table if n not in texts})

    @property
    def _files(self) -> RunFiles:
        return RunFiles(self.path)

    def _evaluated(self, name: str, found: Found | None) -> Found:
        if not found:
            raise UserError(
                f"{self.path}: no {name}; the run is not evaluated, or has no such part"
            )
        return found

    # -- its networks ------------------------------------------------------------------------------

    @cached_property
    def _session(self) -> Session:
        from xraygan.session.session import restore_session
        from xraygan.utils.progress import Display

        display = Display(quiet=True)
        which = self._checkpoint
        return restore_session(self.path, self._overrides, display, which, measure=False)[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of every label vector."""
        return self._session.graph.task.classes

    @property
    def networks(self) -> dict[str, Any]:
        """The networks by name, as their checkpoint has them; averages stand for what they are of.

        They are :class:`torch.nn.Module` in evaluation mode, on the device of the run.
        """
        graph = self._session.graph
        found = {name: graph.trained(name) for name in graph.networks}
        return {name: network.eval() for name, network in found.items()}

    def generate(
        self,
        n: int = 16,
        *,
        class_: str | None = None,
        seed: int = 0,
        metadata: Mapping[str, object] | None = None,
    ) -> np.ndarray:
        """Images that the generator makes.

        A conditional generator makes the class that is asked for. Of an unconditional one, the
        images are kept that the run's classifier takes for that class. These are the images of
        ``xraygan generate`` with the same seed.

        Args:
            metadata: ``{"age": 60, "sex": "F", "view": "PA"}`` or a part of it, where the run's
                generator is told of it (``[data] metadata``).

        Returns:
            ``(n, S, S)`` uint8.

        Raises:
            UserError: the run has no generator or no such class, or an unconditional generator
                hardly ever makes it.
        """
        from xraygan.session.sampling import sample_images
        from xraygan.utils.progress import Display

        display = Display(quiet=True)
        return sample_images(self._session, n, class_, seed, display, metadata)[0].images.numpy()


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    steps: int | None = None,
    from_run: str | Path | None = None,
    from_checkpoint: str | int | None = None,
    quiet: bool = False,
) -> Run:
    """Train a recipe, evaluate it, and leave a run directory.

    Args:
        recipe: a :class:`Recipe`, a file, or the name of a shipped recipe.
        out: the run directory; ``runs/NAME`` by default.
        resume: continue the run in the directory, if there is one.
        steps: train for so many steps in all; with ``resume``, a finished run for longer.
        from_run: the run directory whose networks this run starts from, where they fit.
        from_checkpoint: ``"latest"``, ``"best"``, or a step of that run.
        quiet: show nothing while it trains.

    Raises:
        UserError: the recipe, the data or a plugin is at fault, or the directory holds a run.
    """
    from xraygan.training.engine import run as train
    from xraygan.utils.progress import Display

    overrides = start_overrides(from_run, from_checkpoint)
    loaded = recipe if isinstance(recipe, Recipe) else load(recipe)
    overrides += (f"run.steps={steps}",) if steps is not None else ()
    if overrides:
        loaded = loaded.changed(*overrides)
    directory, display = None if out is None else Path(out), Display(quiet=quiet)
    longer = steps is not None
    run_dir = train(loaded, directory, resume=resume, longer=longer, display=display)
    return Run(run_dir.path)
