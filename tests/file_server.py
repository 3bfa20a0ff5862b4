"""A local web server with the manners, good and bad, of those that data lie on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server holds, and how it behaves.

    ``cut_after``: bytes after which an answer breaks off, one entry an answer. ``sent``: bytes of each answer.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # Content-Disposition
    redirects: dict[str, str] = field(default_factory=dict)
    etags: bool = True
    cut_after: list[int] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    address: str = ""

    def etag(self, path: str) -> str:
        return f'"{hash(self.files[path]):x}"'


@contextmanager
def serve(files: FileServer) -> Iterator[FileServer]:
    """Serve files on 127.0.0.1 within a ``with`` block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in files.redirects:
                self.send_response(302)
                self.send_header("Location", files.redirects[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if path not in files.files:
                self.send_error(404)
                return
            content = files.files[path]
            first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            if files.etags:
                self.send_header("ETag", files.etag(path))
            if path in files.names:
                self.send_header("Content-Disposition", f'attachment; filename="{files.names[path]}"')
            self.send_header("Content-Length", str(len(content) - first))
            self.send_header("Connection", "close")
            self.end_headers()
            end = first + files.cut_after.pop(0) if files.cut_after else len(content)
            try:
                self.wfile.write(content[first:end])
            except OSError:
                return  # who only looked at the headers has gone
            files.downloads.append(path)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
