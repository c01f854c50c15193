"""Planning: parts are built to be inspected, without downloads and without writing files.

``xraygan check`` builds every network of a recipe, and constructors download published weights.
Within :func:`planning` they get placeholders: :mod:`xraygan.parts.weights`, PyTorch's hub and
torchvision return weights that fit every network and change nothing. A third-party part that
downloads or writes by other means is stopped with :class:`Blocked`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xraygan.errors import NoFault

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

#: Python's audit events that change the disk, use the network or start a program
_EVENTS = frozenset(
    {
        "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
        "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request",
        "subprocess.Popen", "os.system",
    }
)  # fmt: skip

_depth = 0
_watched = False


class Blocked(NoFault, OSError):
    """A part tried to use the network or to write to the disk within :func:`planning`."""


class Unfetched(dict[str, Any]):
    """A placeholder for weights that were not downloaded."""


def is_planning() -> bool:
    """Whether parts are built only to be inspected, so that weights must not be downloaded."""
    return _depth > 0


@contextmanager
def without_compile_folder() -> Iterator[None]:
    """Keep the import of torchvision within this context from creating a folder.

    PyTorch creates a folder for compiled code in the temporary folder, unless the environment names
    one. No code is compiled here, so an existing folder is named.
    """
    key = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(key)
    if before is None:
        os.environ[key] = str(Path(__file__).parent)
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]


@contextmanager
def planning() -> Iterator[None]:
    """Keep parts from downloading and writing within this context.

    Local files of weights are still read, so that a file that does not fit is an error.

    Raises:
        Blocked: a part tries to use the network or to write by other means.
    """
    global _depth, _watched
    import torch
    import torchvision.models._api as models  # it holds its own reference to the hub's function

    if not _watched:  # an audit hook cannot be removed
        _watched = True
        sys.addaudithook(_block_event)
    load = torch.nn.Module.load_state_dict
    fetch = torch.hub.load_state_dict_from_url
    replacements: list[tuple[Any, str, Any]] = [
        (torch.hub, "load_state_dict_from_url", _unfetched(fetch)),
        (models, "load_state_dict_from_url", _unfetched(fetch)),
        (torch.nn.Module, "load_state_dict", _unloaded(load)),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    _depth += 1
    try:
        for owner, name, value in replacements:
            setattr(owner, name, value)
        yield
    finally:
        _depth -= 1
        for owner, name, value in before:
            setattr(owner, name, value)


def _unfetched(fetch: Callable[..., Any]) -> Callable[..., Any]:
    def replacement(url: str, model_dir: str | None = None, *others: Any, **options: Any) -> Any:
        name = options.get("file_name")
        if model_dir and name and Path(model_dir, name).is_file():  # a local file is read
            return fetch(url, model_dir, *others, **options)
        return Unfetched()

    return replacement


def _unloaded(load: Callable[..., Any]) -> Callable[..., Any]:
    def replacement(network: Any, state_dict: Any, *others: Any, **options: Any) -> Any:
        if isinstance(state_dict, Unfetched):
            return load(network, network.state_dict(), *others, **options)
        return load(network, state_dict, *others, **options)

    return replacement


def _block_event(event: str, arguments: tuple[Any, ...]) -> None:
    if not _depth:
        return
    if event in _EVENTS:
        raise Blocked(f"it tried to call {event} {arguments[0]!r}")
    if event == "open":
        path, mode, flags = arguments
        writes = any(sign in mode for sign in "wax+") if mode else bool((flags or 0) & _WRITES)
        if writes and isinstance(path, str | bytes) and not os.fsdecode(path).startswith("/dev/"):
            raise Blocked(f"it tried to write {os.fsdecode(path)}")
