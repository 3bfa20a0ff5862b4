"""What browsers are sent: scripts and styles that esbuild makes of ``web/``, kept beside the hash of their sources."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

WEB, STATIC = Path(__file__).parent / "web", Path(__file__).parent / "static"
RECORD = STATIC / "bundle.json"
SOURCES = ("*.js", "*.css", "*.html", "package.json", "package-lock.json", "build.mjs")
PAGE_FILES = {
    "index.html": STATIC / "at_home.html",
    **{
        name: STATIC / name
        for name in (
            "app.css",
            "at_home.js",
            "at_home_worker.js",
            "icon.svg",
            "LICENCES.txt",
            "ort-wasm-simd-threaded.wasm",
        )
    },
}
"""What lies beside a model.onnx for a browser to name cells by it."""


def sources_digest() -> str:
    """Return the SHA-256 of what the bundle is made of: names and contents, and the versions of libraries."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in WEB.glob(pattern)}):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=1)
def bundle_digest() -> str:
    """Return what the addresses of scripts and styles end in, so that browsers do not keep old ones."""
    return str(json.loads(RECORD.read_text())["sources"])[:12]
