"""The page of a run in Chromium: it draws, it turns, it fits a phone, and it does without a script."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geopeft_cli.reports.run_page import RunFacts, run_page

driver = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "geopeft[browser]"')

PAINTED = """() => [...document.querySelectorAll("canvas")].map((canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let painted = 0, sum = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3]) { painted++; sum += i * (data[i] + 2 * data[i + 1]) % 9973; }
  }
  return [painted, sum, canvas.width];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of playwright, else of the system, without a window."""
    with driver.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path).exists()
        path = None if own else shutil.which("chromium") or shutil.which("google-chrome")
        if not own and path is None:
            pytest.skip("no Chromium here: playwright install chromium")
        found = playwright.chromium.launch(executable_path=path)
        yield found
        found.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``show(facts, **options)``: the page of a run, opened; what a browser complains of or asks for fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(facts: RunFacts, **options: Any) -> Any:
        file = tmp_path / "report.html"
        file.write_text(run_page(facts), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": {"width": 1000, "height": 800}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: None if request.url == file.as_uri() else complaints.append(request.url))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def painted(page: Any) -> list[list[int]]:
    """For every canvas: how many pixels are painted, a sum that other pixels would not have, and its width."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found: list[list[int]] = page.evaluate(PAINTED)
    return found


def test_a_cloud_is_drawn_and_turns(show: Callable[..., Any], run_facts: Callable[..., RunFacts]) -> None:
    page = show(run_facts())
    (first,) = painted(page)
    assert first[0] > 64 * 4
    canvas = page.locator("canvas")
    canvas.hover()
    page.mouse.down()
    page.mouse.move(600, 300, steps=2)
    page.mouse.up()
    (turned,) = painted(page)
    assert turned[1] != first[1]
    page.mouse.move(100, 100)
    assert painted(page) == [turned]  # no button, no turning
    canvas.press("ArrowLeft")
    assert painted(page) != [turned]
    canvas.dblclick()
    assert painted(page) == [first]


def test_truth_and_prediction_turn_together(show: Callable[..., Any], segmented: RunFacts) -> None:
    page = show(segmented)
    truth, prediction = painted(page)
    assert truth[0] == prediction[0] > 64 * 4  # the same points
    assert truth[1] != prediction[1]  # in other colors
    page.locator("canvas").first.press("ArrowUp")
    assert all(after[1] != before[1] for after, before in zip(painted(page), (truth, prediction), strict=True))


def test_dark_and_on_a_phone(show: Callable[..., Any], run_facts: Callable[..., RunFacts]) -> None:
    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 28)"
    phone = {"viewport": {"width": 360, "height": 700}, "device_scale_factor": 2, "color_scheme": "dark"}
    page = show(run_facts(classes=["c" * 60, *run_facts().classes[1:]]), **phone)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    ((count, before, width),) = painted(page)
    assert count > 0
    assert width > 360  # drawn at the resolution of the screen
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    assert painted(page)[0][1] != before


def test_without_a_script(show: Callable[..., Any], run_facts: Callable[..., RunFacts]) -> None:
    page = show(run_facts(), java_script_enabled=False)
    assert page.locator("canvas").count() == 0
    assert page.locator(".cloud svg").bounding_box()["width"] > 100
    assert not page.get_by_text("Drag to turn").is_visible()
    assert page.get_by_text("Weights kept: last of 3 epochs").is_visible()
