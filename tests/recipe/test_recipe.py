"""Recipes: found, extended, overridden, and every fault of one said at once."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from xraygan.cli import cli
from xraygan.errors import RecipeError, UserError
from xraygan.recipe.files import find_recipe, shipped
from xraygan.recipe.loading import load

SIX = {
    "quickstart", "ucgan_full", "ucgan_as_released", "baseline_resnet50", "cgan", "cgan_zhang",
}  # fmt: skip
RANDOM = ("classifier.weights=random",)


def faults(name: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as raised:
        load(name, [*RANDOM, *overrides])
    return raised.value.faults


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_the_papers_six_recipes_are_short() -> None:
    found = shipped()
    assert set(found) >= SIX
    assert sum(len(found[name].read_text().splitlines()) for name in SIX) < 250


def test_every_shipped_recipe_is_sound() -> None:
    for name in shipped():
        recipe = load(name)
        tables = recipe.resolved()
        assert tables["run"]["name"] == name
        assert recipe.choices.keys() >= {"data", "classifier"}


def test_ucgan_full_has_the_papers_values() -> None:
    tree = load("ucgan_full").resolved()
    weights = {name: score["weight"] for name, score in tree["scores"].items()}
    assert weights == {"inception": -0.25, "mmd": 3.0, "style_transfer": 0.001, "gram": 0.015}
    own = ("generator", "discriminator", "classifier")
    assert [tree[name]["weight"] for name in own] == [1.0, 0.5, 1.0]
    assert [tree[name]["optimizer"]["lr"] for name in own] == [0.0005, 0.001, 0.0005]
    assert {tree[name]["optimizer"]["weight_decay"] for name in own} == {0.001}
    assert (tree["labeler"]["threshold"], tree["labeler"]["weight"]) == (0.75, 0.125)
    assert (tree["run"]["batch_size"], tree["data"]["image_size"]) == (12, 128)
    assert tree["classifier"]["plugin"] == "resnet50"
    assert [phase["ratio"] for phase in tree["schedule"]["phases"]] == ["3:1", "1:3", "1:1"]


def test_a_recipe_is_found_by_path_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for reference in ("ucgan_full", "ucgan_full.toml", "recipes/ucgan_full.toml"):
        assert find_recipe(reference) == shipped()["ucgan_full"]
    own = write(tmp_path, "ucgan_full.toml", "")
    assert find_recipe("ucgan_full.toml").resolve() == own
    with pytest.raises(UserError, match="did you mean 'ucgan_full'"):
        find_recipe("ucgan_ful")


def test_an_option_may_be_given_before_its_plugin() -> None:
    plugin, option = "generator.plugin=cgan", "generator.latent_size=8"
    for over in ([plugin, option], [option, plugin]):
        assert load("quickstart", over).choices["generator"].options["latent_size"] == 8
    for over in ([plugin, "generator.width=8"], ["generator.width=8", plugin]):
        assert faults("quickstart", *over) == [
            "--set generator.width=8: [generator] width: unknown option; known: latent_size"
        ]
    assert "width" not in load("quickstart", [plugin]).choices["generator"].options


def test_every_fault_is_said_at_once_with_its_key_and_the_nearest_names() -> None:
    found = faults(
        "ucgan_full",
        "run.stepz=3",
        "run.batch_size=1",
        "data.sampling=often",
        "colour.red=1",
    )
    assert len(found) == 4
    for part in (
        "[run] stepz",
        "did you mean 'steps'",
        "[run] batch_size",
        "[data] sampling",
        "[colour]",
    ):
        assert any(part in fault for fault in found), part
    found = faults(
        "ucgan_full",
        "generator.plugin=dcgam",
        "labeler.treshold=0.5",
        "scores.mmd.formula=other",
        "extractors.vgg19.weights=nowhere.pth",
        "scores.gram.extractor=vgg91",
    )
    for part in (
        "did you mean 'dcgan'",
        "did you mean 'threshold'",
        '[scores.mmd] formula: expected "paper" | "released"',
        "[extractors.vgg19] weights: no such file: nowhere.pth",
        "no extractor is named 'vgg91'",
    ):
        assert any(part in fault for fault in found), (part, found)


def test_a_fault_names_the_file_that_set_the_key(tmp_path: Path) -> None:
    parent = write(tmp_path, "parent.toml", 'extends = "quickstart"\n[run]\nbatch_size = "many"\n')
    child = write(tmp_path, "child.toml", 'extends = "parent.toml"\n[run]\nseed = -1\n')
    found = faults(str(child))
    assert any(f.startswith(f"{parent}: [run] batch_size") for f in found)
    assert any(f.startswith(f"{child}: [run] seed") for f in found)
    found = faults(str(child), "run.seed=1", "run.batch_size=0")
    assert found and all(f.startswith("--set run.batch_size=0: ") for f in found)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["discriminator.plugin=cgan"], "'cgan' is conditional, but the generator 'dcgan' is"),
        (["labeler.plugin=condition"], "'condition' needs a conditional generator"),
        (["labeler.plugin=teacher"], "[classifier] average: is 0, and [labeler] needs an average"),
        (["data.label_policy=multi"], "[scores.inception]: needs exclusive classes"),
        (['scores.mmd.trains=["generater"]'], "did you mean 'generator'"),
        (["scores.generator.plugin=mmd"], "a score cannot be called 'generator'"),
        (["data.plugin=nothing"], "no dataset is named 'nothing'"),
        (["schedule.phases=[{ratio='1:1', until=0.5}]"], "the last must be 1.0"),
        (
            ["generator.width='64'"],
            "[generator] width: expected integer > 0 and <= 4096, found '64'",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(overrides: list[str], part: str) -> None:
    found = faults("ucgan_full", *overrides)
    assert any(part in fault for fault in found), found


def test_parts_that_a_recipe_lacks(tmp_path: Path) -> None:
    text = '[run]\nsteps = 1\n[data]\nplugin = "phantom"\n[generator]\nplugin = "dcgan"\n'
    found = faults_of(write(tmp_path, "a.toml", text))
    assert any("[discriminator]: is missing" in f for f in found)
    assert any("[objective]: is missing" in f for f in found)
    found = faults_of(write(tmp_path, "b.toml", "[run]\n"))
    assert any("[data]: is required" in f for f in found)
    assert any("set one of steps and epochs" in f for f in found)


def faults_of(path: Path) -> list[str]:
    with pytest.raises(RecipeError) as raised:
        load(path)
    return raised.value.faults


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[run\n", "not TOML"),
        ('extends = "nowhere"\n', "extends: no recipe at nowhere"),
        ("extends = 3\n", "expected the path of a recipe"),
        ('extends = "self.toml"\n', "in a circle: self.toml -> self.toml"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path, "self.toml", text)
    found = faults_of(path)
    assert part in found[0] and found[0].startswith(str(path))
    path.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in faults_of(path)[0]


def test_another_plugin_leaves_the_formers_options_behind() -> None:
    recipe = load("quickstart", ["data.plugin=zhang", "data.classes=all", "run.epochs=2"])
    assert recipe.choices["data"].options == {"val": "val"}  # its own
    assert recipe.tables.data.image_size == 64  # the core's word stays
    assert (recipe.tables.run.steps, recipe.tables.run.epochs) == (None, 2)


def test_false_drops_a_table_of_the_extended_recipe(tmp_path: Path) -> None:
    text = 'extends = "ucgan_full"\nlabeler = false\nscores.gram = false\nmetrics.fid = false\n'
    choices = load(write(tmp_path, "a.toml", text)).choices
    assert "labeler" not in choices and "scores.gram" not in choices
    assert "metrics.fid" not in choices and "metrics.auc" in choices


def test_the_command_line_exits_with_2_and_one_message(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", "[run]\nstepz = 1\n")
    for command in (["run", str(tmp_path / "a.toml")], ["check", "nowhere"]):
        with pytest.raises(UserError):
            CliRunner().invoke(cli, command, catch_exceptions=False, standalone_mode=False)


def test_the_resolved_recipe_stands_alone(tmp_path: Path) -> None:
    import tomli_w

    first = load("ucgan_as_released", ["data.root=somewhere"])
    text = tomli_w.dumps(first.resolved())
    again = load(write(tmp_path, "resolved.toml", text))
    assert tomllib.loads(tomli_w.dumps(again.resolved())) == tomllib.loads(text)
    assert Path(first.resolved()["data"]["root"]).is_absolute()


def test_a_score_needs_the_networks_that_it_reads_with_its_options() -> None:
    without = ["classifier=false", "data.root=there"]
    assert "classifier" not in load("projected", without).choices  # distances of pixels
    for score in ("energy_distance", "gram", "style_transfer"):
        for extractor in ("classifier", *([""] if score == "energy_distance" else [])):
            sets = [*without, f"scores.{score}.extractor='{extractor}'"]
            with pytest.raises(UserError) as caught:
                load("projected", sets)
            assert f"[scores.{score}]: needs a [classifier], and the recipe has none" in str(
                caught.value
            )


def test_a_classifier_that_would_learn_nothing_is_a_fault() -> None:
    [fault] = faults("baseline_resnet50", "classifier.weight=0")
    assert "[classifier] weight: is 0, and the recipe has nothing else" in fault
    load("cgan", [*RANDOM, "classifier.weight=0"])  # it learns from generated images
