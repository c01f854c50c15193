"""The folder of a data set, and checks that the paths of its table stay below it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from xraygan.errors import UserError

from .naming import HALVES
from .parsing import describe_read_error

#: bytes of the longest path, its terminating zero included
LONGEST_PATH = 4096

# A single search decides for a valid path: there may be hundreds of thousands.
_FAULTY = re.compile(r"^$|^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|[\0-\x1f\x7f\ud800-\udfff]")


def path_fault(path: str) -> str:
    """Why a path is not a valid path below a folder, as the end of a sentence; empty if it is.

    It must be relative, without ``..``, and of printable characters.
    """
    if not (match := _FAULTY.search(path)):
        return ""
    if not path:
        return "is empty"
    if re.match(r"[\0-\x1f\x7f]", match[0]):
        return "holds a control character"
    if re.match(r"[\ud800-\udfff]", match[0]):
        return "is not UTF-8 text; rename the file"
    if ".." in match[0]:
        return "leads out of the folder with '..'"
    return "is an absolute path; paths are relative to the data's folder"


def encoding_fault(text: str) -> str:
    """Why a text cannot be written into a file, as the end of a sentence; empty if it can."""
    if HALVES.search(text):
        return "is not UTF-8 text; rename the file or folder"
    return "holds a zero byte" if "\0" in text else ""


def argument_fault(path: str) -> str:
    """Why a path of the command line cannot name a file or folder; empty if it can."""
    if fault := encoding_fault(path):
        return fault
    if re.search(r"[\x01-\x1f\x7f\x85\u2028\u2029]", path):
        return "holds a control character or a line break"
    if not path:
        return "is empty"
    if len(path.encode()) >= LONGEST_PATH or any(len(p.encode()) > 255 for p in path.split("/")):
        return f"is too long: at most 255 bytes for a name, and {LONGEST_PATH - 1} in total"
    return ""


def require_data_folder(root: Path | None, plugin: str, layout: str) -> Path:
    """``data.root``, after a check that it is a folder and not empty.

    Args:
        layout: the expected content of the folder, for the end of the message.

    Raises:
        UserError: it is not set, does not exist, or is empty.
    """
    try:
        if root is None:
            fault = f"data.root is not set: {plugin} needs the folder of its images"
        elif not root.is_dir():
            fault = f"{root}: there is no such folder"
        elif not any(root.iterdir()):
            fault = f"{root}: the folder is empty"
        else:
            return root
    except OSError as error:
        fault = describe_read_error(error)
    raise UserError(fault + layout)


class Folder:
    """The files below a folder; each subfolder is listed only once.

    A system call for each of 112,120 files would take as long as the rest of a start.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, dict[str, bool]] = {}
        self._leaving: dict[str, bool] = {}

    def entries(self, folder: str) -> dict[str, bool]:
        """The names in a folder below the root, and whether each is a symbolic link.

        Empty if it is not a folder or cannot be listed; reading one of its files gives the error.
        """
        if folder not in self._listed:
            try:
                with os.scandir(self.root / folder) as listed:
                    self._listed[folder] = {entry.name: entry.is_symlink() for entry in listed}
            except (OSError, ValueError):
                self._listed[folder] = {}
        return self._listed[folder]

    def leaves(self, path: str) -> bool:
        """Whether a symbolic link on a path leads out of the folder."""
        folder, _, name = path.rpartition("/")
        if folder:
            if folder not in self._leaving:
                self._leaving[folder] = self.leaves(folder)
            if self._leaving[folder]:
                return True
        if not self.entries(folder).get(name, False):
            return False
        return not Path(self.target(path)).is_relative_to(os.path.realpath(self.root))

    def target(self, path: str) -> str:
        """The target of a path; Path.resolve would raise for links in a circle."""
        return os.path.realpath(self.root / path)
