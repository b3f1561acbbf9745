"""Where the page may be reached besides 127.0.0.1: behind a proxy, at addresses that the user named."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["ADDRESS", "Origins", "PageAddress", "how_to_allow", "page_address"]

ADDRESS: Final = re.compile(
    r"(?P<origin>https?://(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?))"
    r"(?P<path>(?:/(?:\*|[A-Za-z0-9._~@+-]+))*)/?"
)
_USUAL: Final = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class PageAddress:
    """One address of the page in a browser."""

    #: As browsers send it: scheme and host, and the port where it is not the scheme's own.
    origin: str
    #: As a Host header may name it: a proxy may add the port that is the scheme's own.
    hosts: frozenset[str]
    #: The path that a proxy leaves in its requests; ``None``: it leaves none.
    path: re.Pattern[str] | None


def page_address(text: str) -> PageAddress:
    """Return the address that a text is: ``https://host``, perhaps with a port and a path; ``*`` is any one segment.

    Raises:
        ValueError: it is none.
    """
    found = ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no address of a page: write https://host, and a path if the proxy leaves it")
    origin, host, path = found["origin"].lower(), found["host"].lower(), found["path"]
    usual = _USUAL[origin.partition(":")[0]]
    segments = ("[^/]+" if segment == "*" else re.escape(segment) for segment in path.split("/")[1:])
    pattern = re.compile("".join(f"/{segment}" for segment in segments) + "(?=/)") if path else None
    host = host.removesuffix(usual)
    hosts = {host} if re.search(":[0-9]+$", host) else {host, host + usual}
    return PageAddress(origin.removesuffix(usual), frozenset(hosts), pattern)


class Origins:
    """The addresses that hold for one server."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        known = [page_address(each) for each in addresses]
        self._origins = frozenset(each.origin for each in known)
        self._hosts = frozenset(host for each in known for host in each.hosts)
        self._paths = [each.path for each in known if each.path is not None]

    def has_host(self, host: str) -> bool:
        """Return whether a Host header names one of them."""
        return host.lower() in self._hosts

    def has(self, origin: str) -> bool:
        """Return whether an Origin header is one of them."""
        return origin.lower() in self._origins

    def below(self, path: str) -> str:
        """Return a request's path without what its proxy left before it."""
        for known in self._paths:
            if found := known.match(path):
                return path[found.end() :]
        return path


def how_to_allow(origin: str) -> str:
    """Return how to let the page be reached at an origin, to be said to whoever was refused there."""
    return (
        "If this is your page behind a proxy, say so in config.toml, and stop and start the server: "
        f"page_origins = ['{origin}']."
    )
