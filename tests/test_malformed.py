"""Recipes, options, sweeps, checkpoints and run directories that are wrong, through the command.

Each ends with exit code 2 and one message that names the culprit, without a traceback, and changes
nothing on the disk. Images, tables and lists are in test_images.py, test_csv_dataset.py and
test_chestxray14.py, plugins in test_plugins.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from xraygan import cli
from xraygan.display import Display
from xraygan.engine import run
from xraygan.recipe import load

WHOLE = """
[run]
steps = 2
batch_size = 4
save_every = 1
[data]
plugin = "phantom"
images = 60
image_size = 32
classes = ["Edema", "Mass"]
[generator]
plugin = "dcgan"
width = 4
[discriminator]
plugin = "dcgan"
width = 4
[objective]
plugin = "minmax"
[classifier]
plugin = "resnet18"
[labeler]
plugin = "confidence"
threshold = 0.7
[scores.mmd]
weight = 0.1
[evaluation]
generated = 4
bootstrap = 0
"""


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must exit with 2; returns its message."""
    sys.argv = ["xraygan", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "Traceback" not in said
    return said


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder and its digest; the lock is the operating system's affair.

    Of one that is too large to be read it is the beginning's.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.sha256(file.read(2**22)).hexdigest()
    return found


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])


# -- recipes ---------------------------------------------------------------------------------------


def with_line(old: str, new: str) -> str:
    assert WHOLE.count(old) >= 1, old
    return WHOLE.replace(old, new, 1)


RECIPES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    # not TOML
    "an open string": (WHOLE + 'x = "', ("not TOML",)),
    "a key twice": (with_line("steps = 2", "steps = 2\nsteps = 3"), ("not TOML", "line 4")),
    "a table twice": (WHOLE + "[run]\n", ("not TOML",)),
    "no value": (WHOLE + "[trackers]\nx =\n", ("not TOML",)),
    "a lone bracket": ("[", ("not TOML",)),
    "a control character": (WHOLE + "# \x07", ("not TOML",)),
    "latin-1": ("title = 'Thor\xe4x'".encode("latin-1"), ("not UTF-8",)),
    "utf-16": (WHOLE.encode("utf-16"), ("not UTF-8",)),
    "zeros": (b"\0" * 100, ("not TOML",)),
    "an endless number": (WHOLE + f"[trackers.x]\na = {'9' * 5000}", ("not TOML",)),
    "a deep array": ("a = " + "[" * 5000, ("nested too deeply",)),
    "a deep key": ("a" + ".a" * 5000 + " = 1", ("more than 32 parts",)),
    "a deep header": ("[" + "'a'.\"b\" . " * 50 + "a]", ("more than 32 parts",)),
    "two megabytes": (WHOLE + "#" * 2**21, ("larger than 1,048,576 bytes",)),
    "json": ('{"run": {"steps": 2}}', ("not TOML",)),
    "yaml": ("run:\n  steps: 2\n", ("not TOML",)),
    # what is not there, or too much
    "empty": ("", ("[run]", "[data]", "is required and missing")),
    "no length": (with_line("steps = 2", ""), ("set one of steps and epochs",)),
    "two lengths": (with_line("steps = 2", "steps = 2\nepochs = 1"), ("steps and epochs",)),
    "no dataset": (with_line('plugin = "phantom"', ""), ("[data] plugin", "missing")),
    "no network": (WHOLE.split("[generator]")[0], ("[classifier]", "is missing")),
    "no discriminator": (
        with_line('[discriminator]\nplugin = "dcgan"\nwidth = 4\n', ""),
        ("[discriminator]", "is missing"),
    ),
    "no objective": (with_line('[objective]\nplugin = "minmax"\n', ""), ("[objective]", "missing")),
    "a labeler without a classifier": (
        with_line('[classifier]\nplugin = "resnet18"\n', ""),
        ("[labeler]", "needs a [classifier]"),
    ),
    # names
    "a misspelt table": (WHOLE + "[scroes.gram]\n", ("[scroes]", "'scores'")),
    "a misspelt key": (with_line("steps", "stpes"), ("[run] stpes", "'steps'")),
    "a misspelt option": (with_line("threshold", "treshold"), ("treshold", "'threshold'")),
    "a misspelt dataset": (with_line("phantom", "fantom"), ("[data] plugin", "'phantom'")),
    "a misspelt network": (with_line("resnet18", "resnet81"), ("[classifier]", "'resnet18'")),
    "a misspelt score": (with_line("scores.mmd", "scores.mdm"), ("[scores.mdm]", "'mmd'")),
    "a misspelt class": (with_line('"Edema"', '"Edemma"'), ("[data] classes", "'Edema'")),
    "a class as a word": (
        with_line('["Edema", "Mass"]', '"Edema"'), ("[data] classes: expected a list", "'Edema'"),
    ),
    "a list as a word": (
        with_line('["Edema", "Mass"]', "\"['Edema', 'Mass']\""), ("[data] classes: expected a li",),
    ),
    "a class in another case": (with_line('"Edema"', '"edema"'), ("[data] classes", "'Edema'")),
    "metadata as a word": (
        with_line("images = 60", 'images = 60\nmetadata = "age"'), ("[data] metadata: expected",),
    ),
    "a class twice": (with_line('"Mass"', '"Edema"'), ("[data] classes", "twice")),
    "one class": (with_line(', "Mass"', ""), ("[data] classes", "label_policy")),
    "a score named as a network": (
        WHOLE + '[scores.generator]\nplugin = "mmd"\n', ("[scores.generator]", "taken"),
    ),
    "an audience that is not there": (
        with_line("weight = 0.1", 'weight = 0.1\ntrains = ["clasifier"]'),
        ("[scores.mmd] trains", "'classifier'"),
    ),
    "an unknown extractor": (
        WHOLE + '[scores.gram]\nextractor = "vgg91"\n', ("[scores.gram] extractor", "vgg"),
    ),
    "an unknown layer": (
        WHOLE + '[scores.gram]\nextractor = "classifier"\nlayers = "relu9_9"\n', ("layers",),
    ),
    "an unknown waiting network": (
        WHOLE + '[schedule]\nphases = [{ waits = ["critic"] }]\n', ("waits", "critic"),
    ),
    # types and ranges
    "steps in words": (with_line("steps = 2", 'steps = "two"'), ("[run] steps", "'two'")),
    "steps as a fraction": (with_line("steps = 2", "steps = 2.5"), ("[run] steps", "2.5")),
    "no steps": (with_line("steps = 2", "steps = 0"), ("[run] steps", "greater than 0")),
    "a batch of one": (with_line("batch_size = 4", "batch_size = 1"), ("[run] batch_size", "1")),
    "a negative seed": (with_line("steps = 2", "steps = 2\nseed = -1"), ("[run] seed", "-1")),
    "a size in words": (with_line("= 32", '= "small"'), ("[data] image_size", "'small'")),
    "a size of a pixel": (with_line("= 32", "= 1"), ("[data] image_size", "16")),
    "a size beyond all": (with_line("= 32", "= 100000"), ("[data] image_size", "1024")),
    "a size that does not fit": (
        with_line("= 32", "= 48"),
        ("[generator]", "[discriminator]", "32, 64, 128, 256", "48"),
    ),
    "a weight that is no number": (with_line("0.1", "nan"), ("[scores.mmd] weight", "finite")),
    "a weight without end": (with_line("0.1", "inf"), ("[scores.mmd] weight", "finite")),
    "a threshold beyond one": (with_line("0.7", "1.7"), ("[labeler] threshold", "1.7")),
    "a threshold that is no number": (with_line("0.7", "nan"), ("[labeler] threshold",)),
    "a width that is a list": (with_line("width = 4", "width = [4]"), ("[generator] width",)),
    "a negative width": (with_line("width = 4", "width = -4"), ("[generator] width",)),
    "a rate of zero": (WHOLE + "[generator.optimizer]\nlr = 0.0\n", ("optimizer", "lr")),
    "a rate without end": (WHOLE + "[generator.optimizer]\nlr = inf\n", ("optimizer", "lr")),
    "three betas": (WHOLE + "[generator.optimizer]\nbetas = [0.5, 0.9, 0.9]\n", ("betas",)),
    "an unknown optimizer": (WHOLE + '[generator.optimizer]\nname = "adom"\n', ("adom", "adam")),
    "a table as a word": ("data = 3\n" + WHOLE.split("[data]")[0], ("[data]",)),
    "a word as a table": (WHOLE + "[run.steps]\nx = 1\n", ("not TOML",)),
    "scores as a list": (
        WHOLE.replace("[scores.mmd]\nweight = 0.1", "") + "[[scores]]\n", ("[scores]",),
    ),
    "a ratio in words": (WHOLE + '[[schedule.phases]]\nratio = "3 to 1"\n', ("ratio", "3 to 1")),
    "phases that end early": (WHOLE + "[[schedule.phases]]\nuntil = 0.5\n", ("[schedule]", "1.0")),
    "a crop of nothing": (
        with_line("images = 60", "images = 60\naugmentation = { scale = [0.0, 1.0] }"), ("scale",),
    ),
    "an unknown protocol": (with_line("generated = 4", 'protocol = "best"'), ("protocol", "best")),
    "a best without evaluations": (
        with_line("steps = 2", 'steps = 2\nkeep_best = "accuracy"'), ("evaluate_every",),
    ),
    "a best of test images": (
        with_line("steps = 2", 'steps = 2\nevaluate_every = 1\nkeep_best = "accuracy"'),
        ("[run] keep_best", "set data.validation = 0.1", "never chooses by test images"),
    ),
    "a best of no images": (
        with_line("steps = 2", 'steps = 2\nevaluate_every = 1\nkeep_best = "accuracy"').replace(
            "images = 60", "images = 60\nvalidation = 0.001"
        ),
        ("[run] keep_best", "data.validation = 0.001 sets no image aside; raise it"),
    ),
    "figures of validation images without any": (
        with_line("generated = 4", 'generated = 4\nsplit = "val"'),
        ("[evaluation] split", "set data.validation = 0.1"),
    ),
    "figures of training images": (
        with_line("generated = 4", 'split = "train"'), ("[evaluation] split", "'train'"),
    ),
    "all for validation": (
        with_line("images = 60", "images = 60\nvalidation = 1.0"), ("[data] validation", "1"),
    ),
    "nearly all for validation": (
        with_line("images = 60", "images = 60\nvalidation = 0.99"), ("batch_size is 4, but only",),
    ),
    "a device that is none": (with_line("steps = 2", 'steps = 2\ndevice = "abacus"'), ("abacus",)),
    "tf32 on a processor": (
        with_line("steps = 2", 'steps = 2\ndevice = "cpu"\nprecision = "tf32"'), ("tf32",),
    ),
    "parts that do not divide": (
        with_line("steps = 2", "steps = 2\naccumulate = 3"), ("[run] batch_size", "accumulate"),
    ),
    # parts that do not fit each other
    "a conditional discriminator alone": (
        WHOLE.replace(
            '[discriminator]\nplugin = "dcgan"\nwidth = 4', '[discriminator]\nplugin = "cgan"'
        ),
        ("[discriminator] plugin", "conditional"),
    ),
    "labels of a generator that has none": (
        with_line('"confidence"\nthreshold = 0.7', '"condition"'), ("[labeler] plugin",),
    ),
    "a softmax score of a multi-label classifier": (
        with_line("images = 60", 'images = 60\nlabel_policy = "multi"') + "[scores.inception]\n",
        ("[scores.inception]", "label_policy"),
    ),
    "too few images": (with_line("images = 60", "images = 4"), ("images",)),
    # files
    "weights that are not there": (
        with_line('"resnet18"', '"resnet18"\nweights = "none.pth"'), ("weights", "none.pth"),
    ),
    "weights that are none": (
        with_line('"resnet18"', '"resnet18"\nweights = "recipe.toml"'), ("recipe.toml",),
    ),
    "weights called by a zero": (
        with_line('"resnet18"', '"resnet18"\nweights = "\\u0000"'), ("[classifier] weights",),
    ),
    "weights of an endless name": (
        with_line('"resnet18"', f'"resnet18"\nweights = "{"a" * 300}"'), ("[classifier] weights",),
    ),
    "data called by a zero": (with_line("images = 60", 'root = "\\u0000"'), ("[data] root",)),
    "a name that leaves its folder": (
        with_line("steps = 2", 'steps = 2\nname = "../../run"'), ("[run] name",),
    ),
    "a parent called by a zero": ('extends = "\\u0000"\n' + WHOLE, ("extends",)),
    "a parent that is not there": ('extends = "none.toml"\n' + WHOLE, ("extends", "none.toml")),
    "a parent that is a number": ("extends = 3\n" + WHOLE, ("extends", "3")),
    "its own parent": ('extends = "recipe.toml"\n' + WHOLE, ("extends", "circle")),
    "a parent that is a folder": ('extends = "."\n' + WHOLE, ("extends",)),
    "data that is not there": (
        with_line('"phantom"\nimages = 60', '"zhang"\nroot = "nowhere"').replace(
            '["Edema", "Mass"]', '"all"'
        ),
        ("nowhere: there is no such folder", "data.root"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_malformed_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = RECIPES[name]
    content = text.encode() if isinstance(text, str) else text
    (tmp_path / "recipe.toml").write_bytes(content)
    before = contents(tmp_path)
    said = refused(capsys, "run", "recipe.toml", "--out", "run")
    for word in words:
        assert word in said, said
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_every_fault_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = with_line("steps = 2", "stepz = 2").replace("width = 4", "width = 0").replace("0.7", "7")
    (tmp_path / "recipe.toml").write_text(text)
    said = refused(capsys, "run", "recipe.toml")
    assert "[run] stepz" in said


def test_a_circle_of_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one, other in ("ab", "bc", "ca"):
        (tmp_path / f"{one}.toml").write_text(f'extends = "{other}.toml"\n')
    assert "a.toml -> b.toml -> c.toml -> a.toml" in refused(capsys, "run", "a.toml")


def test_a_pipe_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    os.mkfifo(tmp_path / "recipe.toml")
    assert "recipe.toml" in refused(capsys, "run", "recipe.toml")


# -- options ---------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no recipe": (("run",), ("RECIPE",)),
    "an unknown recipe": (("run", "ucgan_ful"), ("ucgan_full",)),
    "a folder as a recipe": (("run", "."), (".",)),
    "an unknown command": (("train", "quickstart"), ("train",)),
    "an unknown option": (("run", "quickstart", "--sett", "x"), ("--sett",)),
    "a set without a value": (("run", "quickstart", "--set", "run.steps"), ("TABLE.KEY=VALUE",)),
    "a set without a key": (("run", "quickstart", "--set", "=3"), ("TABLE.KEY=VALUE",)),
    "a set with a gap": (("run", "quickstart", "--set", "run..steps=3"), ("TABLE.KEY=VALUE",)),
    "a set of a table": (("run", "quickstart", "--set", "run=3"), ("[run]", "3")),
    "a set beneath a key": (("run", "quickstart", "--set", "run.steps.x=3"), ("[run]",)),
    "a set of an unknown key": (("run", "quickstart", "--set", "run.stps=3"), ("'steps'",)),
    "a set of the wrong type": (("run", "quickstart", "--set", "run.steps=ten"), ("'ten'",)),
    "a deep set": (("run", "quickstart", "--set", "run.steps=" + "[" * 5000), ("[run] steps",)),
    "no devices": (("run", "quickstart", "--devices", "0"), ("--devices",)),
    "devices in words": (("run", "quickstart", "--devices", "two"), ("--devices",)),
    "an output that is a file": (("run", "quickstart", "--out", "file"), ("file",)),
    "an output that is full": (("run", "quickstart", "--out", "full"), ("full", "--out")),
    "evaluating nothing": (("evaluate", "none"), ("none",)),
    "evaluating a folder": (("evaluate", "full"), ("full", "not a run directory")),
    "generating none": (("generate", "full", "--count", "0", "--out", "x"), ("--count",)),
    "generating nowhere": (("generate", "full", "--count", "1"), ("--out",)),
    "figures of nothing": (("figures", "full"), ("full",)),
    "describing nothing": (("describe", "score", "mdm"), ("'mmd'",)),
    "describing an unknown kind": (("describe", "scre", "mmd"), ("scre",)),
    "an unknown sweep": (("sweep", "table99"), ("table99",)),
    "an unknown preset": (("sweep", "table8", "--preset", "gpu"), ("preset", "gpu")),
    "no jobs": (("sweep", "table8", "--jobs", "0"), ("--jobs",)),
    "preparing nothing": (("data", "prepare", "none"), ("none",)),
    "checking nothing": (("check", "none"), ("none",)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_malformed_option(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = OPTIONS[name]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    before = contents(tmp_path)
    said = refused(capsys, *arguments)
    for word in words:
        assert word in said, said
    assert contents(tmp_path) == before


# -- checkpoints and run directories ---------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    small = WHOLE.split("[classifier]")[0] + "[evaluation]\ngenerated = 4\nbootstrap = 0\n"
    (folder / "recipe.toml").write_text(small)
    run(load(folder / "recipe.toml"), folder / "run", display=Display(Console(quiet=True)))
    return folder / "run"


def manifest(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the newest checkpoint's manifest."""
    path = folder / "checkpoints/step-00000002/manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def text(folder: Path, content: str | bytes) -> None:
    path = folder / "checkpoints/step-00000002/manifest.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def tensors(folder: Path, content: bytes | None = None, **changes: torch.Tensor | None) -> None:
    """Change the newest checkpoint's generator, and its hash with it: a forged one."""
    path = folder / "checkpoints/step-00000002/generator.safetensors"
    if content is None:
        found: dict[str, torch.Tensor | None] = {**load_file(path), **changes}
        save_file({k: v for k, v in found.items() if v is not None}, path)
    else:
        path.write_bytes(content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest(folder, lambda m: m["files"].update({path.name: digest}))


def flip(folder: Path, at: int) -> None:
    path = folder / "checkpoints/step-00000002/generator.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGED = ("step-00000002", "damaged", "--checkpoint 1")
FORGED = ("step-00000002", "generator")

CHECKPOINTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a flipped bit": (lambda run: flip(run, -1), DAMAGED),
    "a flipped header": (lambda run: flip(run, 20), DAMAGED),
    "no manifest": (lambda run: next(run.glob("checkpoints/*02/manifest.json")).unlink(), DAMAGED),
    "an empty manifest": (lambda run: text(run, ""), DAMAGED),
    "half a manifest": (lambda run: text(run, '{"format": 1, "st'), DAMAGED),
    "a manifest of zeros": (lambda run: text(run, b"\0" * 50), DAMAGED),
    "a manifest that is a list": (lambda run: text(run, "[]"), DAMAGED),
    "a manifest in latin-1": (lambda run: text(run, b'{"format": "\xe4"}'), DAMAGED),
    "a deep manifest": (lambda run: text(run, "[" * 100_000), DAMAGED),
    "a huge manifest": (lambda run: text(run, " " * 2**21), DAMAGED),
    "another format": (lambda run: manifest(run, lambda m: m.update(format=2)), DAMAGED),
    "a format in words": (lambda run: manifest(run, lambda m: m.update(format="1")), DAMAGED),
    "another step": (lambda run: manifest(run, lambda m: m.update(step=7)), DAMAGED),
    "a negative step": (lambda run: manifest(run, lambda m: m.update(step=-2)), DAMAGED),
    "a step in words": (lambda run: manifest(run, lambda m: m.update(step="2")), DAMAGED),
    "a step that is true": (lambda run: manifest(run, lambda m: m.update(step=True)), DAMAGED),
    "no step": (lambda run: manifest(run, lambda m: m.pop("step")), DAMAGED),
    "no files": (lambda run: manifest(run, lambda m: m.pop("files")), DAMAGED),
    "files as a list": (lambda run: manifest(run, lambda m: m.update(files=[])), DAMAGED),
    "an unknown key": (lambda run: manifest(run, lambda m: m.update(code="import os")), DAMAGED),
    "a log of words": (lambda run: manifest(run, lambda m: m.update(log={"sums": 3})), DAMAGED),
    "a hash of nothing": (
        lambda run: manifest(run, lambda m: m["files"].update({"generator.safetensors": ""})),
        DAMAGED,
    ),
    "a file that is not there": (
        lambda run: manifest(run, lambda m: m["files"].update({"none.safetensors": "0"})), DAMAGED,
    ),
    "a file elsewhere": (
        lambda run: manifest(run, lambda m: m["files"].update({"../../recipe.toml": "0"})), DAMAGED,
    ),
    "a file at the root": (
        lambda run: manifest(run, lambda m: m["files"].update({"/etc/passwd": "0"})), DAMAGED,
    ),
    "a folder as a file": (
        lambda run: (
            (run / "checkpoints/step-00000002/generator.safetensors").unlink(),
            (run / "checkpoints/step-00000002/generator.safetensors").mkdir(),
        ),
        DAMAGED,
    ),
    "a network without a file": (
        lambda run: manifest(run, lambda m: m["files"].pop("generator.safetensors")), FORGED,
    ),
    "a pickle": (lambda run: tensors(run, b"\x80\x04cos\nsystem\n(S'true'\ntR."), FORGED),
    "an empty file": (lambda run: tensors(run, b""), FORGED),
    "a header beyond the file": (
        lambda run: tensors(run, struct.pack("<Q", 2**40) + b"{}"), FORGED,
    ),
    "a header that is no JSON": (lambda run: tensors(run, struct.pack("<Q", 4) + b"oops"), FORGED),
    "offsets beyond the file": (
        lambda run: tensors(
            run,
            (lambda h: struct.pack("<Q", len(h)) + h)(
                b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8000000]}}'
            ),
        ),
        FORGED,
    ),
    "a tensor that is missing": (lambda run: tensors(run, **{"layers.0.weight": None}), FORGED),
    "a tensor too many": (lambda run: tensors(run, extra=torch.zeros(2)), FORGED),
    "a tensor of another shape": (
        lambda run: tensors(run, **{"layers.0.weight": torch.zeros(3, 3)}), FORGED,
    ),
    "no checkpoint at all": (
        lambda run: shutil.rmtree(run / "checkpoints"), ("checkpoints", "no checkpoint"),
    ),
    "no whole checkpoint": (
        lambda run: [p.unlink() for p in run.glob("checkpoints/step-*/manifest.json")],
        ("step-00000002", "damaged"),
    ),
    "no recipe": (lambda run: (run / "recipe.toml").unlink(), ("not a run directory",)),
    "half a recipe": (lambda run: (run / "recipe.toml").write_text("[run"), ("recipe.toml",)),
    "another network": (
        lambda run: (run / "recipe.toml").write_text(
            (run / "recipe.toml").read_text().replace("width = 4", "width = 8")
        ),
        ("generator", "does not fit"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["evaluate", "generate"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_malformed_checkpoint(
    name: str, command: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = CHECKPOINTS[name]
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    change(tmp_path / "run")
    before = contents(tmp_path)
    more = ("--count", "1", "--out", "made") if command == "generate" else ()
    said = refused(capsys, command, "run", *more)
    for word in words:
        assert word in said, said
    assert contents(tmp_path) == before
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("which", ["0", "-1", "99999999999", "../step-00000001", "lates", "", "/"])
def test_a_checkpoint_that_is_none(
    which: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "evaluate", str(finished), "--checkpoint", which)
    assert "there is no checkpoint" in said and "1" in said


def test_a_damaged_checkpoint_is_not_resumed_from(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming goes on from the one before, and says so."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    flip(tmp_path / "run", -1)
    (tmp_path / "run" / "evaluation.json").unlink()
    run(
        load(tmp_path / "run" / "recipe.toml"),
        tmp_path / "run",
        resume=True,
        display=Display(Console(stderr=True)),
    )
    assert "damaged" in capsys.readouterr().err
    ours, whole = (
        json.loads((folder / "checkpoints/step-00000002/manifest.json").read_text())["files"]
        for folder in (tmp_path / "run", finished)
    )
    assert ours == whole
