"""Checkpoints: safetensors and JSON, written beside, hashed, renamed into place.

A run's randomness is a function of its seed and step (see :mod:`xraygan.utils.seeding`), so the
networks, the optimizer states and the step are all that a bit-identical continuation needs.
"""

from __future__ import annotations

import errno
import logging
import os
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
from xraygan.graph.parameters import flattened
from xraygan.utils.atomic_files import write_atomically
from xraygan.utils.limits import step_of
from xraygan.utils.parsing import read_text, sha256

from . import checkpoint_contents as saved
from .directory import RunDirectory
from .manifest import Gathered, Manifest, parse_manifest, read_manifest

LATEST, BEST = "latest", "best"
#: bytes of a pointer, at most: it holds the name of a folder
_POINTER = 256
#: what a file system answers to the fsync of a folder where it has no such thing
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF)
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
        return [name for name in files if not name.endswith((".optimizer", saved.STATE))]

    def load_network(self, name: str, network: nn.Module) -> None:
        """Put a network's saved weights and buffers into it.

        Raises:
            UserError: the checkpoint has no such network, it does not fit, or it is not of numbers.
        """
        tensors = self.weights(name, network)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            # The first line only says that there are more.
            reasons = [line.strip() for line in str(error).splitlines()] + [""]
            raise UserError(
                f"{self.directory}: the checkpoint's {name} does not fit the recipe's ("
                f"{reasons[1] or reasons[0]})"
            ) from None

    def weights(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        """The saved weights and buffers for a network.

        Raises:
            UserError: the checkpoint has no such network, or it is not of numbers.
        """
        tensors, parameters = self.tensors(name), dict(network.named_parameters())
        for key, value in tensors.items():  # a buffer may be a mask, with infinite values
            self._hold(name, key, value.isfinite() if key in parameters else ~value.isnan())
        return tensors

    def _hold(self, what: str, key: str, right: Tensor) -> None:
        if not bool(right.all()):
            raise UserError(
                f"{self.directory}: {key} of the {what} holds values that are not numbers (NaN or "
                "infinite), and images and figures of it would be of nothing. Take an earlier "
                "checkpoint with --checkpoint STEP, or delete this one and train on from the one "
                "before with --resume"
            )

    def load_optimizer(self, name: str, network: nn.Module, optimizer: Any) -> None:
        """Restore an optimizer's state tensors, stored under its parameters' names."""
        tensors = self.tensors(f"{name}.optimizer")
        for key, value in tensors.items():
            self._hold(f"{name}'s optimizer", key, value.isfinite())
        state: dict[int, dict[str, Tensor]] = {}
        for index, (key, parameter) in enumerate(saved.trained(network)):
            prefix = key + "/"
            found = {
                what: value if what == "step" else flattened(value, parameter)
                for what, value in (
                    (k.removeprefix(prefix), v) for k, v in tensors.items() if k.startswith(prefix)
                )
            }
            if found:
                state[index] = found
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    def load_state(self, name: str, part: nn.Module) -> None:
        """Restore the buffers of a part that is no network.

        Raises:
            UserError: they are not those that were saved.
        """
        if f"{name}{saved.STATE}.safetensors" not in self.manifest.files:
            gist = "a former version did not save the buffers of [%s], which begin anew"
            _log.warning(f"%s: {gist}: other bits than without a stop", self.directory, name)
            return
        if not saved.put_back(part, self.tensors(f"{name}{saved.STATE}")):
            raise UserError(f"{self.directory}: the checkpoint's {name} does not fit the recipe's")

    def load_networks(self, graph: TrainingGraph) -> None:
        """Restore every network of a graph, and the averages that are kept of them."""
        for name, network in saved.networks(graph).items():
            self.load_network(name, network)

    def load(self, graph: TrainingGraph) -> None:
        """Restore every network, average and optimizer of a graph, and what its parts remember."""
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

    A crash at any moment leaves the former checkpoints and ``latest`` as they were.

    Args:
        folder: the run's ``checkpoints``.
        step: steps done.
        keep: how many of the newest checkpoints to keep; 0 for all.
        best: write its name into ``folder/best`` too; that one is kept whatever its age.
        log: what the log has gathered since its last line, for the manifest.

    Returns:
        The checkpoint's directory.

    Raises:
        UserError: a parameter is not finite, or the disk cannot take it; nothing was changed.
    """
    _refuse_what_is_not_finite(graph, folder, step)
    try:
        return _save(folder, step, graph, keep, best, log or Gathered())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder / f".step-{step:08d}.building", ignore_errors=True)
        found = latest(folder)
        last = f"the checkpoint of step {found.step} is intact" if found else "there is none yet"
        raise UserError(
            f"{folder}: the checkpoint of step {step} cannot be written ({error}); {last}. Make "
            "room, or make the folder writable, and continue the run with --resume"
        ) from error


def _save(
    folder: Path, step: int, graph: TrainingGraph, keep: int, best: bool, log: Gathered
) -> Path:
    target = folder / f"step-{step:08d}"
    if _verified(target) is None:
        building = folder / f".{target.name}.building"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, tensors in saved.contents(graph).items():
            save_file(tensors, building / name)
        files = {path.name: sha256(path) for path in sorted(building.iterdir())}
        text = Manifest(step=step, log=log, files=files).model_dump_json(indent=1) + "\n"
        (building / "manifest.json").write_text(text, encoding="utf-8")
        for path in building.iterdir():
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)  # there only if it was damaged
        building.rename(target)
        _sync_folder(folder)
    for name in (LATEST, BEST) if best else (LATEST,):
        point(folder, name, step)
    if keep:
        kept = {target, _best(folder)}
        for old in [path for path in _all(folder) if path != target][keep - 1 :]:
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)
    return target


def _refuse_what_is_not_finite(graph: TrainingGraph, folder: Path, step: int) -> None:
    for network, module in graph.networks.items():
        for name, parameter in module.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise UserError(
                    f"{folder}: step {step}: {name} of the {network} is not finite, so it is not "
                    "saved; the checkpoint before it is intact. A lower learning rate may help"
                )


def point(folder: Path, name: str, step: int) -> None:
    """Let ``folder/latest`` or ``folder/best`` name the checkpoint of a step, if that is there.

    The pointer is a text file that holds the name of the checkpoint's folder: file systems,
    archives and cloud disks that have no links keep it as it is. The checkpoint is found without
    it, so a pointer that cannot be written is a warning, and the former one is removed.
    """
    target, pointer = folder / f"step-{step:08d}", folder / name
    if not target.is_dir():
        return
    try:
        _make_way(pointer)
        write_atomically(pointer, target.name + "\n")
    except OSError as error:
        _log.warning("%s: cannot be written (%s); %s is saved", pointer, error, target)
        with suppress(OSError):
            pointer.unlink(missing_ok=True)


def adopt(folder: Path) -> bool:
    """Put pointers where a copy of a run has whole folders, and lose no checkpoint by it.

    Returns:
        Whether there were any.

    Raises:
        OSError: the folder cannot be written.
    """
    copied = False
    for pointer in (folder / LATEST, folder / BEST):
        owner = _pointed(pointer)
        if pointer.is_dir() and not pointer.is_symlink():
            copied = True
            _make_way(pointer)
            if owner is not None:
                write_atomically(pointer, owner.name + "\n")
    return copied


def _make_way(pointer: Path) -> None:
    """Remove a folder where a pointer is to be written.

    Former versions made links, and what copies a run without links makes whole folders of them. A
    folder that is the only whole copy of a checkpoint gets its name back.
    """
    building = pointer.with_name(f".{pointer.name}.building")
    if building.is_symlink():  # a former version was killed here
        building.unlink()
    if pointer.is_dir() and not pointer.is_symlink():
        owner = _pointed(pointer)
        if owner is not None and _verified(owner) is None and _verified(pointer, owner.name):
            if owner.exists():  # damaged
                shutil.rmtree(owner)
            pointer.rename(owner)
        else:
            shutil.rmtree(pointer)


def _pointed(pointer: Path) -> Path | None:
    """The checkpoint that ``latest`` or ``best`` names, which need not be there; None if it is
    damaged or missing.

    It is one beside the pointer, whatever the pointer says.
    """
    try:
        if pointer.is_symlink():
            name = pointer.readlink().name
        elif pointer.is_dir():
            name = f"step-{parse_manifest(pointer).step:08d}"
        else:
            name = read_text(pointer, _POINTER).strip()
    except (OSError, ValueError):
        return None
    return pointer.parent / name if _NAME.fullmatch(name) else None


def _best(folder: Path) -> Path | None:
    """The best checkpoint, as ``best`` names it or, where that is missing or damaged, the log."""
    every = _all(folder)
    if (pointed := _pointed(folder / BEST)) in every:
        return pointed
    step = RunDirectory(folder.parent).best_step()
    found = None if step is None else folder / f"step-{step:08d}"
    if found not in every:
        return None
    _log.warning("%s: missing or damaged; by metrics.jsonl it is %s", folder / BEST, found)
    return found


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files match their hashes; None if there is none.

    A damaged one is passed over with a warning.
    """
    for path in _all(folder):
        if found := _verified(path):
            return found
        _log.warning("%s: damaged, its files do not match its manifest; passed over", path)
    return None


def find(folder: Path, which: str) -> Checkpoint:
    """A checkpoint by name: ``"latest"``, ``"best"``, or its step.

    Raises:
        UserError: it is not there, or its files do not match its manifest.
    """
    every = _all(folder)
    if not every:
        raise UserError(f"{folder}: there is no checkpoint; the run has not saved one yet")
    if which == LATEST:
        path = every[0]
    elif which == BEST:
        path = _best(folder) or folder / BEST
    else:
        path = folder / (which if (step := step_of(which)) is None else f"step-{step:08d}")
    if path not in every:
        known = ", ".join(str(int(p.name[5:])) for p in every)
        said = f"there is no checkpoint {shown(which)}"
        raise UserError(f"{folder}: {said}; there are the steps {known}")
    try:
        return _verify(path)
    except OSError as error:
        reason = f"{Path(error.filename or path).name}: {error.strerror}"
    except ValueError as error:
        reason = str(error)
    whole = [str(int(p.name[5:])) for p in every if p != path and _verified(p)]
    others = f"--checkpoint {whole[0]} takes the one before" if whole else "no other is whole"
    raise UserError(f"{path}: damaged ({reason}); {others}")


def _all(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _verified(path: Path, name: str = "") -> Checkpoint | None:
    """:func:`_verify`, None of a damaged one."""
    try:
        return _verify(path, name)
    except (OSError, ValueError):
        return None


def _verify(path: Path, name: str = "") -> Checkpoint:
    """A checkpoint whose files match its manifest; see :func:`read_manifest`."""
    return Checkpoint(path, read_manifest(path, name))


def _sync(path: Path) -> None:
    """Make what was written to a file or folder outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """:func:`_sync` of a folder, where the file system has that."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
