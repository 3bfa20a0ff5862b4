"""A local server with the routes of the Allen Institute's, DANDI's and NeuroMorpho's, and the faults of any server."""

import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What was asked: the model of a query or the number of a file, and from which byte on."""

    what: str
    first: int


@dataclass
class Database:
    """What the server holds and how it behaves.

    ``cut_after``: bytes after which an answer breaks off, one entry an answer. ``fail``: status codes of the
    next answers. ``slow_s``: pause after each 100,000 bytes. ``answers``: path -> what it answers as JSON, or a
    function of the query. ``sent_on``: path -> another. Files are kept by number, or by path.
    """

    cells: dict[int, dict] = field(default_factory=dict)
    models: list[dict] = field(default_factory=list)
    files: dict[int | str, bytes] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    sent_on: dict[str, str] = field(default_factory=dict)
    etags: bool = True
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    fail: list[int] = field(default_factory=list)
    retry_after: str = ""
    redirect: str = ""
    short_length: int = 0
    slow_s: float = 0.0
    asked: list[Request] = field(default_factory=list)
    address: str = ""

    def add(self, number: int, nwb: bytes | None, swc: bytes | None, **row) -> None:
        ids = {}
        for key, content in (("erwkf__id", nwb), ("nrwkf__id", swc)):
            ids[key] = None if content is None else 1000 + len(self.files)
            if content is not None:
                self.files[ids[key]] = content
        name = {"specimen__id": number, "specimen__name": f"Cux2-CreERT2;Ai14-{number}"}
        self.cells[number] = name | {"tag__dendrite_type": "spiny", "line_name": "Cux2"} | ids | row

    def add_model(self, number: int, model: int, template: int, fit: bytes) -> None:
        self.files[model + 1] = fit
        files = [{"id": model + 1, "well_known_file_type": {"name": "NeuronalModelParameters"}}]
        self.models.append(
            {
                "id": model,
                "specimen_id": number,
                "neuronal_model_template_id": template,
                "well_known_files": files,
            }
        )

    @property
    def downloads(self) -> list[Request]:
        return [request for request in self.asked if request.what.isdigit() or request.what in self.files]

    def add_dandiset(self, number: str, version: str, assets: Mapping[str, bytes], digests: bool = True) -> None:
        """Assets by path, as the API of the DANDI archive has them; two a page."""
        self.answers[f"/api/dandisets/{number}/"] = {
            "identifier": number,
            "most_recent_published_version": {"version": version},
            "draft_version": {"version": "draft"},
        }
        rows = []
        for path, content in assets.items():
            asset = hashlib.sha1(path.encode()).hexdigest()
            rows.append({"asset_id": asset, "path": path, "size": len(content), "zarr": None})
            self.sent_on[f"/api/assets/{asset}/download/"] = f"/blobs/{asset}"
            self.files[f"/blobs/{asset}"] = content
            digest = {"dandi:sha2-256": hashlib.sha256(content).hexdigest()} if digests else {"dandi:dandi-etag": "x-1"}
            self.answers[f"/api/dandisets/{number}/versions/{version}/assets/{asset}/"] = {
                "path": path,
                "digest": digest,
            }

        def listed(query: Mapping[str, list[str]]) -> dict:
            found = [row for row in rows if row["path"].startswith(query.get("path", [""])[0])]
            page = int(query.get("page", ["1"])[0])
            more = f"{self.address}/?page={page + 1}" if len(found) > 2 * page else None
            return {"count": len(found), "next": more, "previous": None, "results": found[2 * page - 2 : 2 * page]}

        self.answers[f"/api/dandisets/{number}/versions/{version}/assets/"] = listed

    def add_neuron(self, name: str, archive: str, swc: bytes) -> None:
        """A neuron of NeuroMorpho.Org."""
        self.answers[f"/api/neuron/name/{name}"] = {
            "neuron_id": 7,
            "neuron_name": name,
            "archive": archive,
            "species": "mouse",
            "brain_region": ["neocortex", "layer 5"],
        }
        self.files[f"/dableFiles/{archive.lower()}/CNG version/{name}.CNG.swc"] = swc


@contextmanager
def serve(database: Database) -> Iterator[Database]:
    """Serve `database` at ``database.address`` within the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            if database.redirect:
                self._send(302, b"", {"Location": database.redirect})
            elif parts.path in database.sent_on:
                self._send(302, b"", {"Location": database.sent_on[parts.path]})
            elif (path := urllib.parse.unquote(parts.path)) in database.answers:
                database.asked.append(Request(path, 0))
                answer = database.answers[path]
                answer = answer(urllib.parse.parse_qs(parts.query)) if callable(answer) else answer
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            elif path in database.files:
                self._file(path)
            elif parts.path == "/api/v2/data/query.json":
                self._query(urllib.parse.parse_qs(parts.query)["criteria"][0])
            elif found := re.fullmatch(r"/api/v2/well_known_file_download/(\d+)", parts.path):
                self._file(int(found[1]))
            else:
                self._send(404, b"no such route", {})

        def _query(self, criteria: str) -> None:
            model = re.match(r"model::(\w+),rma::criteria,", criteria)[1]
            database.asked.append(Request(model, 0))
            if self._fails():
                return
            key, value = re.search(r"\[(\w+)\$eq(\d+)\]", criteria).groups()
            rows = list(database.cells.values()) if model == "ApiCellTypesSpecimenDetail" else database.models
            found = [row for row in rows if row.get(key) == int(value)]
            answer = {"success": True, "id": 0, "start_row": 0, "num_rows": len(found), "msg": found}
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def _file(self, number: int | str) -> None:
            asked = self.headers.get("Range")
            first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
            database.asked.append(Request(str(number), first))
            if self._fails():
                return
            content = database.files.get(number)
            if content is None:
                self._send(404, b"gone", {})
                return
            etag = f'"{hash(content) & 0xFFFFFF:x}"'
            headers = {"ETag": etag} if database.etags else {}
            condition = self.headers.get("If-Range")
            if not first or not database.ranges or (condition is not None and condition != etag):
                self._send(200, content, headers)
            elif first >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            else:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                self._send(206, content[first:], headers)

        def _fails(self) -> bool:
            if not database.fail:
                return False
            headers = {"Retry-After": database.retry_after} if database.retry_after else {}
            self._send(database.fail.pop(0), b"not now", headers)
            return True

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            cut = database.cut_after.pop(0) if database.cut_after and status in (200, 206) else None
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + database.short_length))
            self.end_headers()
            for first in range(0, len(content[:cut]), 100_000):
                self.wfile.write(content[:cut][first : first + 100_000])
                if database.slow_s:
                    time.sleep(database.slow_s)
            if cut is not None or database.short_length:
                self.close_connection = True

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    database.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield database
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
