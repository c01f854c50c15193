"""Names that reach a file, a manifest, a log or a plot, and cannot: see test_malformed.py."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from malformed import WHOLE, refused, with_line, without_change

from xraygan.utils.parsing import parse_toml

pytestmark = pytest.mark.usefixtures("in_a_folder")

RIGHT_TO_LEFT = "a\u202eb"
FACES = "\U0001f600" * 100

#: no table, term, network or file of a network can be called so
WORDS: dict[str, tuple[str, str]] = {
    "a space": ("my style", "letters a to z and A to Z, digits, _ and -"),
    "a slash": ("a/b", "letters a to z"),
    "a backslash": ("a\\b", "letters a to z"),
    "a dot": ("a.b", "letters a to z"),
    "a colon": ("a:b", "letters a to z"),
    "nothing": ("", "is empty"),
    "blanks": ("  ", "letters a to z"),
    "300 letters": ("a" * 300, "has 300 characters"),
    "101 letters": ("a" * 101, "at most 100 characters"),
    "the folder above": ("..", "letters a to z"),
    "a path": ("/some/where/victim", "letters a to z"),
    "a path up": ("../../victim", "letters a to z"),
    "a device": ("CON", "device on Windows"),
    "a device in lower case": ("lpt1", "device on Windows"),
    "a device with a suffix": ("nul.txt", "letters a to z"),
    "a dash first": ("-rf", "must not begin with -"),
    "a dot last": ("a.", "letters a to z"),
    "a control character": ("a\x07", "letters a to z"),
    "a line break": ("a\nb", "letters a to z"),
    "right to left": (RIGHT_TO_LEFT, "letters a to z"),
    "a taken apart accent": ("e\u0301", "letters a to z"),
    "an accent": ("\u00e9", "letters a to z"),
    "digits of elsewhere": ("\u0663", "letters a to z"),
    "a hundred faces": (FACES, "letters a to z"),
    "an average": ("generator.average", "letters a to z"),
}  # fmt: skip

#: nor a run, its folder, or a row of a sweep
FOLDERS: dict[str, tuple[str, str]] = {
    "a slash": ("../run", "'/'"),
    "an absolute path": ("/tmp/run", "'/'"),
    "a backslash": ("a\\b", r"'\\'"),
    "a drive": ("C:run", "':'"),
    "a question": ("what?", "'?'"),
    "two dots": ("..", "must begin with a letter"),
    "a hidden one": (".run", "must begin with a letter"),
    "a bracket first": ("(1)", "must begin with a letter"),
    "a dash first": ("-run", "must begin with a letter"),
    "a dot last": ("run.", "ends with a dot"),
    "a space last": ("run ", "begins or ends with a space"),
    "a device": ("Aux", "device on Windows"),
    "a device with a suffix": ("com1.old", "device on Windows"),
    "a line break": ("a\nb", "U+000A"),
    "a zero": ("a\0b", "U+0000"),
    "right to left": (RIGHT_TO_LEFT, "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
    "no width": ("a\u200bb", "U+200B"),
    "a line separator": ("a\u2028b", "U+2028"),
    "a taken apart accent": ("cafe\u0301", "NFC"),
    "four bytes a letter": ("\U00020000" * 60, "200 bytes"),
}  # fmt: skip


def quoted(name: str) -> str:
    """A string of TOML, which has JSON's escapes and takes other letters as they are."""
    return json.dumps(name, ensure_ascii=False)


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("name", WORDS)
def test_a_name_of_a_score(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called, why = WORDS[name]
    text = WHOLE + f'[scores.{quoted(called)}]\nplugin = "mmd"\n'
    (tmp_path / "recipe.toml").write_text(text)
    without_change(tmp_path, capsys, ("recipe.toml: [scores.", why, "plugin ="), command,
                   "recipe.toml")  # fmt: skip


@pytest.mark.parametrize("group", ["extractors", "metrics", "trackers"])
@pytest.mark.parametrize("name", ["a space", "a dot", "nothing", "a path up", "a device"])
def test_a_name_of_another_table(
    name: str, group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called, why = WORDS[name]
    text = WHOLE + f'[{group}.{quoted(called)}]\nplugin = "csv"\n'
    (tmp_path / "recipe.toml").write_text(text)
    without_change(tmp_path, capsys, (f"[{group}.", why), "check", "recipe.toml")


@pytest.mark.parametrize(
    "name",
    ["generator", "Classifier", "CLASSIFICATION", "pseudo_label_kept", "step", "images_per_second",
     "discriminator_accuracy"],
)  # fmt: skip
def test_a_name_that_is_taken(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE + f'[scores.{name}]\nplugin = "mmd"\n')
    without_change(tmp_path, capsys, (f"[scores.{name}]", "is taken"), "check", "recipe.toml")


@pytest.mark.parametrize("group", ["scores", "metrics", "trackers"])
def test_names_that_differ_in_case_alone(
    group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = "".join(f'[{group}.{name}]\nplugin = "csv"\n' for name in ("Mine", "mine"))
    (tmp_path / "recipe.toml").write_text(WHOLE + two)
    words = (f"[{group}.mine]", f"[{group}.Mine]", "upper and lower case")
    without_change(tmp_path, capsys, words, "check", "recipe.toml")


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("scores.my style.weight=1", "my style"),
        ("scores.a/b.plugin=mmd", "a/b"),
        ("trackers.../x.plugin=csv", "TABLE.KEY=VALUE"),
        ("metrics.NUL.plugin=frechet", "device"),
        ("scores.-x.plugin=mmd", "must not begin with -"),
        ("scores.\u202e.plugin=mmd", "letters a to z"),
        ("run.name=a/b", "'/'"),
        ("run.name=con", "device"),
        ("run.name=x\udce4", "not UTF-8"),
        ("run.name=x\0", "zero byte"),
    ],
)
def test_a_name_of_an_override(
    override: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE)
    words = ("--set", word)
    without_change(tmp_path, capsys, words, "run", "recipe.toml", "--set", override)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_name_of_a_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called, why = FOLDERS[name]
    text = with_line("steps = 2", f"steps = 2\nname = {quoted(called)}")
    (tmp_path / "recipe.toml").write_text(text)
    without_change(tmp_path, capsys, ("[run] name", why), "run", "recipe.toml")


@pytest.mark.parametrize(
    "file",
    ["(1).toml", "CON.toml", "what?.toml", ".hidden.toml", "a..toml", f"{'a' * 150}.toml",
     "x\udce4.toml"],
)  # fmt: skip
def test_a_recipes_file_that_no_run_can_be_called_after(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It trained, and left a recipe that could not be read again."""
    (tmp_path / file).write_text(WHOLE)
    word = "UTF-8" if "\udce4" in file else "[run] name"
    without_change(tmp_path, capsys, (word,), "run", file)


def test_a_style_network_writes_nothing_outside_of_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` found no fault, and `run` replaced the file."""
    victim = tmp_path / "victim.safetensors"
    victim.write_text("mine")
    table = f'[scores."{tmp_path}/victim"]\nplugin = "style_transfer"\nextractor = "classifier"\n'
    (tmp_path / "recipe.toml").write_text(WHOLE + table)
    for command in ("check", "run"):
        without_change(tmp_path, capsys, ("letters a to z",), command, "recipe.toml")
    assert victim.read_text() == "mine"


def test_a_file_that_is_called_as_a_mac_writes_it_names_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """macOS takes characters of names apart, which is not the user's doing."""
    (tmp_path / "cafe\u0301.toml").write_text(WHOLE)
    said = refused(capsys, "run", "cafe\u0301.toml", "--set", "run.steps=0")
    assert "[run] steps" in said and "[run] name" not in said


# -- other ways in ---------------------------------------------------------------------------------

SWEEPS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "a row of slashes": ('[[variants]]\nname = "///"\n', (), "must begin with a letter"),
    "a row of other letters": ('[[variants]]\nname = "\u4e2d"\n', (), "must begin with a letter"),
    "a row above": ('[[variants]]\nname = "../../up"\n', (), "must begin with a letter"),
    "a row right to left": ('[[variants]]\nname = "a\\u202eb"\n', (), "U+202E"),
    "a row of two lines": ('[[variants]]\nname = "a\\nb"\n', (), "U+000A"),
    "a row of 150 letters": (f'[[variants]]\nname = "{"a" * 150}"\n', (), "too long"),
    "a long point": (f'[grid]\n"run.name" = ["{"b" * 120}"]\n', (), "too long"),
    "an arm that names a table": (
        '[[variants]]\nname = "x"\nset = { "scores.a/b" = { plugin = "mmd" } }\n', (), "a/b",
    ),
    "rows that share a folder": (
        '[[variants]]\nname = "a b"\n[[variants]]\nname = "A-B"\n', (), "share a folder",
    ),
    "a preset above": ('[presets."../../up"]\n', ("--preset", "../../up"), "'/'"),
    "a preset of two lines": ('[presets."a\\nb"]\n', ("--preset", "a\nb"), "U+000A"),
    "a table by an override": ("", ("--set", "scores.a b.plugin=mmd"), "a b"),
}  # fmt: skip


@pytest.mark.parametrize("name", SWEEPS)
def test_a_name_in_a_sweep(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, options, word = SWEEPS[name]
    (tmp_path / "recipe.toml").write_text(WHOLE)
    head = 'title = "t"\nrecipe = "recipe.toml"\n'
    table = '[table]\nmetrics = ["auc/mean"]\n'
    (tmp_path / "mine.toml").write_text(head + text + table)
    without_change(tmp_path, capsys, (word,), "sweep", "mine.toml", *options)


@pytest.mark.parametrize("command", ["evaluate", "generate", "run"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("run.name", "../../run"), ("scores.a/b.plugin", "mmd"), ("trackers.x b.plugin", "csv")],
)
def test_a_name_in_a_resolved_recipe(
    key: str, value: str, command: str, finished: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "recipe.toml"
    tree = parse_toml(path.read_text())
    *tables, last = key.split(".")
    at = tree
    for table in tables:
        at = at.setdefault(table, {})
    at[last] = value
    path.write_text(tomli_w.dumps(tree))
    more = {"generate": ("--count", "1", "--out", "made"), "run": ("--resume", "--out", "run")}
    given = str(path) if command == "run" else "run"
    words = ("recipe.toml", tables[-1].partition("/")[0])
    without_change(tmp_path, capsys, words, command, given, *more.get(command, ()))


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path up": lambda m: m["files"].update({"../../recipe.safetensors": "0"}),
    "a path": lambda m: m["files"].update({"/etc/x.safetensors": "0"}),
    "a folder below": lambda m: m["files"].update({"a/b.safetensors": "0"}),
    "a backslash": lambda m: m["files"].update({"..\\x.safetensors": "0"}),
    "a space": lambda m: m["files"].update({"my style.safetensors": "0"}),
    "other letters": lambda m: m["files"].update({"\u00e9.safetensors": "0"}),
    "a pickle": lambda m: m["files"].update({"generator.pth": "0"}),
    "nothing": lambda m: m["files"].update({".safetensors": "0"}),
    "300 letters": lambda m: m["files"].update({"a" * 300 + ".safetensors": "0"}),
    "a record of two lines": lambda m: m["log"]["sums"].update({"a\nb": 1.0}),
    "a count of nothing": lambda m: m["log"]["counts"].update({"": 1}),
    "a record right to left": lambda m: m["log"]["sums"].update({RIGHT_TO_LEFT: 1.0}),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_name_in_a_manifest(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000002/manifest.json"
    content = json.loads(path.read_text())
    MANIFESTS[name](content)
    path.write_text(json.dumps(content))
    for file, digest in content["files"].items():  # forged whole: the name alone is at fault
        if digest == "0" and "/" not in file and len(file) < 255:
            (path.parent / file).write_bytes(b"x")
            content["files"][file] = hashlib.sha256(b"x").hexdigest()
    path.write_text(json.dumps(content))
    without_change(
        tmp_path, capsys, ("step-00000002: damaged", "--checkpoint 1"), "evaluate", "run"
    )


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("My Score", "small letters"), ("a/b", "small letters"), ("..", "small letters"),
        ("-x", "No such option"), ("", "small letters"), ("a.b", "small letters"),
        ("caf\u00e9", "small letters"), ("a" * 300, "300 characters"), ("con", "device"),
        ("nul", "device"), ("x\udce4", "not UTF-8"), ("none", "None would hide another name"),
        ("true", "True would hide another name"), ("score", "Score would hide another name"),
        ("tensor", "Tensor would hide another name"),
        ("scores", "the module xraygan_scores already exists"),
        ("mmd", "already has a score 'mmd'"),
    ],
)  # fmt: skip
def test_a_name_of_a_new_plugin(
    name: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_change(tmp_path, capsys, (word,), "new-plugin", "score", name)
    assert not list(tmp_path.iterdir())
