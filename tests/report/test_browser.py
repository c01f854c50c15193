"""The pages in a browser: nothing goes wrong, nothing is hidden, nothing is asked of a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from browser import NAMES, Browser, installed
from made_run import make, recipe

from xraygan.report.comparison import comparison, open_runs
from xraygan.report.html import write_page
from xraygan.report.run_report import write_report

PAGES = ("report", "comparison")

# What of a page has no box, or a picture that was not decoded.
UNSEEN = """(async () => {
  await Promise.all([...document.images].map((image) => image.decode()));
  const waits = "[hidden], details:not([open]) > :not(summary)";
  const seen = [...document.querySelectorAll("img, svg")].filter((el) => !el.closest(waits));
  const empty = (el) => {
    const box = el.getBoundingClientRect();
    return box.width < 5 || box.height < 5;
  };
  return {
    seen: seen.length,
    empty: seen.filter(empty).map((el) => el.outerHTML.slice(0, 200)),
    broken: [...document.images].filter((image) => !image.naturalWidth).map((i) => i.alt),
  };
})()"""

# Texts whose contrast with what is behind them is below 4.5.
FAINT = """(() => {
  const parse = (text) => {
    const [r, g, b, alpha] = text.match(/[0-9.e-]+/g).map(Number);
    const most = text.startsWith("color(srgb") ? 1 : 255;
    return { rgb: [r / most, g / most, b / most], alpha: alpha ?? 1 };
  };
  const over = (top, under) => top.rgb.map((c, i) => c * top.alpha + under[i] * (1 - top.alpha));
  const behind = (el) => {
    if (!el) return [1, 1, 1];
    const own = parse(getComputedStyle(el).backgroundColor);
    return own.alpha === 1 ? own.rgb : over(own, behind(el.parentElement));
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  let texts = 0;
  for (const el of document.body.querySelectorAll("*")) {
    const own = [...el.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !el.getClientRects().length) continue;
    texts += 1;
    const style = getComputedStyle(el);
    const under = behind(el);
    const ink = over(parse(el.closest("svg") ? style.fill : style.color), under);
    const [low, high] = [light(ink), light(under)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${el.tagName} ${el.textContent.slice(0, 40)}`);
  }
  return { texts, found };
})()"""

# The steps of the grids that are shown, and what the slider says.
SHOWN = """(() => {
  const slider = document.querySelector("input[type=range]");
  return {
    steps: [...document.querySelectorAll(".frames > :not([hidden])")].map((f) => +f.dataset.step),
    says: slider.closest("label").querySelector("output").textContent,
    spoken: slider.getAttribute("aria-valuetext"),
    drawn: slider.getClientRects().length,
  };
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report, and a comparison with a run that has other samples, weights and no evaluation."""
    folder = tmp_path_factory.mktemp("pages")
    one, other = make(folder / "one"), make(folder / "other")
    tables = recipe()
    tables["scores"]["mmd"]["weight"] = 0.0
    tables["run"]["name"] = "a run with quite a long name that does not end soon"
    (other / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    (other / "evaluation.json").unlink()
    for step in range(100, 800, 100):
        (other / "samples" / f"step-{step:08d}.png").unlink()
    page = comparison(open_runs([one, other]))
    return {
        "report": write_report(one),
        "comparison": write_page(folder / "comparison.html", page),
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = installed()
    if program is None:
        pytest.skip(f"no browser is installed under any of the names {', '.join(NAMES)}")
    profile = tmp_path_factory.mktemp("profile")
    found = Browser(program, profile)
    yield found
    found.close()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_page_shows_every_figure_and_says_nothing_wrong(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width)
    found = browser.run(UNSEEN)
    assert found["seen"] > 10
    assert (found["empty"], found["broken"]) == ([], [])
    # A window grows with a page that is too wide for it, so its own width says nothing.
    assert browser.run("document.scrollingElement.scrollWidth") <= width
    assert browser.said == []
    outside = [url for url in browser.requested if not url.startswith("data:image/png")]
    assert outside == [pages[name].as_uri()]


def test_the_browser_tells_of_what_goes_wrong(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
        "<img src=https://example.invalid/x.png><script>alert(1)</script>",
        encoding="utf-8",
    )
    browser.open(page)
    assert len(browser.said) >= 2  # the image and the script, both against the policy


@pytest.mark.parametrize("name", PAGES)
def test_keys_move_the_slider_and_the_grids(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name])
    last = browser.run(SHOWN)
    assert set(last["steps"]) == {1500}
    assert (last["says"], last["drawn"]) == ("step 1,500", 1)
    browser.run("document.querySelector('input[type=range]').focus()")
    browser.press("ArrowLeft", 37)
    before = browser.run(SHOWN)
    assert before["says"] == before["spoken"] == "step {:,}".format(max(before["steps"]))
    assert max(before["steps"]) < 1500
    browser.press("Home", 36)
    first = browser.run(SHOWN)
    # The other run has no grid before step 800: it shows its first, which says so itself.
    assert first["steps"] == ([100] if name == "report" else [100, 800])
    assert first["says"] == "step 100"
    named = browser.run("document.querySelector('input[type=range]').ariaLabel")
    assert named == "training step of the generated images"


@pytest.mark.parametrize("name", PAGES)
def test_text_is_legible_in_light_and_dark(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    papers = []
    for dark in (False, True):
        browser.open(pages[name], dark=dark)
        browser.run("document.querySelectorAll('details').forEach((el) => { el.open = true; })")
        found = browser.run(FAINT)
        assert found["texts"] > 100
        assert found["found"] == []
        papers.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(255, 255, 255)", "rgb(18, 23, 29)"]


@pytest.mark.parametrize("name", PAGES)
def test_page_prints_with_every_grid_and_no_slider(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name], dark=True)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
    browser.send("Emulation.setEmulatedMedia", media="print")
    boxes: Any = browser.run(
        "[...document.querySelectorAll('.frames > *')].map((f) => f.offsetHeight)"
    )
    slider = browser.run("document.querySelector('.slider').getClientRects().length")
    browser.send("Emulation.setEmulatedMedia", media="")
    assert len(boxes) >= 12
    assert min(boxes) > 20
    assert slider == 0


@pytest.mark.parametrize("name", PAGES)
def test_without_scripts_the_last_grid_is_shown(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages[name])
        shown = browser.run(SHOWN)
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert set(shown["steps"]) == {1500}
    assert shown["drawn"] == 0
