"""Checkpoints: safetensors files and a manifest, in one folder a step.

A run's randomness is a function of its seed and step (see :mod:`xraygan.utils.seeding`), so the
networks, the optimizer states and the step are all that a bit-identical continuation needs.
"""

from __future__ import annotations

import logging
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xraygan.errors import UserError, shown
from xraygan.graph.graph import TrainingGraph
from xraygan.utils.atomic_files import sync, sync_folder, write_atomically
from xraygan.utils.limits import parse_step
from xraygan.utils.parsing import read_text, sha256
from xraygan.utils.tensors import flattened

from . import checkpoint_contents
from .checkpoint_contents import STATE
from .directory import RunDirectory
from .manifest import Gathered, Manifest, parse_manifest, read_manifest

LATEST, BEST = "latest", "best"
#: most bytes of a pointer: it holds the name of a folder
_POINTER_BYTES = 256
_NAME = re.compile(r"step-([0-9]{8,})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files match their manifest."""

    directory: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        return self.manifest.step

    def networks(self) -> list[str]:
        """The names of its networks, and of their averages (``NAME.average``)."""
        files = (file.removesuffix(".safetensors") for file in self.manifest.files)
        return [name for name in files if not name.endswith((".optimizer", STATE))]

    def load_network(self, name: str, network: nn.Module) -> None:
        """Load a network's saved weights and buffers into it.

        Raises:
            UserError: the checkpoint has no such network, its tensors do not fit, or they are not
                finite.
        """
        tensors = self.weights(name, network)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            # The first line only announces the reasons.
            reasons = [line.strip() for line in str(error).splitlines()] + [""]
            raise UserError(
                f"{self.directory}: the checkpoint's {name} does not fit the recipe's "
                f"({reasons[1] or reasons[0]})"
            ) from None

    def weights(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        """The saved weights and buffers for a network.

        Raises:
            UserError: the checkpoint has no such network, or its tensors are not finite.
        """
        tensors, parameters = self.tensors(name), dict(network.named_parameters())
        for key, value in tensors.items():  # a buffer may be a mask, with infinite values
            self._check(name, key, value.isfinite() if key in parameters else ~value.isnan())
        return tensors

    def _check(self, name: str, key: str, valid: Tensor) -> None:
        if not bool(valid.all()):
            raise UserError(
                f"{self.directory}: {key} of the {name} holds values that are not numbers (NaN or "
                "infinite), so its images and figures would be meaningless. Choose an earlier "
                "checkpoint with --checkpoint STEP, or delete this one and continue training from "
                "the one before it with --resume"
            )

    def load_optimizer(self, name: str, network: nn.Module, optimizer: Any) -> None:
        """Restore an optimizer's state tensors, stored under its parameters' names."""
        tensors = self.tensors(f"{name}.optimizer")
        for key, value in tensors.items():
            self._check(f"{name}'s optimizer", key, value.isfinite())
        state: dict[int, dict[str, Tensor]] = {}
        for index, (key, parameter) in enumerate(checkpoint_contents.trainable(network)):
            prefix = key + "/"
            values = {
                entry: value if entry == "step" else flattened(value, parameter)
                for entry, value in (
                    (k.removeprefix(prefix), v) for k, v in tensors.items() if k.startswith(prefix)
                )
            }
            if values:
                state[index] = values
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    def load_state(self, name: str, part: nn.Module) -> None:
        """Restore the buffers of a part that is not a network.

        Raises:
            UserError: the saved buffers are not those of the part.
        """
        if f"{name}{STATE}.safetensors" not in self.manifest.files:
            _log.warning(
                "%s: a former version did not save the buffers of [%s], so they begin anew; the "
                "results differ in their bits from those of an uninterrupted run",
                self.directory, name,
            )  # fmt: skip
            return
        if not checkpoint_contents.restore_buffers(part, self.tensors(f"{name}{STATE}")):
            raise UserError(f"{self.directory}: the checkpoint's {name} does not fit the recipe's")

    def load_networks(self, graph: TrainingGraph) -> None:
        """Restore every network of a graph, and their moving averages (EMA)."""
        for name, network in checkpoint_contents.networks_and_averages(graph).items():
            self.load_network(name, network)

    def load(self, graph: TrainingGraph) -> None:
        """Restore every network, average and optimizer of a graph, and its parts' buffers."""
        self.load_networks(graph)
        for name, part in graph.states.items():
            self.load_state(name, part)
        for name, optimizer in graph.optimizers.items():
            self.load_optimizer(name, graph.networks[name], optimizer)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The saved tensors of a network, its average or its optimizer.

        Raises:
            UserError: the checkpoint has none of that name, or its file cannot be read.
        """
        if (file := f"{name}.safetensors") not in self.manifest.files:
            raise UserError(f"{self.directory}: the checkpoint has no {file}")
        try:
            return load_file(self.directory / file)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.directory / file}: cannot be read ({error})") from None


def save(
    folder: Path,
    step: int,
    graph: TrainingGraph,
    keep: int = 0,
    *,
    best: bool = False,
    log: Gathered | None = None,
) -> Path:
    """Write ``folder/step-NNNNNNNN`` and its name into ``folder/latest``.

    A crash at any moment leaves the earlier checkpoints and ``latest`` as they were.

    Args:
        folder: the run's ``checkpoints``.
        step: steps done.
        keep: how many of the newest checkpoints to keep; 0 for all.
        best: write its name into ``folder/best`` too; that checkpoint is kept whatever its age.
        log: the sums that the log has gathered since its last line, for the manifest.

    Returns:
        The checkpoint's directory.

    Raises:
        UserError: a parameter is not finite, or the disk cannot be written; nothing was changed.
    """
    _check_finite(graph, folder, step)
    try:
        return _save(folder, step, graph, keep, best, log or Gathered())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder / f".step-{step:08d}.building", ignore_errors=True)
        newest = latest(folder)
        last = f"the checkpoint of step {newest.step} is intact" if newest else "there is none yet"
        raise UserError(
            f"{folder}: the checkpoint of step {step} cannot be written ({error}); {last}. Make "
            "room, or make the folder writable, and continue the run with --resume"
        ) from error


def _save(
    folder: Path, step: int, graph: TrainingGraph, keep: int, best: bool, log: Gathered
) -> Path:
    # Two phases. First all files are written into a hidden folder, hashed into a manifest and
    # flushed to the disk. Then one rename gives the folder its name. So a folder called
    # step-NNNNNNNN is a whole checkpoint, and a process that is killed leaves only a hidden one.
    target = folder / f"step-{step:08d}"
    if _verify_or_none(target) is None:
        building = folder / f".{target.name}.building"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, tensors in checkpoint_contents.contents(graph).items():
            save_file(tensors, building / name)
        files = {path.name: sha256(path) for path in sorted(building.iterdir())}
        text = Manifest(step=step, log=log, files=files).model_dump_json(indent=1) + "\n"
        (building / "manifest.json").write_text(text, encoding="utf-8")
        for path in building.iterdir():
            sync(path)
        shutil.rmtree(target, ignore_errors=True)  # there only if it was damaged
        building.rename(target)
        sync_folder(folder)
    for name in (LATEST, BEST) if best else (LATEST,):
        point(folder, name, step)
    tidy(folder, step, keep)
    return target


def tidy(folder: Path, step: int, keep: int) -> None:
    """Remove checkpoints that are older than those to keep, and those that are not whole.

    Args:
        folder: the run's ``checkpoints``.
        step: of the checkpoint that the run has just written, or continues from.
        keep: how many checkpoints to keep, that one and those before it; 0 for all. The one that
            ``folder/best`` names is kept whatever its age.
    """
    for building in folder.glob(".step-*.building"):
        shutil.rmtree(building, ignore_errors=True)
    if keep:
        older = [path for path in _newest_first(folder) if _step_of(path) < step]
        best = _best(folder)
        for path in older[keep - 1 :]:
            if path != best:
                shutil.rmtree(path, ignore_errors=True)


def _check_finite(graph: TrainingGraph, folder: Path, step: int) -> None:
    for network, module in graph.networks.items():
        for name, parameter in module.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise UserError(
                    f"{folder}: step {step}: {name} of the {network} is not finite, so no "
                    "checkpoint is saved; the one before it is intact. A lower learning rate may "
                    "help"
                )


def point(folder: Path, name: str, step: int) -> None:
    """Let ``folder/latest`` or ``folder/best`` name the checkpoint of a step, if that exists.

    The pointer is a text file that holds the name of the checkpoint's folder, since some file
    systems, archives and cloud disks have no links. Checkpoints can be found without it, so a
    pointer that cannot be written causes only a warning, and the old pointer is removed.
    """
    target, pointer = folder / f"step-{step:08d}", folder / name
    if not target.is_dir():
        return
    try:
        _remove_folder(pointer)
        write_atomically(pointer, target.name + "\n")
    except OSError as error:
        _log.warning("%s: cannot be written (%s); %s is saved", pointer, error, target)
        with suppress(OSError):
            pointer.unlink(missing_ok=True)


def adopt(folder: Path) -> bool:
    """Write pointers in place of the folders that a copy of a run has there, losing no checkpoint.

    Returns:
        Whether there were such folders.

    Raises:
        OSError: the folder cannot be written.
    """
    copied = False
    for pointer in (folder / LATEST, folder / BEST):
        owner = _read_pointer(pointer)
        if pointer.is_dir() and not pointer.is_symlink():
            copied = True
            _remove_folder(pointer)
            if owner is not None:
                write_atomically(pointer, owner.name + "\n")
    return copied


def _remove_folder(pointer: Path) -> None:
    """Remove a folder that stands where a pointer is to be written.

    Former versions wrote symbolic links, and programs that copy a run without links make whole
    folders of them. A folder that is the only intact copy of a checkpoint is renamed instead.
    """
    building = pointer.with_name(f".{pointer.name}.building")
    if building.is_symlink():  # a former version was killed here
        building.unlink()
    if pointer.is_dir() and not pointer.is_symlink():
        owner = _read_pointer(pointer)
        lost = owner is not None and _verify_or_none(owner) is None
        if owner is not None and lost and _verify_or_none(pointer, owner.name):
            if owner.exists():  # damaged
                shutil.rmtree(owner)
            pointer.rename(owner)
        else:
            shutil.rmtree(pointer)


def _read_pointer(pointer: Path) -> Path | None:
    """The checkpoint that ``latest`` or ``best`` names, which need not exist; None if the pointer
    is damaged or missing.

    It is always a folder beside the pointer, whatever the pointer holds.
    """
    try:
        if pointer.is_symlink():
            name = pointer.readlink().name
        elif pointer.is_dir():
            name = f"step-{parse_manifest(pointer).step:08d}"
        else:
            name = read_text(pointer, _POINTER_BYTES).strip()
    except (OSError, ValueError):
        return None
    return pointer.parent / name if _NAME.fullmatch(name) else None


def _best(folder: Path) -> Path | None:
    """The best checkpoint: of the pointer or, where that is missing or damaged, of the log."""
    checkpoints = _newest_first(folder)
    if (pointed := _read_pointer(folder / BEST)) in checkpoints:
        return pointed
    step = RunDirectory(folder.parent).best_step()
    logged = None if step is None else folder / f"step-{step:08d}"
    if logged not in checkpoints:
        return None
    _log.warning(
        "%s: missing or damaged; by metrics.jsonl the best checkpoint is %s", folder / BEST, logged
    )
    return logged


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files match their hashes; None if there is none.

    A damaged checkpoint is skipped with a warning.
    """
    for path in _newest_first(folder):
        if checkpoint := _verify_or_none(path):
            return checkpoint
        _log.warning("%s: damaged, its files do not match its manifest; it is skipped", path)
    return None


def find(folder: Path, name: str) -> Checkpoint:
    """A checkpoint by name: ``"latest"``, ``"best"``, or its step.

    Raises:
        UserError: it does not exist, or its files do not match its manifest.
    """
    checkpoints = _newest_first(folder)
    if not checkpoints:
        raise UserError(f"{folder}: there is no checkpoint; the run has not saved one yet")
    if name == LATEST:
        path = checkpoints[0]
    elif name == BEST:
        path = _best(folder) or folder / BEST
    else:
        path = folder / (name if (step := parse_step(name)) is None else f"step-{step:08d}")
    if path not in checkpoints:
        steps = ", ".join(str(_step_of(path)) for path in checkpoints)
        raise UserError(
            f"{folder}: there is no checkpoint {shown(name)}; there are the steps {steps}"
        )
    try:
        return _verify(path)
    except OSError as error:
        reason = f"{Path(error.filename or path).name}: {error.strerror}"
    except ValueError as error:
        reason = str(error)
    intact = [_step_of(p) for p in checkpoints if p != path and _verify_or_none(p)]
    hint = f"choose an intact one: --checkpoint {intact[0]}" if intact else "none is intact"
    raise UserError(f"{path}: damaged ({reason}); {hint}")


def _newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder."""
    paths = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _verify_or_none(path: Path, name: str = "") -> Checkpoint | None:
    """:func:`_verify`; None for a damaged checkpoint."""
    try:
        return _verify(path, name)
    except (OSError, ValueError):
        return None


def _verify(path: Path, name: str = "") -> Checkpoint:
    """A checkpoint whose files match its manifest; see :func:`read_manifest`."""
    return Checkpoint(path, read_manifest(path, name))
