"""Who may do what: the one-time link, users with passwords, roles, and which requests are refused."""

import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from neurofleet.errors import UsageError

SESSION_S = 24 * 3600.0
"""A session that is not used for so long ends."""

MOST_SESSIONS = 10_000
TRIES, PAUSE_S = 5, 60.0
"""After so many wrong passwords in a row a user waits so long."""

_USER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
LEAST_PASSWORD = 10


class Role(IntEnum):
    """What a visitor may do; each role may do what those before it may.

    ``view`` reads, ``predict`` also uploads data and applies models, ``submit`` also runs jobs, which may be code.
    """

    view = 1
    predict = 2
    submit = 3


class NotAllowed(UsageError):
    """The visitor's role does not allow it."""


@dataclass(frozen=True)
class Visitor:
    """Who makes a request."""

    name: str
    role: Role

    def require(self, role: Role) -> None:
        """Raise `NotAllowed` unless the visitor has this role or a higher one."""
        if self.role < role:
            raise NotAllowed(
                f"This needs the role {role.name!r}; {self.name} has the role {self.role.name!r}. Who runs the server "
                "gives roles with `neurofleet serve --add-user`, and without --read-only."
            )


class Users:
    """The users in a file: names, roles, and argon2 hashes of passwords.

    Parameters
    ----------
    path : Path
        JSON, read again when it has changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at = -1
        self._users: Mapping[str, Mapping[str, str]] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._verifying = threading.Lock()

    def add(self, name: str, password: str, role: Role) -> None:
        """Add a user, or give an old one another password and role.

        Raises
        ------
        UsageError
            The name or the password will not do, or the file is damaged.
        """
        from argon2 import PasswordHasher

        if not _USER.match(name):
            raise UsageError(
                f"--add-user: expected letters, digits and ._@-, at most 64, found {name!r}. Choose another name."
            )
        if len(password) < LEAST_PASSWORD:
            raise UsageError(f"A password has at least {LEAST_PASSWORD} characters; this one has {len(password)}.")
        users = dict(self._all()) | {name: {"role": role.name, "password": PasswordHasher().hash(password)}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"users": users}, file, indent=1)
        os.replace(beside, self.path)

    def visitor(self, name: str, password: str) -> Visitor | None:
        """Return the user whose password this is; None where it is not, or was tried too often.

        Raises
        ------
        UsageError
            The file is damaged.
        """
        from argon2 import PasswordHasher
        from argon2.exceptions import Argon2Error, InvalidHashError

        failures, last = self._failures.get(name, (0, 0.0))
        if failures >= TRIES and time.monotonic() - last < PAUSE_S:
            return None
        user = self._all().get(name)
        with self._verifying:  # each takes 64 MiB: one at a time
            try:
                hashed = user["password"] if user else _NOBODYS
                right = PasswordHasher().verify(hashed, password) and user is not None
            except (Argon2Error, InvalidHashError):
                right = False
        if not right or user is None:
            if len(self._failures) > MOST_SESSIONS:
                self._failures.clear()
            self._failures[name] = (failures + 1, time.monotonic())
            return None
        self._failures.pop(name, None)
        return Visitor(name, Role[user["role"]])

    def current(self, visitor: Visitor) -> Visitor | None:
        """Return a visitor with the role that the file gives now; None where it has no such user any more."""
        user = self._all().get(visitor.name)
        return Visitor(visitor.name, Role[user["role"]]) if user else None

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> Mapping[str, Mapping[str, str]]:
        try:
            changed = self.path.stat().st_mtime_ns
        except OSError:
            return {}
        if changed != self._read_at:
            try:
                users = json.loads(self.path.read_text())["users"]
                for user in users.values():
                    Role[user["role"]], user["password"]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{self.path}: expected the users that `neurofleet serve --add-user` writes, found something else "
                    f"({type(error).__name__}: {error}). Put back a good copy, or remove it and add users again."
                ) from error
            self._users, self._read_at = users, changed
        return self._users


_NOBODYS = "$argon2id$v=19$m=65536,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$dGhlIGhhc2ggb2Ygbm8gcGFzc3dvcmQgYXQgYWxsISE"
"""Verified for a name that is none, so that it takes as long as for one that is."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that signs visitors in, and names them in a header.

    Attributes
    ----------
    header : str
    networks : sequence
        Addresses of proxies that are believed.
    role : Role
        Of those whom no file of users gives another.
    """

    header: str
    networks: Sequence[IPv4Network | IPv6Network]
    role: Role = Role.view

    @classmethod
    def named(cls, header: str, addresses: Sequence[str], role: Role) -> "Proxy":
        """Return the proxy that options describe.

        Raises
        ------
        UsageError
            An address or the header's name is none, or there is no address.
        """
        if not re.fullmatch(r"[A-Za-z0-9-]+", header):
            raise UsageError(f"--user-header: expected the name of a header such as X-Remote-User, found {header!r}.")
        if not addresses:
            raise UsageError(
                f"--user-header {header}: whoever reaches this server could send it. Say which proxy is believed: "
                "--trusted-proxy 127.0.0.1."
            )
        try:
            networks = [ip_network(address, strict=False) for address in addresses]
        except ValueError as error:
            raise UsageError(f"--trusted-proxy: expected an IP address or a network, found {error}.") from error
        if everybody := [str(network) for network in networks if network.prefixlen == 0]:
            raise UsageError(
                f"--trusted-proxy {everybody[0]}: whoever reaches this server would be believed. Give the address of "
                "the proxy."
            )
        return cls(header, networks, role)

    def trusts(self, address: str) -> bool:
        """Whether a request that comes from an address comes from the proxy."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self.networks)


class Access:
    """Sessions, and who a request is from.

    Parameters
    ----------
    users : Users, optional
        Without them there is one user, who has the link that the terminal shows.
    read_only : bool
        Whether nobody may do more than view.
    proxy : Proxy, optional
        Whose word is taken for who makes a request.
    say : callable
        Gets each new one-time link's token; called again when one has been used.
    """

    def __init__(
        self,
        users: Users | None = None,
        read_only: bool = False,
        say: Callable[[str], None] = lambda token: None,
        proxy: Proxy | None = None,
    ) -> None:
        self.users = users
        self.proxy = proxy
        self.highest = Role.view if read_only else Role.submit
        self.script_token = secrets.token_urlsafe(32)
        """For scripts of the one user: sent as ``Authorization: Bearer …``."""
        self._say = say
        self._link = secrets.token_urlsafe(32)
        self._sessions: dict[str, tuple[Visitor, float]] = {}
        self._lock = threading.Lock()

    @property
    def is_of_one(self) -> bool:
        """Whether there is one user, who has the link that the terminal shows."""
        return self.users is None and self.proxy is None

    @property
    def link_token(self) -> str:
        """The token of the next one-time link."""
        return self._link

    def by_link(self, token: str) -> str | None:
        """Return a new session for the token of a one-time link, which is then used up; None for any other."""
        with self._lock:
            if not self.is_of_one or not _same(token, self._link):
                return None
            self._link = secrets.token_urlsafe(32)
        self._say(self._link)
        return self._new(Visitor("you", Role.submit))

    def by_password(self, name: str, password: str) -> str | None:
        """Return a new session for a user; None where the password is wrong."""
        visitor = self.users.visitor(name, password) if self.users is not None else None
        return None if visitor is None else self._new(visitor)

    def of_session(self, session: str) -> Visitor | None:
        """Return whose session it is; None where there is none, or it has ended."""
        with self._lock:
            visitor, last = self._sessions.get(session, (None, 0.0))
            if visitor is None or time.monotonic() - last > SESSION_S:
                self._sessions.pop(session, None)
                return None
            self._sessions[session] = (visitor, time.monotonic())
        current = visitor if self.users is None else self.users.current(visitor)
        return None if current is None else self._capped(current)

    def of_script(self, token: str) -> Visitor | None:
        """Return who sends this in ``Authorization: Bearer …``: the script token of the one user."""
        if self.is_of_one and _same(token, self.script_token):
            return self._capped(Visitor("you", Role.submit))
        return None

    def is_link_token(self, token: str) -> bool:
        """Return whether this is the token of the next one-time link."""
        return self.is_of_one and _same(token, self._link)

    def of_user(self, name: str, password: str) -> Visitor | None:
        """Return who sends this in ``Authorization: Basic …``."""
        visitor = self.users.visitor(name, password) if self.users is not None else None
        return None if visitor is None else self._capped(visitor)

    def of_proxy(self, address: str, header: str | None) -> Visitor | None:
        """Return who a proxy at an address says that it is, in its header."""
        if self.proxy is None or header is None or not self.proxy.trusts(address) or not _USER.match(header):
            return None
        visitor = Visitor(header, self.proxy.role)
        known = self.users.current(visitor) if self.users is not None else None
        return self._capped(known or visitor)

    def end(self, session: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(session, None)

    def _capped(self, visitor: Visitor) -> Visitor:
        return Visitor(visitor.name, min(visitor.role, self.highest))

    def _new(self, visitor: Visitor) -> str:
        session, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            if len(self._sessions) >= MOST_SESSIONS:
                self._sessions = {s: v for s, v in self._sessions.items() if now - v[1] < SESSION_S}
            if len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[min(self._sessions, key=lambda s: self._sessions[s][1])]
            self._sessions[session] = (visitor, now)
        return session


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
