"""Fetching of images by URL: off unless the operator allows hosts, and never from a private address.

A host name is resolved once, all its addresses must be public, and the connection goes to the checked address. Every
redirect is checked the same way. This protects against server-side request forgery, also through DNS rebinding.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

MAX_REDIRECTS = 3
PORTS = {"https": 443, "http": 80}

Resolver = Callable[[str, int], Sequence[str]]
"""Resolves host and port to addresses."""

Connector = Callable[[str, int, float], socket.socket]
"""Connects to address and port within a number of seconds."""

_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class FetchError(ValueError):
    """A URL that is not allowed or cannot be fetched; the message is for its sender."""


class Fetcher:
    """Fetches from allowed hosts.

    Args:
        hosts: names, or `*.example.org` for all subdomains. https only; `http://NAME` allows plain http too.
        max_bytes: maximum size of a response.
        deadline_s: maximum seconds for all of it: name resolution, connections, redirects and bodies.
        resolve: resolves host names; by default, the system's resolver.
        connect: opens a socket to an address.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_bytes: int,
        deadline_s: float = 10.0,
        resolve: Resolver | None = None,
        connect: Connector | None = None,
    ) -> None:
        self.hosts = {("http" if host.startswith("http://") else "https", _bare(host)) for host in hosts}
        self.max_bytes = max_bytes
        self.deadline_s = deadline_s
        self._resolve = resolve or _system_resolve
        self._connect = connect or _connect

    def fetch(self, url: str) -> bytes:
        """Content of a URL.

        Raises:
            FetchError: the URL is not allowed, leads to a private address, or cannot be read within the limits.
        """
        if not self.hosts:
            raise FetchError("this server does not fetch URLs; send the image itself, or a data: URL")
        until = time.monotonic() + self.deadline_s
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._once(url, until)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise FetchError(f"more than {MAX_REDIRECTS} redirects")

    def check(self, url: str, until: float | None = None) -> tuple[str, str, int, str]:
        """Scheme, host, port and the public address to connect to. Raises FetchError if the URL is not allowed."""
        if len(url) > 2048 or any(ord(sign) < 33 or ord(sign) > 126 for sign in url) or "\\" in url:
            raise FetchError("the URL has invalid characters; percent-encode them")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise FetchError("not a valid URL") from None
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in PORTS or parts.username is not None or parts.password is not None or not host:
            raise FetchError("use an https URL without a user name")
        if port not in (None, PORTS[parts.scheme]):
            raise FetchError(f"only port {PORTS[parts.scheme]} is allowed")
        if not self._allowed(parts.scheme, host):
            raise FetchError(f"host {host!r} is not allowed; the operator can allow it with --fetch-host")
        addresses = self._resolved(host, PORTS[parts.scheme], until)
        if not addresses or not all(is_public(address) for address in addresses):
            raise FetchError(f"host {host!r} has no address, or a private one")
        return parts.scheme, host, PORTS[parts.scheme], addresses[0]

    def _allowed(self, scheme: str, host: str) -> bool:
        names = [name for kind, name in self.hosts if kind in (scheme, "http")]
        return any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in names)

    def _once(self, url: str, until: float) -> bytes | str:
        scheme, host, port, address = self.check(url, until)
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(host, port, timeout=self._left(until))
        watch: threading.Timer | None = None
        watched: socket.socket | None = None
        try:
            plain = self._connect(address, port, self._left(until))
            watched = plain.dup()
            # a timeout of the socket starts again with every byte; this ends the handshake, headers and body in time
            watch = threading.Timer(self._left(until), _shut_down, args=(watched,))
            watch.daemon = True
            watch.start()
            context = ssl.create_default_context()
            connection.sock = plain if scheme == "http" else context.wrap_socket(plain, server_hostname=host)
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "fantasy-world"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return urljoin(url, response.getheader("Location", ""))
            if response.status != 200:
                raise FetchError(f"host {host!r} answered with status {response.status}")
            return self._read(response, connection, until)
        except (OSError, http.client.HTTPException) as error:
            self._left(until)
            raise FetchError(f"host {host!r} cannot be read: {type(error).__name__}") from None
        finally:
            if watch is not None:
                watch.cancel()
            if watched is not None:
                watched.close()
            connection.close()

    def _resolved(self, host: str, port: int, until: float | None) -> Sequence[str]:
        """Addresses of a host, within the deadline: the system's resolver has none."""
        if until is None:
            return self._resolve(host, port)
        try:
            return _RESOLVERS.submit(self._resolve, host, port).result(self._left(until))
        except TimeoutError:
            raise FetchError(f"resolving {host!r} took more than {self.deadline_s:g} s") from None

    def _read(self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection, until: float) -> bytes:
        parts, size = [], 0
        while True:
            if connection.sock is not None:
                connection.sock.settimeout(self._left(until))
            part = response.read1(1 << 16)
            if not part:
                self._left(until)
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if size > self.max_bytes:
                raise FetchError(f"the image is larger than {self.max_bytes} bytes")

    def _left(self, until: float) -> float:
        left = until - time.monotonic()
        if left <= 0:
            raise FetchError(f"fetching took more than {self.deadline_s:g} s")
        return left


_RESOLVERS = ThreadPoolExecutor(4, thread_name_prefix="resolve")


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def is_public(address: str) -> bool:
    """Whether an IP address is public. An address that embeds another one must be public in both."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip.sixtofour or ip.teredo or any(ip in network for network in _TRANSLATED):
            return False
        if int(ip) >> 32 == 0:  # ::a.b.c.d, a deprecated form of an IPv4 address
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _bare(host: str) -> str:
    name = host.removeprefix("http://").removeprefix("https://").rstrip("/.").lower()
    if not name or "/" in name or ":" in name or name in ("*", "*."):
        raise ValueError(f"--fetch-host {host!r} is not a host name: write images.example.org or *.example.org")
    return name


def _system_resolve(host: str, port: int) -> Sequence[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def _connect(address: str, port: int, timeout_s: float) -> socket.socket:
    return socket.create_connection((address, port), timeout=timeout_s)
