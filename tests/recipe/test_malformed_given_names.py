"""Names that plugins give, and the rule that all names are held to: see test_malformed.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_malformed_names import FOLDERS, RIGHT_TO_LEFT, WORDS

from xraygan import Measurement, UserError, hookimpl
from xraygan.data.index import check_classes
from xraygan.parts import contracts
from xraygan.parts.plugin_errors import BadAnswer
from xraygan.parts.registry import Registry
from xraygan.utils.naming import colliding_names, folder_fault, label_fault, word_fault

#: no figure, record, class or part can be called so
LABELS: dict[str, tuple[Any, str]] = {
    "nothing": ("", "is empty"),
    "blanks": (" \t", "is empty"),
    "a number": (7, "is not text but int"),
    "none": (None, "is not text but NoneType"),
    "a line break": ("a\nb", "U+000A"),
    "a bell": ("a\x07", "U+0007"),
    "right to left": (RIGHT_TO_LEFT, "U+202E"),
    "a byte order mark": ("\ufeffa", "U+FEFF"),
    "half a character": ("a\ud800", "U+D800"),
    "a space first": (" a", "begins or ends with a space"),
    "too long": ("a" * 201, "201 characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LABELS, "the log's own", "a term's"])
def test_a_name_of_a_record(name: str) -> None:
    own = {"the log's own": ("step", "is used by the log itself"), "a term's": ("mmd", "a term's")}
    called, why = {**LABELS, **own}[name]
    with pytest.raises(BadAnswer, match="recorded") as caught:
        contracts.record(called, torch.tensor(1.0), {"generator", "mmd"})
    assert why in str(caught.value)
    assert contracts.record("ada_p", torch.tensor(1.0), {"generator", "mmd"}) == 1


@pytest.mark.parametrize("name", LABELS)
def test_a_name_of_a_figure(name: str) -> None:
    called, why = LABELS[name]
    with pytest.raises(BadAnswer, match="measured") as caught:
        contracts.measurements({"first": Measurement(1.0, 1), called: Measurement(1.0, 1)}, 0)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", [name for name in LABELS if name not in ("a number", "none")])
def test_a_name_of_a_class(name: str) -> None:
    called, why = LABELS[name]
    part = SimpleNamespace(kind="dataset", name="theirs", origin="their-data 1.0")
    with pytest.raises(UserError, match="dataset 'theirs' of their-data") as caught:
        check_classes(
            SimpleNamespace(table="data", part=part), SimpleNamespace(classes=("a", called))
        )  # type: ignore[arg-type]
    assert why in str(caught.value)


@pytest.mark.parametrize("classes", [("caf\u00e9", "cafe\u0301"), ("Stra\u00dfe", "STRASSE")])
def test_classes_that_are_twins_in_unicode(classes: tuple[str, str]) -> None:
    part = SimpleNamespace(kind="dataset", name="theirs", origin="their-data 1.0")
    with pytest.raises(UserError, match="differ only in spelling"):
        check_classes(SimpleNamespace(table="data", part=part), SimpleNamespace(classes=classes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LABELS)
def test_a_name_of_a_part(name: str) -> None:
    called, why = LABELS[name]

    class Plugin:
        @hookimpl
        def xraygan_register_scores(self, register: Callable[[Any, Any], None]) -> None:
            register(called, torch.nn.Module)

    point: Any = SimpleNamespace(name="theirs", dist=None, load=Plugin)
    [part] = Registry([point]).parts("score")
    assert part.status == "broken" and why in part.error and part.name.isprintable()


# -- the rule itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORDS)
def test_no_word(name: str) -> None:
    assert WORDS[name][1] in word_fault(WORDS[name][0])


@pytest.mark.parametrize("name", FOLDERS)
def test_no_folder(name: str) -> None:
    assert FOLDERS[name][1].strip("'\\") in folder_fault(FOLDERS[name][0])


def test_names_as_they_are_used_are_none_of_these() -> None:
    for name in ("gram", "style_transfer", "kid_vgg-2", "latest", "best", "_x", "9", "a" * 100):
        assert not word_fault(name) and not folder_fault(name) and not label_fault(name)
    for name in (
        "table5-fast",
        "Mein Lauf",
        "\u00e9t\u00e9 (2)",
        "v1.2",
        "\u80ba",
        "console",
        "com10",
    ):
        assert not folder_fault(name), name
    for name in (
        "auc/Pleural_Thickening",
        "No Finding",
        "a|b",
        "\u0646\u0645\u06cc\u200c\u062e",
        "50 %",
    ):
        assert not label_fault(name), name
    assert colliding_names(["a", "B", "b"]) == ("B", "b")
    assert colliding_names(["\u00e9", "e\u0301"]) and not colliding_names(["a", "b", "a_"])
