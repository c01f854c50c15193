"""Checkpoints: safetensors and JSON, written beside, hashed, renamed into place.

A run's randomness is a function of its seed and step (see :mod:`xraygan.seeding`), so networks,
optimizer states and the step are all that it takes to go on to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import UserError
from .graph import TrainingGraph, flattened

FORMAT = 1
LATEST, BEST = "latest", "best"
_NAME = re.compile(r"step-(\d{8,})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files match their manifest."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return self.manifest["step"]

    def load_network(self, name: str, network: nn.Module) -> None:
        """Put a network's saved weights and buffers into it.

        Raises:
            UserError: the checkpoint has no such network, or it does not fit.
        """
        try:
            network.load_state_dict(self._tensors(f"{name}.safetensors"))
        except RuntimeError as error:
            raise UserError(
                f"{self.directory}: the checkpoint's {name} does not fit the recipe's ({error})"
            ) from None

    def load_optimizer(self, name: str, network: nn.Module, optimizer: Any) -> None:
        """Restore an optimizer's state tensors, stored under its parameters' names."""
        saved = self._tensors(f"{name}.optimizer.safetensors")
        state: dict[int, dict[str, Tensor]] = {}
        for index, (key, parameter) in enumerate(_trained(network)):
            prefix = key + "/"
            found = {
                what: value if what == "step" else flattened(value, parameter)
                for what, value in (
                    (k.removeprefix(prefix), v) for k, v in saved.items() if k.startswith(prefix)
                )
            }
            if found:
                state[index] = found
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    def load_networks(self, graph: TrainingGraph) -> None:
        """Restore every network of a graph, and the averages that are kept of them."""
        for name, network in _networks(graph).items():
            self.load_network(name, network)

    def load(self, graph: TrainingGraph) -> None:
        """Restore every network, average and optimizer of a graph."""
        self.load_networks(graph)
        for name, optimizer in graph.optimizers.items():
            self.load_optimizer(name, graph.networks[name], optimizer)

    def _tensors(self, file: str) -> dict[str, Tensor]:
        if file not in self.manifest["files"]:
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
    log: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``folder/step-NNNNNNNN`` and point ``folder/latest`` at it.

    A crash at any moment leaves the former checkpoints and ``latest`` as they were.

    Args:
        folder: the run's ``checkpoints``.
        step: steps done.
        keep: how many of the newest checkpoints to keep; 0 for all.
        best: point ``folder/best`` at it too, which is kept whatever its age.
        log: what the log has gathered since its last line, for the manifest.

    Returns:
        The checkpoint's directory.

    Raises:
        UserError: a parameter is not finite, or the disk cannot take it; nothing was changed.
    """
    _refuse_what_is_not_finite(graph, folder, step)
    try:
        return _save(folder, step, graph, keep, best, log or {})
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder / f".step-{step:08d}.building", ignore_errors=True)
        found = latest(folder)
        last = f"the checkpoint of step {found.step} is intact" if found else "there is none yet"
        raise UserError(
            f"{folder}: the checkpoint of step {step} cannot be written ({error}); {last}. Make "
            "room, or make the folder writable, and continue the run with --resume"
        ) from error


def _save(
    folder: Path, step: int, graph: TrainingGraph, keep: int, best: bool, log: Mapping[str, Any]
) -> Path:
    target = folder / f"step-{step:08d}"
    if _verified(target) is None:
        building = folder / f".{target.name}.building"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, tensors in _contents(graph).items():
            save_file(tensors, building / name)
        manifest = {
            "format": FORMAT,
            "step": step,
            "log": log,
            "files": {path.name: _sha256(path) for path in sorted(building.iterdir())},
        }
        text = json.dumps(manifest, indent=1) + "\n"
        (building / "manifest.json").write_text(text, encoding="utf-8")
        for path in building.iterdir():
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)  # there only if it was damaged
        building.rename(target)
        _sync(folder)
    for name in (LATEST, BEST) if best else (LATEST,):
        pointer = folder / f".{name}.building"
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(target.name)
        pointer.replace(folder / name)
    if keep:
        kept = {target, (folder / BEST).resolve()}
        for old in [path for path in _all(folder) if path != target][keep - 1 :]:
            if old.resolve() not in kept:
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
    if which == LATEST:
        found = latest(folder)
    else:
        name = which if which == BEST else f"step-{int(which):08d}" if which.isdecimal() else ""
        found = _verified((folder / name).resolve()) if name else None
    if found is None:
        there = ", ".join([*(str(int(path.name[5:])) for path in _all(folder)), LATEST])
        there += f", {BEST}" if (folder / BEST).exists() else ""
        raise UserError(f"{folder}: there is no whole checkpoint {which!r}; there are: {there}")
    return found


def _networks(graph: TrainingGraph) -> dict[str, nn.Module]:
    """What is saved of each network, by the name of its file."""
    averages = {f"{name}.average": network for name, network in graph.averages.items()}
    return {**graph.networks, **averages}


def _contents(graph: TrainingGraph) -> dict[str, dict[str, Tensor]]:
    files: dict[str, dict[str, Tensor]] = {}
    for name, network in _networks(graph).items():
        files[f"{name}.safetensors"] = {
            key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
        }
    for name, optimizer in graph.optimizers.items():
        files[f"{name}.optimizer.safetensors"] = {
            f"{key}/{what}": _as_saved(value, parameter if what != "step" else None)
            for (key, parameter), flat in zip(
                _trained(graph.networks[name]), optimizer.param_groups[0]["params"], strict=True
            )
            for what, value in optimizer.state.get(flat, {}).items()
            if value is not None
        }
    return files


def _as_saved(value: Any, parameter: Tensor | None) -> Tensor:
    """A tensor of an optimizer's state; a row takes its parameter's shape."""
    tensor = torch.as_tensor(value).detach()
    if parameter is not None:
        tensor = tensor.as_strided(parameter.shape, parameter.stride())
    return tensor.cpu().contiguous()


def _trained(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


def _all(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _verified(path: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        files: Mapping[str, str] = manifest["files"]
        whole = (
            manifest["format"] == FORMAT
            and isinstance(manifest["step"], int)
            and all(Path(name).name == name for name in files)
            and all(_sha256(path / name) == sha for name, sha in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Checkpoint(path, manifest) if whole else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make what was written to a file or folder outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
