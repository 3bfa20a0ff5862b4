"""The page that names cells in a browser, without a server of ours: ``pytest -m browser``."""

import io
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from playwright.sync_api import expect, sync_playwright

from neurofleet.learners.model_folder import load_model
from tests.jobs.small_model import small_model
from tests.learners.cells.made_cells import made_counts

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a small model, and the page of it in ``page``."""
    pytest.importorskip("onnxruntime", reason="needs neurofleet[onnx]")
    from neurofleet.jobs.learners.onnx_export import export_onnx

    place = tmp_path_factory.mktemp("at-home")
    export_onnx(small_model(place), place / "page")
    return place


@pytest.fixture(scope="module")
def page(place) -> Iterator:
    """The page on a plain web server; the test fails where the browser complains or asks another host."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(place / "page"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        faults: list[str] = []
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.context.on(
                "request",
                lambda asked: None if asked.url.startswith((home, "blob:", "data:")) else faults.append(asked.url),
            )
            page.goto(home)
            expect(page.get_by_text("The model is ready")).to_be_visible(timeout=60_000)
            yield page
            browser.close()
        server.shutdown()
        expected = re.compile(r".*GPU stall due to ReadPixels|HDF5-DIAG|\s*(#\d+|major|minor):", re.S)
        assert [fault for fault in faults if not expected.match(fault)] == []


def named(page, file: Path) -> pd.DataFrame:
    """Name the cells of a file and return the table that is offered."""
    page.locator("[data-part=cells]").set_input_files(file)
    expect(page.locator("[data-part=download]")).to_be_enabled(timeout=60_000)
    with page.expect_download() as waiting:
        page.locator("[data-part=download]").click()
    return pd.read_csv(io.BytesIO(Path(waiting.value.path()).read_bytes()), index_col="cell_id")


def test_labels_are_those_of_predict(page, place, tmp_path):
    """Counts in X, sparse, of a file that lacks genes; and in raw, dense, with the names in a column."""
    cells = made_counts(500, seed=5, prefix="query, ")
    cells = cells[:, ~cells.var_names.isin(["Gene3", "Gene10", "Gene11"])].copy()
    expected = load_model(place / "model").predict(cells.copy()).obs
    cells.write_h5ad(tmp_path / "sparse.h5ad")
    cells.X = cells.X.toarray()
    cells.var["symbol"] = pd.Categorical(cells.var_names)
    cells.var_names = [f"ENSG{i}" for i in range(cells.n_vars)]
    cells.raw = cells
    cells.X = np.log1p(cells.X)
    cells.write_h5ad(tmp_path / "dense.h5ad")
    for name in ("sparse", "dense"):
        table = named(page, tmp_path / f"{name}.h5ad")
        assert list(table.index) == list(cells.obs_names)
        assert (table["label"] == expected["sims_class"].astype(str)).all()
        np.testing.assert_allclose(table["prob_0"], expected["sims_prob"], atol=1e-5)
        np.testing.assert_allclose(table["distance"], expected["sims_distance"], rtol=1e-3)
        assert "57 of the model's genes are there, 3 are missing" in page.locator("[data-part=genes]").inner_text()
    assert "counts of raw; names of genes: symbol" in page.locator("[data-part=genes]").inner_text()
    expect(page.locator("[data-part=map] canvas").first).to_be_visible()
    page.locator("[data-part=below]").fill("0.9")
    unknown = int((expected["sims_prob"] < 0.9).sum())
    assert page.locator("[data-part=rows] tr").last.inner_text().split("\t")[:2] == ["unknown", f"{unknown:,}"]
    for width in (1300, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("[data-part=model]").set_input_files(place / "page" / "model.onnx")
    expect(page.get_by_text("The model is ready")).to_be_visible(timeout=60_000)
    expect(page.locator("[data-part=found]")).to_be_hidden()
    expect(page.locator("[data-part=download]")).to_be_disabled()
    assert page.locator("[data-part=cells]").input_value() == ""


def test_wrong_files_are_refused_in_words(page, tmp_path):
    (tmp_path / "damaged.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    (tmp_path / "words.h5ad").write_text("no cells")
    logs, other = made_counts(30), made_counts(30)
    logs.X = logs.X.log1p()
    other.var_names = [f"AT1G{i}" for i in range(other.n_vars)]
    by_genes = made_counts(30)
    by_genes.X = sp.csc_matrix(by_genes.X)
    refusals = {
        "damaged": "may be damaged",
        "words": "is no HDF5 file",
        "logs": "holds no counts",
        "other": "shares none of the model's 60 genes",
        "by_genes": "tocsr()",
    }
    cells: dict[str, anndata.AnnData] = {"logs": logs, "other": other, "by_genes": by_genes}
    for name, words in refusals.items():
        if name in cells:
            cells[name].write_h5ad(tmp_path / f"{name}.h5ad")
        page.locator("[data-part=cells]").set_input_files(tmp_path / f"{name}.h5ad")
        expect(page.locator("[data-part=fault]")).to_contain_text(words, timeout=60_000)
