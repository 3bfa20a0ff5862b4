"""Conditional writes of one object: in S3, in servers that speak its language, and in Google Cloud Storage."""

from __future__ import annotations

import configparser
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import GCSStore, S3Store
from pyarrow.fs import FileSystem

from neurofleet.cluster.store.lease_object import Changed, Seen
from neurofleet.cluster.store.outages import reason_of

ANSWER_LIMIT_S = 10.0


class ConditionalObject:
    """A `LeaseObject` whose store refuses a write that names another version than there is."""

    atomic = True

    def __init__(self, store: Any, path: str) -> None:
        self._store = store
        self._path = path

    def read(self) -> Seen | None:
        try:
            answer = obstore.get(self._store, self._path)
            return Seen(bytes(answer.bytes()), _version(answer.meta))
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise _translated(error) from error

    def write(self, content: bytes, before: Seen | None) -> Seen:
        mode: Any = "create" if before is None else before.version
        try:
            answer = obstore.put(self._store, self._path, content, mode=mode, use_multipart=False)
            return Seen(content, _version(answer))
        except (AlreadyExistsError, PreconditionError) as error:
            raise Changed from error
        except FileNotFoundError as error:
            if before is not None:
                raise Changed from error
            raise FileNotFoundError(reason_of(error)) from error
        except BaseError as error:
            raise _translated(error) from error


def conditional_object(root: str, filesystem: FileSystem, name: str) -> ConditionalObject:
    """Return an object of a folder, which was read once.

    Parameters
    ----------
    root : str
        The folder, a URI of `pyarrow.fs`.
    filesystem : FileSystem
        That of the URI.
    name : str

    Raises
    ------
    ValueError
        The store is neither S3 nor Google's.
    OSError
        It does not answer, or refuses us.
    """
    uri = urlsplit(root)
    query = dict(parse_qsl(uri.query))
    how: dict[str, Any] = {
        "client_options": {
            "timeout": timedelta(seconds=ANSWER_LIMIT_S),
            "connect_timeout": timedelta(seconds=ANSWER_LIMIT_S / 2),
            "allow_http": True,
        },
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=ANSWER_LIMIT_S)},
    }
    if uri.scheme == "s3":
        keys = {"access_key_id": unquote(uri.username or ""), "secret_access_key": unquote(uri.password or "")}
        how |= keys if uri.username else _keys_of_profile()
        if endpoint := query.get("endpoint_override"):
            how["endpoint"] = endpoint if "://" in endpoint else f"{query.get('scheme', 'https')}://{endpoint}"
        store: Any = S3Store(uri.hostname, region=filesystem.region, **how)
    elif uri.scheme in ("gs", "gcs") and not query:
        store = GCSStore(uri.hostname, **how)
    else:
        raise ValueError(f"neurofleet knows none of {uri.scheme}://")
    found = ConditionalObject(store, f"{unquote(uri.path).strip('/')}/{name}".lstrip("/"))
    found.read()
    return found


def _keys_of_profile() -> dict[str, str]:
    """The keys in the file of profiles, which pyarrow reads and obstore does not; empty where the variables are set."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials"
    profiles = configparser.ConfigParser(interpolation=None)
    profiles.read(file)
    section = os.environ.get("AWS_PROFILE", "default")
    keys = profiles[section] if section in profiles else {}
    names = ("access_key_id", "secret_access_key", "session_token")
    return {name: keys[f"aws_{name}"] for name in names if f"aws_{name}" in keys}


def _version(answer: Any) -> dict[str, str]:
    return {name: answer[name] for name in ("e_tag", "version") if answer.get(name)}


def _translated(error: BaseError) -> OSError:
    return OSError(reason_of(error)) if isinstance(error, GenericError) else PermissionError(reason_of(error))
