"""Where a reviewer has the generated images of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from xraygan.verify.places import Place, generated_place, study_of


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


@pytest.mark.parametrize(
    ("table", "root", "given", "expected"),
    [
        ("old/generated/generated.csv", "old/generated", "",
         ("study/generated/generated.csv", "study/generated")),
        ("old/filtered/distance-0.5-20.csv", "old/generated", "",
         ("study/filtered/distance-0.5-20.csv", "study/generated")),
        # images of a folder, of which a study has the tables of filtered ones
        ("vendor/labels.csv", "vendor", "", ("vendor/labels.csv", "vendor")),
        ("vendor/labels.csv", "vendor", "mine", ("mine/labels.csv", "mine")),
        ("tables/other.csv", "vendor", "mine", ("tables/other.csv", "mine")),
        ("old/filtered/distance-0.5-20.csv", "vendor", "mine",
         ("study/filtered/distance-0.5-20.csv", "mine")),
        ("vendor/filtered/other.csv", "vendor/filtered", "",
         ("vendor/filtered/other.csv", "vendor/filtered")),
    ],
)  # fmt: skip
def test_generated_images_are_found(
    tmp_path: Path, table: str, root: str, given: str, expected: tuple[str, str]
) -> None:
    files(
        tmp_path,
        "study/generated/generated.csv", "study/filtered/distance-0.5-20.csv", "mine/labels.csv",
    )  # fmt: skip
    overrides = [f"data.root={tmp_path}"]
    if given:
        overrides.append(f"data.generated.root={tmp_path / given}")
    found = generated_place(
        Place(tmp_path / table, tmp_path / root), tmp_path / "study", tuple(overrides)
    )
    assert found == Place(*(tmp_path / name for name in expected))


def test_the_study_of_a_run_is_known_by_its_folder(tmp_path: Path) -> None:
    files(tmp_path, "study/utility.json", "sweep/test/runs/a/recipe.toml")
    assert study_of(tmp_path / "study/test/runs/a") == tmp_path / "study"
    assert study_of(tmp_path / "study/choice/runs/a") == tmp_path / "study"
    assert study_of(tmp_path / "study/more/runs/a") is None
    assert study_of(tmp_path / "sweep/test/runs/a") is None
