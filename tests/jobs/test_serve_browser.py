"""The pages of ``neurofleet serve`` in Chromium: ``pytest -m browser``."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from neurofleet.jobs.serve.access import Access
from neurofleet.jobs.serve.app import create_app
from tests.jobs.made_root import write_root
from tests.jobs.made_run import write_run
from tests.jobs.test_serve import write_fitted, write_status

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

SIZES = [(1300, 900), (400, 800)]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    """A folder with runs of all kinds, and a finished fit with traces."""
    root = tmp_path_factory.mktemp("served")
    write_root(root / "all")
    write_fitted(root / "fitted")
    return root


@pytest.fixture(scope="module")
def address(served) -> Iterator[str]:
    """Where a server of it signs a browser in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    access = Access()
    server = uvicorn.Server(
        uvicorn.Config(create_app(str(served), access), port=port, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/?token={access.link_token}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def session(address) -> Iterator:
    """A browser that has signed in, the address of the server, and what went wrong in its pages."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        page = context.new_page()
        page.goto(address)
        home = address.partition("?")[0]
        page.wait_for_url(home)
        faults: list[str] = []
        page.on("console", lambda said: faults.append(said.text) if _is_ours(said) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: None if _own(asked.url, home) else faults.append(f"asked for {asked.url}"))
        page.on(
            "response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status > 399 else None
        )
        yield page, home.rstrip("/"), faults
        browser.close()


def _is_ours(said) -> bool:
    """Whether the console's message is about the page; the driver warns of screenshots of WebGL."""
    return said.type in ("error", "warning") and "GPU stall due to ReadPixels" not in said.text


def _own(url: str, home: str) -> bool:
    return url.startswith((home, "data:"))


@pytest.fixture
def page(session) -> Iterator:
    """The page, and the address of the server; a test fails where the browser complained."""
    page, home, faults = session
    faults.clear()
    yield page, home
    assert faults == []


MAP = "/populations?source=models:fitted/fit"
PAGES = ["/", "/?q=none", "/runs/fitted/fit", "/runs/all/sample", "/runs/all/models/sims", "/cell/a/fitted/fit", MAP]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_are_readable(page, path, scheme):
    """No page is wider than its window, every field has a name, and text stands out from its ground by 4.5 to 1."""
    page, home = page
    page.emulate_media(color_scheme=scheme)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        page.goto(home + path)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("h1").count() == 1
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate(CONTRAST) == []


UNNAMED = """() => [...document.querySelectorAll("input, select, button, a")].filter((each) =>
  !(each.labels?.length || each.textContent.trim() || each.getAttribute("aria-label"))).map((each) => each.outerHTML)"""

CONTRAST = """() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255, c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("main *, header *, footer *")].filter((each) =>
    each.checkVisibility() && !each.closest("svg")
    && [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((each) => {
      const [a, b] = [light(numbers(getComputedStyle(each).color)), light(ground(each))].sort((p, q) => q - p);
      return [(a + 0.05) / (b + 0.05), each.textContent.trim().slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


def test_runs_are_filtered_as_one_types(page):
    page, home = page
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(home + "/")
    page.get_by_label("Search").press_sequentially("fitted")
    expect(page.locator("#runs tbody tr")).to_have_count(1)
    page.get_by_label("State").select_option("finished")
    expect(page.locator("#runs [role=status]")).to_contain_text("1 of")


def test_a_run_is_watched_live(page, served):
    page, home = page
    page.goto(home + "/")
    before = page.locator("#runs tbody tr").count()
    store = write_run(served / "all" / "new", finished=False)
    write_status(store, 4, failed=1)
    expect(page.locator("#runs tbody tr")).to_have_count(before + 1, timeout=15_000)
    page.goto(home + "/runs/all/new")
    expect(page.locator("#run .state.failed")).to_have_count(1)
    write_status(store, 4, failed=3)
    expect(page.locator("#run .state.failed")).to_have_count(3, timeout=15_000)


def test_models_that_are_brushed_are_shown_everywhere(page):
    page, home = page
    page.goto(home + "/cell/a/fitted/fit")
    chosen = page.locator("[data-part=chosen]")
    expect(chosen).to_have_text("1 of 6 models shown")
    page.get_by_role("button", name="All", exact=True).click()
    expect(chosen).to_have_text("6 of 6 models shown")
    canvas = page.locator("[data-part=parameters] canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = page.evaluate(
        "fetch('/api/models/a/fitted/fit').then((r) => r.json()).then((m) => m.places.map((p) => p[0]))"
    )
    middle = (sorted(places)[2] + sorted(places)[3]) / 2
    left, right = min(230, 0.44 * box["width"]), box["width"] - 12
    page.mouse.move(box["x"] + left - 4, box["y"] + 29)
    page.mouse.down()
    page.mouse.move(box["x"] + left + middle * (right - left), box["y"] + 29, steps=4)
    page.mouse.up()
    expect(chosen).to_have_text("3 of 6 models shown")
    boxes = page.locator("[data-part=models] input")
    assert [boxes.nth(i).is_checked() for i in range(6)] == [place < middle for place in places]
    boxes.nth(0).focus()
    before = boxes.nth(0).is_checked()
    page.keyboard.press("Space")
    expect(chosen).to_have_text(f"{2 if before else 4} of 6 models shown")


def test_a_trace_is_zoomed(page):
    page, home = page
    page.goto(home + "/cell/a/fitted/fit")
    over = page.locator("[data-part=traces] .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    before = page.locator("[data-part=traces] canvas").screenshot()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 62, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert page.locator("[data-part=traces] canvas").screenshot() != before


def test_groups_on_a_map_are_compared(page):
    page, home = page
    page.goto(home + MAP)
    page.get_by_label("Colour", exact=True).select_option("seed")
    page.get_by_label("A by colour").select_option("1")
    page.get_by_label("B by colour").select_option("2")
    expect(page.locator("[data-part=groups]")).to_have_text("A: 6, B: 6 points")
    expect(page.locator("[data-part=tests] tbody tr").first).to_contain_text(".")
    page.get_by_role("button", name="Draw around group A").click()
    area = page.locator(".map-over")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for x, y in ((0.99, 0.01), (0.99, 0.99), (0.01, 0.99)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
    page.mouse.up()
    expect(page.locator("[data-part=groups]")).to_have_text("A: 12, B: 0 points")


def test_the_log_and_the_difference_are_asked_for(page):
    page, home = page
    page.goto(home + "/runs/fitted/fit")
    page.get_by_text("Difference to another run").click()
    page.get_by_label("Other run").select_option("all/fits/first")
    expect(page.locator("#difference")).to_contain_text("is fitted/fit")
