"""The pages of ``neurofleet serve`` in Chromium: ``pytest -m browser``."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anndata
import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from neurofleet.jobs.demo import make_input
from neurofleet.jobs.serve.access import Access, Role, Users
from neurofleet.jobs.serve.app import create_app
from neurofleet.jobs.serve.bundle import WEB
from tests.jobs.made_root import write_root
from tests.jobs.made_run import write_run
from tests.jobs.small_model import small_model
from tests.jobs.test_serve import OLD_RUNS, PASSWORD, write_fitted, write_status
from tests.learners.cells.made_cells import made_counts, written

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

SIZES = [(1300, 900), (400, 800)]
AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    """A folder with runs of all kinds, a finished fit with traces, the input of the demo, and a model beside it."""
    place = tmp_path_factory.mktemp("browser")
    root = place / "served"
    write_root(root / "all")
    write_fitted(root / "fitted")
    make_input(root / "rat")
    small_model(place)
    for learner in ("hippie", "neuprint"):
        shutil.copytree(OLD_RUNS / learner, place / "model" / learner)
    return root


@contextmanager
def serving(served: Path, access: Access) -> Iterator[str]:
    """Serve a folder, and yield the address of the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(str(served), access, models=(served.parent / "model",))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def session(browser, served) -> Iterator:
    """A page of a browser that has signed in, the address of the server, and what went wrong in its pages."""
    access = Access()
    with serving(served, access) as home:
        page = browser.new_context(viewport={"width": 1300, "height": 900}).new_page()
        page.goto(f"{home}/?token={access.link_token}")
        page.wait_for_url(f"{home}/")
        faults: list[str] = []
        page.on("console", lambda said: faults.append(said.text) if _is_ours(said) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: None if _own(asked.url, home) else faults.append(f"asked for {asked.url}"))
        yield page, home, faults


def _is_ours(said) -> bool:
    """Whether the console's message is about the page; the driver warns of screenshots of WebGL."""
    return said.type in ("error", "warning") and "GPU stall due to ReadPixels" not in said.text


def _own(url: str, home: str) -> bool:
    return urlsplit(url).scheme in ("data", "blob") or url.startswith(f"{home}/")


@pytest.fixture
def page(session) -> Iterator:
    """The page, and the address of the server; a test fails where the browser complained."""
    page, home, faults = session
    faults.clear()
    page.set_viewport_size({"width": 1300, "height": 900})
    yield page, home
    assert faults == []


MAP = "/populations?source=models:fitted/fit"
PAGES = [
    "/", "/?q=none", "/runs/fitted/fit", "/runs/all/sample", "/runs/all/models/sims", "/cell/a/fitted/fit", MAP,
    "/models", "/job", "/docs",
]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_axe_finds_nothing(page, path, scheme):
    """No page is wider than its window; names, contrast, headings, landmarks, and what else axe-core looks at."""
    if not AXE.is_file():
        pytest.skip("no axe-core here: npm ci --ignore-scripts in jobs/serve/web")
    page, home = page
    page.emulate_media(color_scheme=scheme)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        page.goto(home + path)
        page.wait_for_timeout(500)
        if path == "/docs":
            expect(page.locator(".opblock").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []


def violations(page) -> list:
    """Return what axe-core finds in a page."""
    page.evaluate(AXE.read_text())
    return page.evaluate("axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html]))")


def test_runs_are_filtered_as_one_types(page):
    page, home = page
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
    expect(page.locator("[data-part=rates] canvas")).to_be_visible()
    page.wait_for_timeout(500)  # pictures are drawn again when a scrollbar comes
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
    page.get_by_role("combobox", name="Colour", exact=True).select_option("seed")
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
    page.get_by_label("Other run").select_option("all/fits/second")
    expect(page.locator("#difference")).to_contain_text("is fitted/fit")


def test_the_demo_is_watched_to_its_end_without_loading_a_page_again(page, served):
    page, home = page
    page.goto(home + "/")
    command = [sys.executable, "-P", "-m", "neurofleet", "demo", "--out", str(served / "demo")]
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        row = page.locator("#runs tbody tr", has_text="demo/run")
        expect(row.locator(".state.running")).to_have_count(1, timeout=60_000)
        page.goto(home + "/runs/demo/run")
        expect(page.locator("#run > p .state.running")).to_have_count(1)
        expect(page.locator("#run")).to_contain_text("generation", timeout=60_000)
        expect(page.locator("#run > p .state.finished")).to_have_count(1, timeout=300_000)
    finally:
        assert demo.wait(120) == 0
    page.goto(home + "/cell/demo/demo/run")
    expect(page.locator("[data-part=traces] canvas")).to_be_visible()
    expect(page.locator("[data-part=chosen]")).to_contain_text("of 20 models shown")


def test_five_thousand_cells_are_named_and_downloaded(page, served, tmp_path):
    page, home = page
    query = written(made_counts(5000, seed=3, prefix="q"), tmp_path / "query.h5ad")
    page.goto(home + "/models")
    page.locator("main table a", has_text="model").first.click()
    page.locator("input[type=file]").set_input_files(query)
    page.get_by_role("button", name="Name the cells").click()
    expect(page.locator("#labels")).to_contain_text("of 5,000 cells are unknown", timeout=120_000)
    page.get_by_label("Cells are unknown").fill("0.9")
    expect(page.locator("#labels")).to_contain_text("below 0.90")
    assert not AXE.is_file() or violations(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="cells.h5ad").click()
    download.value.save_as(tmp_path / "named.h5ad")
    named = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert len(named) == 5000
    assert (named.obs["sims_class"].astype(str) == named.obs["cell_type"].astype(str)).mean() > 0.8
    assert 0 < named.obs["sims_unknown"].sum() < 5000

    pytest.importorskip("onnxruntime", reason="needs neurofleet[onnx]")
    page.goto(home + "/models")
    page.locator("main table a", has_text="model").first.click()
    page.get_by_role("link", name="Name cells in this browser").click()
    expect(page.get_by_text("The model is ready")).to_be_visible(timeout=90_000)
    page.locator("[data-part=cells]").set_input_files(query)
    expect(page.locator("[data-part=status]")).to_contain_text("5,000 cells of query.h5ad named", timeout=60_000)
    assert not AXE.is_file() or violations(page) == []
    row = page.locator("[data-part=rows] tr").first.inner_text().split("\t")
    assert row[1] == f"{(named.obs['sims_class'] == row[0]).sum():,}"


@pytest.mark.parametrize(
    ("learner", "file", "things"), [("hippie", "units.npz", "units"), ("neuprint", "recording.npz", "neurons")]
)
def test_units_and_recordings_are_named(page, learner, file, things):
    page, home = page
    page.goto(home + "/models")
    page.locator("main table a", has_text=re.compile(f"^{learner}$")).click()
    page.locator("input[type=file]").set_input_files(OLD_RUNS / "answers" / file)
    if learner == "neuprint":
        page.get_by_text("How it is read").click()
        page.get_by_label("As under").fill((OLD_RUNS / "answers" / "layout.yaml").read_text())
    page.get_by_role("button", name=f"Name the {things}").click()
    expect(page.locator("#labels")).to_contain_text(f"{things} are unknown below 0.00", timeout=120_000)
    expect(page.locator(".map-area canvas").first).to_be_visible()
    assert not AXE.is_file() or violations(page) == []


def test_a_file_that_is_none_is_refused_in_words(page, session, tmp_path):
    page, home = page
    for name, content, why in (("notes.docx", b"x", "ends in one of"), ("broken.h5ad", b"no HDF5", "broken.h5ad")):
        (tmp_path / name).write_bytes(content)
        page.goto(home + "/models")
        page.locator("main table a", has_text="model").first.click()
        page.locator("input[type=file]").set_input_files(tmp_path / name)
        page.get_by_role("button", name="Name the cells").click()
        expect(page.locator("[role=status], [role=alert]").filter(has_text=why)).to_be_visible(timeout=60_000)
    assert len(session[2]) == 1, "the browser says of itself that the first was refused"
    session[2].clear()


def test_a_user_without_the_role_is_refused(browser, served, tmp_path):
    users = Users(tmp_path / "users.json")
    users.add("vera", PASSWORD, Role.view)
    with serving(served, Access(users)) as home:
        page = browser.new_context().new_page()
        page.goto(home + "/job")
        page.get_by_label("Name").fill("vera")
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("navigation", name="Pages").get_by_role("link")).to_have_text(["Runs", "Populations"])
        for path in ("/job", "/models"):
            page.goto(home + path)
            expect(page.get_by_role("alert")).to_contain_text("vera has the role 'view'")


def test_a_job_is_drafted_changed_planned_run_and_cancelled(page, served):
    page, home = page
    page.goto(home + "/job")
    page.get_by_role("button", name="rat/").press("Enter")
    for name in ("cell.swc", "cell.nwb"):
        page.get_by_role("button", name=f"Add rat/{name}").press("Space")
    page.get_by_role("button", name="Draft", exact=True).click()
    text, fault = page.locator("#job-text"), page.locator("[data-part=fault]")
    expect(text).to_have_value(re.compile("morphology: rat/cell.swc"), timeout=60_000)
    page.get_by_label("name", exact=True).fill("mine")
    page.get_by_label("seeds", exact=True).press_sequentially("1, 2")
    expect(text).to_have_value(re.compile("name: mine\n(.|\n)*evolution: {seeds: '?1, 2'?}"))
    assert "# a guess" in text.input_value()
    text.fill(text.input_value().replace("dendrite: spiny", "dendrte: spiny"))
    expect(fault).to_contain_text("did you mean 'dendrite'?")
    text.fill(text.input_value().replace("dendrte: spiny", "dendrite: aspiny"))
    expect(fault).to_be_hidden()
    expect(page.get_by_role("combobox", name="dendrite", exact=True)).to_have_value("aspiny")
    page.get_by_label("Quick").check()
    page.get_by_role("button", name="Plan").click()
    expect(page.get_by_label("Answer")).to_contain_text("evaluations and", timeout=120_000)
    page.get_by_label("Quick").uncheck()
    page.get_by_label("Folder below").fill("jobs/mine")
    page.get_by_role("button", name="Run here").click()
    running = page.locator("#running tr", has_text="jobs/mine")
    expect(running.get_by_role("link")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Cancel jobs/mine").click()
    expect(running.locator(".state")).to_have_text("cancelled", timeout=60_000)
    assert (served / "jobs" / "mine" / "job.yaml").is_file()
    text.fill(text.input_value() + "evaluator: model:make\n")
    expect(page.locator("[data-part=fault]")).to_contain_text("one of the two")
