"""Images by address: off unless the operator names hosts, and never to a private address.

A name is resolved once, every address it has must be public, and the connection goes to that very address; a redirect
is a new address with the same checks. So neither a redirect nor a name that changes its address leads inside.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urljoin, urlsplit

MAX_REDIRECTS = 3
PORTS = {"https": 443, "http": 80}

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to addresses."""

Connector = Callable[[str, int, float], socket.socket]
"""Address, port and seconds to a connected socket."""

_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class FetchError(ValueError):
    """An address that is not followed, or that gave nothing; the message is for its sender."""


class Fetcher:
    """Fetches from the hosts that were allowed.

    Args:
        hosts: names, or `*.example.org` for all below it. https only; `http://NAME` allows plain http too.
        max_bytes: larger answers are refused.
        deadline_s: time for all of it, redirects included.
        resolve: the system's resolver by default.
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
        """The content behind an address.

        Raises:
            FetchError: the address may not be followed, leads inside, or gave no content within the limits.
        """
        if not self.hosts:
            raise FetchError("this server does not fetch addresses; send the image itself, or a data: URL")
        until = time.monotonic() + self.deadline_s
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._once(url, until)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise FetchError(f"more than {MAX_REDIRECTS} redirects")

    def check(self, url: str) -> tuple[str, str, int, str]:
        """Scheme, host, port and the public address to connect to. Raises FetchError for all that is not allowed."""
        if len(url) > 2048 or any(ord(sign) < 33 or ord(sign) > 126 for sign in url) or "\\" in url:
            raise FetchError("the address has signs that an address cannot have; write it percent-encoded")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise FetchError("this is not an address") from None
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in PORTS or parts.username is not None or parts.password is not None or not host:
            raise FetchError("only plain https addresses without user name are followed")
        if port not in (None, PORTS[parts.scheme]):
            raise FetchError(f"only port {PORTS[parts.scheme]} is asked")
        if not self._allowed(parts.scheme, host):
            raise FetchError(f"images are not fetched from {host!r}; the operator allows hosts with --fetch-host")
        addresses = self._resolve(host, PORTS[parts.scheme])
        if not addresses or not all(is_public(address) for address in addresses):
            raise FetchError(f"{host!r} has no address, or one that is not public")
        return parts.scheme, host, PORTS[parts.scheme], addresses[0]

    def _allowed(self, scheme: str, host: str) -> bool:
        names = [name for kind, name in self.hosts if kind in (scheme, "http")]
        return any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in names)

    def _once(self, url: str, until: float) -> bytes | str:
        scheme, host, port, address = self.check(url)
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(host, port, timeout=self._left(until))
        try:
            plain = self._connect(address, port, self._left(until))
            context = ssl.create_default_context()
            connection.sock = plain if scheme == "http" else context.wrap_socket(plain, server_hostname=host)
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "fantasy-world"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return urljoin(url, response.getheader("Location", ""))
            if response.status != 200:
                raise FetchError(f"{host!r} answered with {response.status}")
            return self._read(response, connection, until)
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(f"{host!r} could not be read: {type(error).__name__}") from None
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection, until: float) -> bytes:
        parts, size = [], 0
        while True:
            if connection.sock is not None:
                connection.sock.settimeout(self._left(until))
            part = response.read1(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if size > self.max_bytes:
                raise FetchError(f"the image has more than {self.max_bytes} bytes")

    def _left(self, until: float) -> float:
        left = until - time.monotonic()
        if left <= 0:
            raise FetchError(f"the image took more than {self.deadline_s:g} s")
        return left


def is_public(address: str) -> bool:
    """Whether an IP address is public. An address that embeds another one must be public in both."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip.sixtofour or ip.teredo or any(ip in network for network in _TRANSLATED):
            return False
        if int(ip) >> 32 == 0:  # ::a.b.c.d, an IPv4 address in the old way of writing
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
