"""Building parts to look at them: nothing is fetched from the network, nothing written.

``xraygan check`` builds every network of a recipe, and constructors fetch published weights. While
a plan is made they get none: :mod:`xraygan.parts.weights`, PyTorch's hub and torchvision give
weights that fit every network and change nothing. What a third-party part fetches or writes by
other means is stopped by :class:`Blocked`.
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

#: Python's audit events that change the disk, reach the network or start a program that may
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
    """A part wanted the network or the disk while a plan was made."""


class Unfetched(dict[str, Any]):
    """What stands for weights that were not fetched."""


def is_planning() -> bool:
    """Whether parts are built to be looked at, so that weights must not be fetched."""
    return _depth > 0


@contextmanager
def importing() -> Iterator[None]:
    """Within it, parts are imported without a trace.

    PyTorch makes a folder for compiled code when torchvision is imported, in the temporary folder
    unless another one is named. Nothing is compiled here, so a folder that is there does.
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
    """Within it nothing is fetched and nothing is written, by whatever part.

    Local files of weights are still read, so that one that does not fit is said.

    Raises:
        Blocked: where a part wants the network, or to write, by means that are not known here.
    """
    global _depth, _watched
    import torch
    import torchvision.models._api as models  # which has the hub's function by its own name

    if not _watched:  # an audit hook stays for good
        _watched = True
        sys.addaudithook(_watch)
    load = torch.nn.Module.load_state_dict
    fetch = torch.hub.load_state_dict_from_url
    places: list[tuple[Any, str, Any]] = [
        (torch.hub, "load_state_dict_from_url", _unfetched(fetch)),
        (models, "load_state_dict_from_url", _unfetched(fetch)),
        (torch.nn.Module, "load_state_dict", _unloaded(load)),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    _depth += 1
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        yield
    finally:
        _depth -= 1
        for owner, name, value in before:
            setattr(owner, name, value)


def _unfetched(fetch: Callable[..., Any]) -> Callable[..., Any]:
    def instead(url: str, model_dir: str | None = None, *rest: Any, **how: Any) -> Any:
        name = how.get("file_name")
        if model_dir and name and Path(model_dir, name).is_file():  # it is not fetched but read
            return fetch(url, model_dir, *rest, **how)
        return Unfetched()

    return instead


def _unloaded(load: Callable[..., Any]) -> Callable[..., Any]:
    def instead(network: Any, state_dict: Any, *rest: Any, **how: Any) -> Any:
        if isinstance(state_dict, Unfetched):
            return load(network, network.state_dict(), *rest, **how)
        return load(network, state_dict, *rest, **how)

    return instead


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _depth:
        return
    if event in _EVENTS:
        raise Blocked(f"it wants {event} {arguments[0]!r}")
    if event == "open":
        path, mode, flags = arguments
        writes = any(sign in mode for sign in "wax+") if mode else bool((flags or 0) & _WRITES)
        if writes and isinstance(path, str | bytes) and not os.fsdecode(path).startswith("/dev/"):
            raise Blocked(f"it wants to write {os.fsdecode(path)}")
