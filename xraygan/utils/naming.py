"""Rules for names that are written to files, manifests, logs, tables and plots.

There are three kinds of names, each stricter than the one before:

- a *label* is only shown: classes of a data set, metrics, recorded values, names of parts;
- a *folder name* is also the name of a file or folder: a run, a row of a sweep;
- a *word* is also a key that is joined with others by dots and slashes: tables of a recipe such as
  ``[scores.NAME]``, and with them terms, networks and their files.

Each ``..._fault`` function says why a name is not allowed, as the end of a sentence; it returns ""
for an allowed name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

#: most characters of a file or folder name; files beside it have longer names
LONGEST = 100
#: most bytes of it in UTF-8: file systems allow 255, suffixes included
LARGEST = 200
#: most characters of a label
LONGEST_LABEL = 200

#: categories of invisible characters: controls, formats such as right-to-left marks, surrogates
#: (from names that are not UTF-8), private use, unassigned, separators of lines
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
#: except these, which Persian and several languages of India need
_JOINERS = "\u200c\u200d"
#: signs with a special meaning in file systems of Windows and in shells
_SIGNS = re.compile(r'[<>:"/\\|?*]')
#: surrogates, which Python reads from file names that are not UTF-8
HALVES = re.compile(r"[\ud800-\udfff]")
#: keys of a line of the log besides terms and recorded values
LOGGED = ("step", "progress", "seconds", "images_per_second")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
#: devices of Windows, whose names files cannot have, whatever their suffix
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])(?: *\..*)?", re.I)


def label_fault(name: Any) -> str:
    """Why a name cannot be shown in a line of a log, a header of a table, and a plot."""
    if not isinstance(name, str):
        return f"is not text but {type(name).__name__}"
    if not name.strip():
        return "is empty"
    if len(name) > LONGEST_LABEL:
        return f"has {len(name):,} characters; at most {LONGEST_LABEL} can be shown"
    for character in name:
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
            description = unicodedata.name(character, "a control character")
            return f"holds U+{ord(character):04X} ({description}), which is invisible"
    return "begins or ends with a space" if name != name.strip() else ""


def folder_fault(name: Any) -> str:
    """Why a file or folder cannot have a name on every system."""
    if fault := label_fault(name):
        return fault
    if sign := _SIGNS.search(name):
        return f"holds {sign[0]!r}, which some systems do not allow in file names"
    if not (name[0].isalnum() or name[0] == "_"):
        return "must begin with a letter, a digit or _"
    if name.endswith("."):
        return "ends with a dot, which Windows removes"
    if _DEVICE.fullmatch(name):
        return "is the name of a device on Windows"
    if len(name) > LONGEST or len(name.encode()) > LARGEST:
        return f"is too long: at most {LONGEST} characters, and {LARGEST} bytes in UTF-8"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in Unicode's composed form (NFC), which other systems write"
    return ""


def word_fault(name: Any) -> str:
    """Why a table of a recipe, and so a term or a network, cannot have a name."""
    if isinstance(name, str) and name and not _WORD.fullmatch(name):
        return "may only have letters a to z and A to Z, digits, _ and -, and must not begin with -"
    return folder_fault(name)


@lru_cache(maxsize=1000)
def record_fault(name: str) -> str:
    """Why a recorded value cannot have a name; cached, since every step calls it."""
    return "is used by the log itself" if name in LOGGED else label_fault(name)


def colliding_names(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that some file system does not distinguish; None if all differ.

    Some ignore upper and lower case, some write characters in another form of Unicode.
    """
    known: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if (other := known.setdefault(key, name)) != name:
            return other, name
    return None


class SubgroupFigure(NamedTuple):
    """A figure of a subgroup of the images, such as ``auc/Effusion[sex=F]``.

    Attributes:
        figure: its name on all images, ``auc/Effusion``.
        key: what tells the subgroups apart, ``sex``.
        group: the subgroup, ``F``.
    """

    figure: str
    key: str
    group: str

    @property
    def name(self) -> str:
        """``FIGURE[KEY=GROUP]``."""
        return f"{self.figure}[{self.key}={self.group}]"


def subgroup_figure(name: str) -> SubgroupFigure | None:
    """The parts of a subgroup figure's name; None for the name of another figure."""
    found = re.fullmatch(r"(.+)\[(\w+)=([^\[\]]+)\]", name)
    return SubgroupFigure(*found.groups()) if found else None
