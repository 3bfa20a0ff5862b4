"""Find recordings of the DANDI archive."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from neurofleet.errors import InputError
from neurofleet.http_download import DownloadError, Web
from neurofleet.neurosim.exchange.archive_folder import Found, RemoteFile

MOST_ASSETS = 10_000


def find_assets(web: Web, dandiset: str, version: str, path: str) -> Found:
    """Ask the archive for a file, or for all NWB files of a folder.

    Parameters
    ----------
    web : Web
        The archive's API.
    dandiset, version : str
        Six digits; "" takes the latest published version, else the draft.
    path : str
        Of a file or a folder in the dandiset.

    Raises
    ------
    InputError
        There is no such dandiset, version or NWB file.
    DownloadError
        The server does not answer, or answers something else.
    """
    version = version or _version(web, dandiset)
    route = f"/api/dandisets/{dandiset}/versions/{quote(version)}/assets/"
    folder = path.rstrip("/") + "/"
    assets = [asset for asset in _assets(web, route, path) if asset["path"] == path or asset["path"].startswith(folder)]
    recordings = [asset for asset in assets if asset["path"].endswith(".nwb") and asset.get("zarr") is None]
    if not recordings:
        others = ", ".join(asset["path"] for asset in assets[:3]) or _nearest(web, route, path)
        raise InputError(
            f"dandi:{dandiset}/{path}: expected an NWB file or a folder with NWB files in version {version} of the "
            f"dandiset, found {others or 'none'}. Copy the path from the dandiset's files on the archive's page."
        )
    files, notes = [], []
    for asset in sorted(recordings, key=lambda one: one["path"]):
        metadata = web.json(f"{route}{asset['asset_id']}/")
        digests = metadata.get("digest") if isinstance(metadata, dict) else None
        sha256 = str((digests or {}).get("dandi:sha2-256", ""))
        if not sha256:
            notes.append(f"the archive has no SHA-256 of {asset['path']} yet; only its length was compared.")
        asset_id = str(asset["asset_id"])
        files.append(
            RemoteFile(asset["path"], asset_id, "recording", f"/api/assets/{quote(asset_id)}/download/", sha256)
        )
    size = sum(int(asset.get("size", 0)) for asset in recordings)
    summary = f"{len(files)} file{'s' * (len(files) > 1)} of version {version}, {size / 1e6:,.1f} MB"
    return Found(summary, {"dandiset": dandiset, "version": version}, tuple(files), notes=tuple(notes))


def _version(web: Web, dandiset: str) -> str:
    try:
        answer = web.json(f"/api/dandisets/{dandiset}/")
    except DownloadError as error:
        if "404" not in str(error):
            raise
        raise InputError(f"dandi:{dandiset}: the archive has no public dandiset of this number ({error})") from error
    for key in ("most_recent_published_version", "draft_version"):
        version = answer.get(key) if isinstance(answer, dict) else None
        if version:
            return str(version["version"])
    raise DownloadError(f"{web.address}: expected the versions of dandiset {dandiset}, found none in the answer.")


def _assets(web: Web, route: str, path: str) -> Iterator[dict[str, Any]]:
    """All assets whose path begins with `path`, from all pages of the answer."""
    page = 1
    count = 0
    while True:
        answer = web.json(f"{route}?{urlencode({'path': path, 'page': page, 'page_size': 1000})}")
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or not all(isinstance(one.get("path"), str) for one in results):
            raise DownloadError(f"{web.address}{route}: expected a list of assets, found something else.")
        yield from results
        count += len(results)
        if not answer.get("next") or not results:
            return
        if count > MOST_ASSETS:
            raise InputError(f"{path}: more than {MOST_ASSETS:,} files. Name a folder with fewer.")
        page += 1


def _nearest(web: Web, route: str, path: str) -> str:
    """Names of files beside the one that is not there."""
    beside = str(PurePosixPath(path).parent)
    answer = web.json(f"{route}?{urlencode({'path': '' if beside == '.' else beside, 'page_size': 3})}")
    names = [one.get("path", "") for one in answer.get("results", [])] if isinstance(answer, dict) else []
    return f"beside it {', '.join(names)}" if names else ""
