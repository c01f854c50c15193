"""Numbers that nothing can be made of, in recipes, sweeps and options: see test_malformed.py."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from malformed import WHOLE, refused, without_change
from torch import nn

from xraygan.errors import UserError
from xraygan.graph import build as graph_build
from xraygan.parts.options import options_of
from xraygan.parts.registry import installed
from xraygan.recipe.loading import load
from xraygan.utils.limits import MOST_PARAMETERS, parse_step

pytestmark = pytest.mark.usefixtures("in_a_folder")

DIGITS = "9" * 5000  # more than Python reads
LONG = "1" + "0" * 400  # more than a float holds
MANY = "10000000000000"  # 10^13, of which the memory has no room

#: value -> keys that cannot have it
RECIPES: dict[str, tuple[str, ...]] = {
    DIGITS: ("run.steps", "run.seed", "evaluation.bootstrap"),
    LONG: (
        "run.steps", "run.epochs", "run.seed", "run.batch_size", "run.keep", "run.save_every",
        "data.limit", "data.limit.Mass", "data.images", "data.seed", "generator.latent_size",
        "scores.mmd.weight", "generator.optimizer.lr", "data.value_range", "data.grey",
        "evaluation.batch_size", "data.image_size", "labeler.threshold",
    ),
    MANY: (
        "run.steps", "run.batch_size", "run.accumulate", "run.threads", "run.log_every",
        "run.evaluate_every", "data.images", "data.limit", "data.image_size",
        "generator.latent_size", "generator.width", "discriminator.width", "evaluation.generated",
        "evaluation.bootstrap", "evaluation.batch_size",
    ),
    "1000000000000000": ("generator.latent_size", "run.steps"),
    "-1": (
        "run.steps", "run.epochs", "run.seed", "run.batch_size", "run.threads", "run.log_every",
        "run.save_every", "run.keep", "run.sample_every", "run.evaluate_every", "data.limit",
        "data.validation", "data.image_size", "generator.width", "generator.weight",
        "generator.average", "generator.optimizer.lr", "evaluation.generated",
        "evaluation.bootstrap", "evaluation.batch_size", "labeler.threshold",
    ),
    "0": (
        "run.batch_size", "run.accumulate", "run.log_every", "run.threads", "generator.width",
        "generator.latent_size", "data.images", "evaluation.generated", "evaluation.batch_size",
    ),
    "nan": (
        "run.steps", "scores.mmd.weight", "generator.weight", "data.validation",
        "labeler.threshold", "generator.optimizer.lr", "generator.average", "data.test_fraction",
    ),
    "inf": ("run.steps", "scores.mmd.weight", "classifier.weight", "generator.optimizer.lr"),
    "1e400": ("run.steps", "scores.mmd.weight", "labeler.weight", "data.validation"),
    "-1e400": ("scores.mmd.weight", "generator.optimizer.weight_decay"),
    "1e300": ("scores.mmd.weight", "generator.weight", "generator.optimizer.lr"),
    "1.5": ("run.seed", "run.batch_size", "data.images", "generator.width", "evaluation.generated"),
    "true": ("run.steps", "run.seed", "scores.mmd.weight"),
}  # fmt: skip
#: a list or a text of them -> the word that names what is wrong
OTHERS: dict[str, str] = {
    "data.value_range=[0,0]": "low < high",
    "data.value_range=[0.0,1e-300]": "low < high",
    "data.value_range=[1,-1]": "low < high",
    "data.value_range=[nan,1]": "finite",
    "data.value_range=[-inf,inf]": "finite",
    "data.value_range=[-1e308,1e308]": "from -1000000 to 1000000",
    "data.value_range=[1]": "value_range",
    "data.grey=[5,5]": "low < high",
    "data.grey=[4095,0]": "low < high",
    "data.grey=[0,nan]": "finite",
    "data.grey=[-1e308,1e308]": "low < high",
    "data.augmentation.scale=[0,1]": "scale",
    "data.augmentation.scale=[1,0.5]": "scale",
    "data.augmentation.ratio=[1e-300,1e300]": "ratio",
    "data.augmentation.ratio=[nan,1]": "ratio",
    f"schedule.phases=[{{ratio='1:{DIGITS}'}}]": "ratio",
    f"schedule.phases=[{{ratio='{LONG}:1'}}]": "ratio",
    "schedule.phases=[{ratio='0:1'}]": "ratio",
    "schedule.phases=[{ratio='-1:1'}]": "ratio",
    "schedule.phases=[{ratio='1.5:1'}]": "ratio",
    "schedule.phases=[{until=nan}]": "until",
    "schedule.phases=[{until=1e400}]": "until",
    "generator.optimizer.betas=[0.5,nan]": "betas",
    "generator.optimizer.betas=[0.5,2.0]": "betas",
    "generator.optimizer.warmup=1.0": "warmup",
    "run.device=cuda:99999999999999999999": "device",
    "run.device=cuda:-1": "device",
    f"start.run='run'\nstart.checkpoint={DIGITS}": "start",
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for value, keys in RECIPES.items() for key in keys],
    ids=lambda text: text if len(text) < 20 else f"{text[:8]} and {len(text) - 8} more",
)
def test_a_number_of_a_recipe(
    key: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before memory is taken for it."""
    (tmp_path / "recipe.toml").write_text(WHOLE)
    tracemalloc.start()
    try:
        words = (f"--set {key}=", key.rpartition(".")[2])
        without_change(tmp_path, capsys, words, "run", "recipe.toml", "--set", f"{key}={value}")
        assert tracemalloc.get_traced_memory()[1] < 2e8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("override", OTHERS, ids=lambda text: text[:50])
def test_numbers_of_a_recipe(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE)
    words = (OTHERS[override],)
    without_change(tmp_path, capsys, words, "check", "recipe.toml", "--set", override)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("steps = 2", f"steps = {LONG}", "[run] steps"),
        ("steps = 2", f"steps = {DIGITS}", "not TOML"),
        ("threshold = 0.7", "threshold = 1e400", "[labeler] threshold"),
        ("threshold = 0.7", f"threshold = 0.{'9' * 5000}e400", "[labeler] threshold"),
        ("weight = 0.1", f"weight = {'9' * 400}", "[scores.mmd] weight"),
        ("images = 60", f"images = {'9' * 4000}", "[data] images"),
        ("bootstrap = 0", f"bootstrap = {MANY}", "[evaluation] bootstrap"),
    ],
    ids=lambda text: text[:30],
)
def test_a_number_in_a_file(
    old: str, new: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE.replace(old, new))
    without_change(tmp_path, capsys, ("recipe.toml", word), "check", "recipe.toml")


SWEEPS: dict[str, tuple[str, str]] = {
    "a seed of 401 digits": (f"seeds = [{LONG}]", "seeds"),
    "a seed below zero": ("seeds = [-1]", "seeds"),
    "a seed that is no number": ("seeds = [nan]", "seeds"),
    "a seed twice": ("seeds = [1, 2, 1]", "seeds: 1 is listed twice"),
    "no seeds": ("seeds = []", "seeds"),
    "ten thousand seeds and one": (f"seeds = {list(range(10_001))}", "10,000 runs"),
    "a grid without end": (
        "[grid]\n" + "".join(f'"run.k{i}" = {list(range(100))}\n' for i in range(8)), "10,000 runs",
    ),
    "steps of a grid": (f'[grid]\n"run.steps" = [{LONG}]', "401 characters"),
    "a difference of nothing": ("[table]\ndifference = 0.0", "difference"),
    "a difference that is no number": ("[table]\ndifference = nan", "difference"),
}  # fmt: skip


@pytest.mark.parametrize("name", SWEEPS)
def test_a_number_of_a_sweep(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, word = SWEEPS[name]
    (tmp_path / "recipe.toml").write_text(WHOLE)
    table = "" if "[table]" in text else "[table]\n"
    text = f'title = "t"\nrecipe = "recipe.toml"\n{text}\n{table}metrics = ["auc/mean"]\n'
    (tmp_path / "mine.toml").write_text(text)
    without_change(tmp_path, capsys, (word,), "sweep", "mine.toml")


#: option -> the command that has it
OPTIONS: dict[str, tuple[str, ...]] = {
    "--steps": ("run", "recipe.toml"),
    "--devices": ("run", "recipe.toml"),
    "--count": ("generate", "run", "--out", "made"),
    "--seed": ("generate", "run", "--count", "1", "--out", "made"),
    "--jobs": ("sweep", "table8"),
    "--dpi": ("figures", "run"),
    "--generated": ("audit", "run"),
    "--images": ("explain", "run"),
}
VALUES = (DIGITS, LONG, "-1", "nan", "inf", "1e400", "1.5", "", "0x10", "two")


@pytest.mark.parametrize("value", VALUES, ids=lambda text: text[:12] or "nothing")
@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_of_an_option(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE)
    (tmp_path / "run").mkdir()
    without_change(tmp_path, capsys, (option,), *OPTIONS[option], f"{option}={value}")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--steps", MANY), ("--devices", "1025"), ("--devices", "0"), ("--count", "1000001"),
     ("--seed", str(2**63)), ("--jobs", "1025"), ("--dpi", "35"), ("--dpi", "1201"),
     ("--generated", "1"), ("--generated", MANY), ("--images", "17"), ("--images", "0")],
)  # fmt: skip
def test_a_number_beyond_an_option(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE)
    (tmp_path / "run").mkdir()
    words = (option, value[:10], "not in the range")
    without_change(tmp_path, capsys, words, *OPTIONS[option], option, value)


@pytest.mark.parametrize("which", [DIGITS, LONG, "1e400", "-0", "1.0", "\u0662", "\u00b2", "0x1",
                                   "step-", f"step-{DIGITS}", "\0", "step-00000002/"],
                         ids=lambda text: ascii(text[:12]))  # fmt: skip
@pytest.mark.parametrize("command", ["evaluate", "generate", "run"])
def test_a_number_of_a_checkpoint(
    which: str, command: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE)
    shutil.copytree(finished, tmp_path / "run")
    arguments = {
        "evaluate": ("evaluate", "run", "--checkpoint", which),
        "generate": ("generate", "run", "--count", "1", "--out", "made", "--checkpoint", which),
        "run": ("run", "recipe.toml", "--from", "run", "--from-checkpoint", which),
    }[command]
    if which != "step-00000002/":  # a folder's name with a slash is its name
        without_change(tmp_path, capsys, ("checkpoint",), *arguments)


def test_more_ranks_than_images_of_a_batch_start_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    said = refused(capsys, "run", "recipe.toml", "--devices", "1000")
    assert "[run] batch_size: 4 images cannot be divided into 1000 equal parts" in said


def test_every_whole_number_of_a_built_in_part_has_bounds() -> None:
    """So that a slip of the keyboard takes no memory."""
    for part in installed().parts():
        if part.kind in ("command", "plugin") or part.distribution != "xraygan":
            continue
        for option in options_of(part.cls).values():
            if "integer" in option.type_text:
                assert "<" in option.type_text and ">" in option.type_text, (part.name, option)


@pytest.mark.parametrize("numbers", [MOST_PARAMETERS + 1, 10**15, 10**19])
def test_a_network_of_another_plugin_that_no_memory_has_room_for(
    numbers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is built without memory first, whoever's it is."""
    (tmp_path / "recipe.toml").write_text(WHOLE)
    recipe = load("recipe.toml")

    def build(choice: Any, *_: Any, **__: Any) -> nn.Module:
        return nn.Linear(1, numbers, bias=False)

    monkeypatch.setattr(graph_build, "build", build)
    with pytest.raises(UserError, match=r"\[generator\]: the network .*width = 4"):
        graph_build.dry_build(recipe, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 8 bytes")])
def test_no_memory_is_one_message(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error

    (tmp_path / "recipe.toml").write_text(WHOLE)
    monkeypatch.setattr("xraygan.recipe.loading.load", fail)
    words = ("not enough memory", "run.batch_size")
    without_change(tmp_path, capsys, words, "check", "recipe.toml")


def test_steps_that_are_some() -> None:
    assert [parse_step(t) for t in ("0", "7", "00000012", "9" * 12)] == [0, 7, 12, 10**12 - 1]
    assert not any(
        parse_step(t) for t in ("latest", "best", "", "-1", "9" * 13, "\u0661", "1 ", "1\n")
    )
