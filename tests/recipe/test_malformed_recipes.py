"""Recipes that are wrong: see test_malformed.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from malformed import WHOLE, contents, refused, with_line

pytestmark = pytest.mark.usefixtures("in_a_folder")

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
