"""A local object store that speaks as much of S3 as pyarrow and obstore ask for, and that can be stopped."""

import hashlib
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET = "test-key", "test-secret"


class S3Server:
    """One bucket, called ``bucket``, in memory; its content stays while it is stopped.

    Parameters
    ----------
    conditions : bool
        Whether it obeys If-Match and If-None-Match, which not every store does.
    """

    def __init__(self, conditions: bool = True) -> None:
        self.conditions = conditions
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self.uploads = itertools.count(1)
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def uri(self, path: str = "run") -> str:
        """The URI of a folder."""
        return f"s3://{KEY}:{SECRET}@bucket/{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Bound", (_Handler,), {"store": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on, also those that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def running(self) -> bool:
        return self._server is not None


@contextmanager
def s3_server(conditions: bool = True) -> Iterator[S3Server]:
    """Serve on 127.0.0.1 within a ``with`` block."""
    server = S3Server(conditions)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: S3Server

    def do_HEAD(self) -> None:
        self._object(with_content=False)

    def do_GET(self) -> None:
        if self._key():
            self._object(with_content=True)
        else:
            self._list()

    def do_PUT(self) -> None:
        content, query = self._content(), self._query()
        if self._is_refused():
            return
        with self.store.lock:
            if "uploadId" in query:
                self.store.parts[query["uploadId"]][int(query["partNumber"])] = content
            else:
                there = self.store.objects.get(self._key())
                if self.store.conditions and self._differs(there):
                    self._answer(412, _error("PreconditionFailed"))
                    return
                self.store.objects[self._key()] = content
        self._answer(200, etag=_etag(content))

    def do_POST(self) -> None:
        self._content()
        if self._is_refused():
            return
        query, name = self._query(), escape(self._key())
        with self.store.lock:
            if "uploads" in query:
                upload = str(next(self.store.uploads))
                self.store.parts[upload] = {}
                text = f"<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>{name}</Key>"
                self._answer(200, f"{text}<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
                return
            parts = self.store.parts.pop(query["uploadId"])
            content = self.store.objects[self._key()] = b"".join(parts[number] for number in sorted(parts))
        text = f"<CompleteMultipartUploadResult><Bucket>bucket</Bucket><Key>{name}</Key><ETag>{escape(_etag(content))}"
        self._answer(200, f"{text}</ETag></CompleteMultipartUploadResult>")

    def do_DELETE(self) -> None:
        if self._is_refused():
            return
        with self.store.lock:
            self.store.objects.pop(self._key(), None)
        self._answer(204)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def _object(self, with_content: bool) -> None:
        if self._is_refused():
            return
        key = self._key()
        with self.store.lock:
            content = self.store.objects.get(key) if key else b""
        if content is None:
            self._answer(404, _error("NoSuchKey") if with_content else "")
            return
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        status = 206 if "Range" in self.headers else 200
        self._answer(status, part if with_content else b"", etag=_etag(content), length=len(part), of=len(content))

    def _list(self) -> None:
        if self._is_refused():
            return
        query = self._query()
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        with self.store.lock:
            keys = sorted(key for key in self.store.objects if key.startswith(prefix))
            sizes = {key: len(self.store.objects[key]) for key in keys}
        common = dict.fromkeys(
            prefix + key.removeprefix(prefix).partition(delimiter)[0] + delimiter
            for key in keys
            if delimiter and delimiter in key.removeprefix(prefix)
        )
        files = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>x</ETag><Size>{sizes[key]}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
            if not (delimiter and delimiter in key.removeprefix(prefix))
        )
        folders = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in common)
        self._answer(
            200,
            f"<ListBucketResult><Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys)}</KeyCount>"
            f"<MaxKeys>100000</MaxKeys><IsTruncated>false</IsTruncated>{files}{folders}</ListBucketResult>",
        )

    def _differs(self, there: bytes | None) -> bool:
        if self.headers.get("If-None-Match") == "*":
            return there is not None
        return "If-Match" in self.headers and (there is None or self.headers["If-Match"] != _etag(there))

    def _is_refused(self) -> bool:
        path = unquote(urlsplit(self.path).path)
        with self.store.lock:
            self.store.requests.append(f"{self.command} {path}")
        if not self.store.running:
            self.close_connection = True
            self.connection.close()
            return True
        if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self._answer(403, _error("InvalidAccessKeyId"))
        elif path.split("/")[1] != "bucket":
            self._answer(404, _error("NoSuchBucket"))
        else:
            return False
        return True

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).partition("/")[2].partition("/")[2]

    def _query(self) -> dict[str, str]:
        pairs = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in pairs.items()}

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        else:
            body = _unchunked(self.rfile)
            self.rfile.readline()
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = _unchunked(BytesIO(body))
        return body

    def _answer(
        self, status: int, content: str | bytes = b"", *, etag: str = "", length: int | None = None, of: int = 0
    ) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Last-Modified", formatdate(usegmt=True))
        if etag:
            self.send_header("ETag", etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes 0-{of - 1}/{of}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _unchunked(stream: IO[bytes]) -> bytes:
    """Chunks with their sizes in lines before them; signatures and trailers are skipped."""
    body = b""
    while size := int(stream.readline().partition(b";")[0] or b"0", 16):
        body += stream.read(size)
        stream.readline()
    return body


def _error(code: str) -> str:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
