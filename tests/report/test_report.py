"""The report: one page that stands alone, says everything, and says what is missing."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tomli_w
from made_run import (
    CLASSES,
    FILES,
    HOSTILE,
    METRICS,
    TERMS,
    make,
    recipe,
)
from PIL import Image

from xraygan import UserError
from xraygan.report.run_report import write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "run")


class Page(HTMLParser):
    """A page that was parsed strictly: elements with their attributes, and the text of each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        self.part(tag)
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open  # elsewhere HTML ignores the slash
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.part(tag)

    def part(self, tag: str) -> None:
        """Keep apart what stands in different boxes."""
        if tag not in ("code", "small", "script", "style"):
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for tag in {"html", *self.open}:
            self.text[tag] = self.text.get(tag, "") + data

    @property
    def said(self) -> str:
        """The text of the header and the sections, its white space made one."""
        return " ".join((self.text["header"] + self.text["main"]).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_page_is_well_formed_and_loads_nothing(run: Path) -> None:
    page = Page(write_report(run))
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "poster"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(name) or "#")
    assert len(page.all("style")) == 1  # a figure's own would hold for the whole page
    assert "@import" not in page.text["style"]
    assert "url(" not in page.text["style"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_policy_lets_the_slider_run_and_no_other_script(run: Path) -> None:
    page = Page(write_report(run))
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    digest = base64.b64encode(hashlib.sha256(page.text["script"].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_page_names_every_metric_term_and_class(run: Path) -> None:
    said = Page(write_report(run)).said
    for name in [*METRICS, *TERMS, *CLASSES, "pseudo_label_kept"]:
        assert name in said
    assert "1,500 of 3,000 steps with seed 7 on phantom" in said
    assert "1,234 train images of 56 patients, 6 test images of 3 patients" in said
    assert "Area under the ROC curve (AUC)" in said
    assert "0.833 0.500 to 1.000 6 argmax" in said
    assert "Intervals are over patients, from 1,000 bootstrap resamples" in said
    assert "Median: 80.25 real images per second" in said
    assert "Missing" not in said


def test_panels_say_weight_and_audience(run: Path) -> None:
    said = Page(write_report(run)).said
    assert "mmd weight 0.25 · trains generator, classifier" in said
    assert "classification on real images · weight 2 · trains classifier" in said
    assert "style_transfer weight 0.0001 · trains as the score declares no value" in said


def test_names_from_files_stay_text(run: Path) -> None:
    page = Page(write_report(run))
    assert len(page.all("script")) == 1
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert f"ROC and precision-recall curve of {HOSTILE}" in labels
    assert HOSTILE not in page.text["script"]
    # In the data's table, the metrics' name and note, the curves, the matrix, the log, the recipe.
    assert page.said.count(HOSTILE) >= 6
    assert page.text["footer"] == "Research software, not a diagnostic device."


def test_curves_and_confusion_matrix_are_those_of_the_predictions(run: Path) -> None:
    page = Page(write_report(run))
    assert "Effusion AUC 1.000 · average precision 1.000 · 2 of 6 images positive" in page.said
    # One of two found, no false alarm: AUC (1 + 0.5) / 2; AP 0.5 * 1 + 0.5 * 2 / 6.
    assert "Hernia AUC 0.750 · average precision 0.667" in page.said
    assert "Absent/never: no curves: the test split has 0 of 6 images positive" in page.said
    rows = re.findall(r"--share: ([0-9.]+)", " ".join(a.get("style") or "" for a in page.all("td")))
    expected: list[list[float]] = [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert [float(share) for share in rows] == [share for row in expected for share in row]


def test_no_confusion_matrix_where_an_image_can_have_several_classes(run: Path) -> None:
    tables = recipe()
    tables["data"]["label_policy"] = "multi"
    (run / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    said = Page(write_report(run)).said
    assert "There is none: an image can have several of the classes" in said
    assert "Rows: the true class" not in said


def test_slider_holds_a_few_grids_and_shows_the_last_without_script(run: Path) -> None:
    page = Page(write_report(run))
    generated = [i["alt"] for i in page.all("img") if (i["alt"] or "").startswith("generated")]
    assert len(generated) == 12
    assert (generated[0], generated[-1]) == (
        "generated images at step 100",
        "generated images at step 1500",
    )
    shown = [attributes for attributes in page.all("div") if "hidden" in attributes]
    assert len(shown) == 11
    assert "12 of 15 grids" in page.said


def test_wide_grids_are_scaled_down(run: Path) -> None:
    Image.new("L", (4000, 2000)).save(run / "samples" / "real.png")
    (real,) = [i["src"] for i in Page(write_report(run)).all("img") if i["alt"] == "real images"]
    assert real is not None
    with Image.open(io.BytesIO(base64.b64decode(real.partition(",")[2]))) as image:
        assert image.size == (1400, 700)


@pytest.mark.parametrize("name", FILES)
def test_report_names_a_file_that_is_missing(run: Path, name: str) -> None:
    (run / name).unlink()
    said = Page(write_report(run)).said
    assert f"Missing from the run directory, and so from this report: {name} " in said


def test_report_names_the_files_that_cannot_be_read(run: Path) -> None:
    broken = [name for name in FILES if name not in ("metrics.jsonl", "run.log")]
    for name in broken:
        (run / name).write_text("label:Effusion\n[1\n", encoding="utf-8")
    said = Page(write_report(run)).said
    for name in broken:
        assert f"{name} (cannot be read: " in said


def test_run_that_has_just_begun(run: Path) -> None:
    for name in FILES[1:]:
        (run / name).unlink()
    for path in (run / "samples").iterdir():
        path.unlink()
    said = Page(write_report(run)).said
    assert "0 of 3,000 steps with seed 7 on phantom. Not evaluated." in said
    assert "samples/step-*.png" in said


def test_networks_that_the_recipe_has_not_are_not_missed(run: Path) -> None:
    tables = {key: recipe()[key] for key in ("run", "data")}
    (run / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    (run / "predictions.csv").unlink()
    shutil.rmtree(run / "samples")
    said = Page(write_report(run)).said
    assert "This run has no generator" in said
    assert "This run has no classifier" in said
    assert "Missing" not in said


def test_second_report_replaces_the_first(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first  # the same run, the same page
    (run / "run.log").write_text("WARNING late\n", encoding="utf-8")
    path = write_report(run)
    assert path == run / "report.html"
    assert "late" in Page(path).said
    kept = {name.partition("/")[0] for name in FILES}
    assert {entry.name for entry in run.iterdir()} == kept | {"bootstrap.csv", "report.html"}


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run directory \(it has no recipe.toml\)"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reporting_does_not_load_torch(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from xraygan.report.run_report import write_report; "
        "write_report(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, run], timeout=120).returncode == 0
