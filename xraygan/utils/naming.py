"""The rule for every name that reaches a file, a manifest, a log, a column of a table or a plot.

There are three kinds of names, each a stricter one than the former:

- a *label* is shown: the classes of a data set, the figures of a metric, what parts record, what
  plugins call their parts;
- a *folder name* is also what a file or folder is called: a run, a row of a sweep;
- a *word* is also a key that is joined to others by dots and slashes: tables of a recipe such as
  ``[scores.NAME]``, and so terms, networks and their files.

Each ``..._fault`` says why a name cannot be one, as the end of a sentence, and "" if it can.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

#: characters of a name of a file or folder; what is written beside it has a longer one
LONGEST = 100
#: bytes of it in UTF-8: file systems take 255, suffixes included
LARGEST = 200
#: characters of a label: a class's name in a figure's, for example
LONGEST_LABEL = 200

#: what nobody sees: controls, formats such as right-to-left marks, halves of characters that come
#: from names that are not UTF-8, private use, not assigned, separators of lines
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
#: but these belong to the spelling of Persian and of several languages of India
_JOINERS = "\u200c\u200d"
#: what file systems of Windows, and shells, take for something else
_SIGNS = re.compile(r'[<>:"/\\|?*]')
#: halves of characters: what Python makes of names of files that are not UTF-8
HALVES = re.compile(r"[\ud800-\udfff]")
#: what a line of the log holds beside the terms and what parts record, for trackers
LOGGED = ("step", "progress", "seconds", "images_per_second")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
#: devices of Windows, which a file cannot be called, whatever its suffix
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])(?: *\..*)?", re.I)


def label_fault(name: Any) -> str:
    """Why a name cannot be shown in a line of a log, a header of a table, and a plot."""
    if not isinstance(name, str):
        return f"is no text, but {type(name).__name__}"
    if not name.strip():
        return "is empty"
    if len(name) > LONGEST_LABEL:
        return f"has {len(name):,} characters; at most {LONGEST_LABEL} can be shown"
    for character in name:
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
            what = unicodedata.name(character, "a control character")
            return f"holds U+{ord(character):04X} ({what}), which cannot be seen"
    return "begins or ends with a space" if name != name.strip() else ""


def folder_fault(name: Any) -> str:
    """Why a file or folder cannot have a name on every system."""
    if fault := label_fault(name):
        return fault
    if sign := _SIGNS.search(name):
        return f"holds {sign[0]!r}, which names of files cannot have everywhere"
    if not (name[0].isalnum() or name[0] == "_"):
        return "must begin with a letter, a digit or _"
    if name.endswith("."):
        return "ends with a dot, which Windows drops"
    if _DEVICE.fullmatch(name):
        return "is the name of a device on Windows"
    if len(name) > LONGEST or len(name.encode()) > LARGEST:
        return f"is too long: at most {LONGEST} characters, and {LARGEST} bytes in UTF-8"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in Unicode's composed form (NFC), in which other systems would write it"
    return ""


def word_fault(name: Any) -> str:
    """Why a table of a recipe, and so a term or a network, cannot have a name."""
    if isinstance(name, str) and name and not _WORD.fullmatch(name):
        return "may have letters a to z and A to Z, digits, _ and - alone, and no - first"
    return folder_fault(name)


@lru_cache(maxsize=1000)
def record_fault(name: str) -> str:
    """Why what a part records cannot have a name; it is asked for in every step."""
    return "is taken by the log itself" if name in LOGGED else label_fault(name)


def same_file(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that a file system may take for one, None if there are none.

    Some do not tell upper from lower case, some write characters in another form of Unicode.
    """
    known: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if (other := known.setdefault(key, name)) != name:
            return other, name
    return None
