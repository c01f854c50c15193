"""What the documentation says is so: its commands, recipes, sweeps, code and links."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from malformed_images import NOISE, dicom
from PIL import Image
from pydantic import BaseModel
from xraygan_csv.dataset import Csv

from xraygan import sweep
from xraygan.cli import cli
from xraygan.parts.options import options_of
from xraygan.parts.registry import KINDS, installed
from xraygan.recipe import files, schema
from xraygan.recipe import loading as recipe

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_reference.py")
assert _spec is not None and _spec.loader is not None
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)
GENERATED = ROOT / "docs" / "reference"
WRITTEN = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent != GENERATED]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *WRITTEN]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(kind: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if found == kind:
                yield page, text


def commands() -> list[tuple[str, list[str]]]:
    """Every ``xraygan`` command of the pages, with the page's name."""
    found = []
    for page, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part.partition(" > ")[0], comments=True)
                if words and words[0].endswith("xraygan"):
                    found.append((page.name, words[1:]))
    return found


@pytest.mark.parametrize(
    ("page", "words"),
    commands(),
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_command_is_one(page: str, words: list[str]) -> None:
    """Its verb, options and recipe exist, and the keys that it sets are the recipe's."""
    context = click.Context(cli, **cli.context_settings)
    verb = cli.get_command(context, words[0])
    assert verb is not None
    arguments = verb.make_context(words[0], words[1:], parent=context).params
    sets = [text for text in arguments.get("overrides", ()) if not is_a_file(text)]
    if words[0] in ("run", "check") and arguments["recipe"] != "mine.toml":  # the reader's own
        recipe.load(arguments["recipe"], sets)
    elif words[0] == "sweep":
        sweep.load(
            arguments["sweep_file"], sets, "fast" if arguments["fast"] else arguments["preset"]
        )


def verbs() -> dict[str, click.Command]:
    """The verbs of the command line, and those that built-in plugins bring."""
    ours = [p for p in installed().parts("command") if p.distribution == "xraygan"]
    return {**cli.commands, **{part.name: part.cls for part in ours}}


def is_a_file(override: str) -> bool:
    """A path that stands for the reader's own file."""
    return override.endswith((".pth", ".safetensors", "=PATH"))


def test_the_recipes_on_the_pages_are_recipes(tmp_path: Path) -> None:
    for number, (page, text) in enumerate(blocks("toml")):
        if "[project.entry-points" in text or re.search(r"scores\.(mean_gap|my_distance)", text):
            continue  # tests of plugins and of their scaffold run these
        path = tmp_path / f"{number}.toml"
        path.write_text(text, encoding="utf-8")
        assert tomllib.loads(text), page
        if "[table]" in text:
            assert sweep.load(path).rows
        else:
            assert recipe.load(path).choices


def test_the_example_of_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's table, recipe and command, with images of the names that the table has."""
    text = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
    example = dict(reversed(BLOCK.findall(text)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(example["toml"], encoding="utf-8")
    (tmp_path / "own/images").mkdir(parents=True)
    (tmp_path / "own/images.csv").write_text(example["csv"], encoding="utf-8")
    table = Csv(tmp_path / "own").index()
    for path in table["path"]:
        file = tmp_path / "own" / path
        dicom(file, NOISE) if path.endswith(".dcm") else Image.fromarray(NOISE).save(file)
    small = [word for text in ("run.batch_size=2", "data.cache=cache") for word in ("--set", text)]
    done = CliRunner().invoke(cli, ["data", "prepare", "own.toml", *small])
    single = (table["labels"].map(len) == 1).sum()  # which the recipe keeps
    assert f"{single} images of 128 x 128 decoded" in done.output, done.exception


def test_every_link_leads_somewhere() -> None:
    for page in (*PAGES, *GENERATED.glob("*.md")):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if not path.startswith("http"):
                linked = page.parent / path if path else page
                assert linked.exists(), f"{page.name}: {target}"
                assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", text.lower()).strip().replace(" ", "-") for text in headings}


def test_the_committed_reference_is_current() -> None:
    made = reference.pages()
    assert {path.stem for path in GENERATED.glob("*.md")} == set(made)
    for name, text in made.items():
        current = (GENERATED / f"{name}.md").read_text(encoding="utf-8") == text
        assert current, f"docs/reference/{name}.md is not current: run `{reference.COMMAND}`"


def test_every_verb_recipe_and_sweep_is_on_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in (*files.shipped(), *sweep.shipped()):
        assert f"`{name}`" in text, name
    assert isinstance(cli, click.Group)
    for verb in verbs():
        assert f"xraygan {verb}" in text, verb


def test_the_reference_has_every_command_hook_key_and_option() -> None:
    pages = reference.pages()
    for verb, command in verbs().items():
        assert f"## `xraygan {verb}`" in pages["commands"]
        for option in command.params:
            assert isinstance(option, click.Argument) or option.opts[0] in pages["commands"]
    for kind, (hook, interface, made) in KINDS.items():
        assert f"`{hook}`" in pages["hooks"]
        if made:
            continue
        assert f"## {interface.removeprefix('xraygan.')}\n" in pages["python"]
        for part in installed().parts(kind):
            if part.distribution == "xraygan":
                text = (
                    pages["parts"].partition(f"### {kind} `{part.name}`")[2].partition("\n### ")[0]
                )
                assert part.summary in text
                assert all(f"| `{name}` |" in text for name in options_of(part.cls))
    titles = {re.split(r"[.\]]", title.strip("["))[0] for title in reference.TABLES}
    assert set(schema.RecipeConfig.model_fields) < titles
    models = {model for model, _, _ in reference.TABLES.values()}
    for model in vars(schema).values():
        if (
            isinstance(model, type)
            and issubclass(model, BaseModel)
            and model is not schema.RecipeConfig
        ):
            assert not model.model_fields or model in {*models, schema.Part}, model
            for key, field in model.model_fields.items():
                assert f"| `{key}` |" in pages["recipe"], (model, key)
                assert field.description, f"{model.__name__}.{key} has no description"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "tutorial/index.html", "reference/parts/index.html"):
        assert (tmp_path / "site" / page).is_file()


@pytest.mark.slow
def test_the_python_on_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for page, text in blocks("python"):
        exec(compile(text, str(page), "exec"), {})


def test_a_promise_names_a_test_that_is_there() -> None:
    named = re.findall(
        r"`(test_\w+\.py)(?:::(test_\w+))?`", (ROOT / "docs/reliability.md").read_text()
    )
    assert len(named) > 20
    for file, test in named:
        [path] = (ROOT / "tests").rglob(file)
        source = path.read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, (file, test)
