"""Images behind URLs: only of hosts that are allowed, and never of an address that is not public.

The address is looked up once, checked, and connected to: a name that means something else a moment later gains nothing.
Redirects go through the same checks.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

from pixellm.serve.errors import ApiError

REDIRECTS = 3
CHUNK = 64 << 10
PORTS = {"http": 80, "https": 443}
# Addresses that are translated to an IPv4 one somewhere on the way: NAT64 (RFC 6052, RFC 8215), 6to4, Teredo.
TRANSLATED = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host, IPv4 and IPv6."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether everybody on the Internet can reach it."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in net for net in TRANSLATED):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_private or ip.is_loopback)


class Fetcher:
    """Downloads images.

    Args:
        hosts: that are allowed, `name` or `name:port`.
        max_bytes: of one image.
        timeout: seconds for one image, redirects included.
        resolve, allowed: how names become addresses, and which of these may be connected to.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        timeout: float,
        resolve: Resolve = resolve,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self.hosts = {host.lower().rstrip(".") for host in hosts}
        self.max_bytes, self.timeout = max_bytes, timeout
        self._resolve, self._allowed = resolve, allowed

    def fetch(self, url: str) -> bytes:
        """What is behind a URL; blocks.

        Raises:
            ApiError: 400, it may not be fetched or could not be; 413, it is too large.
        """
        if not self.hosts:
            raise _refused("This server fetches no images. Send it as data:image/…;base64,…")
        deadline = time.monotonic() + self.timeout
        try:
            for _ in range(REDIRECTS + 1):
                found = self._get(url, deadline)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
        except (OSError, http.client.HTTPException, ValueError):  # which one it was says something about our network
            raise _refused("The image could not be fetched.") from None
        raise _refused(f"The image is behind more than {REDIRECTS} redirects.")

    def _get(self, url: str, deadline: float) -> bytes | str:
        """The content, or where it has gone."""
        parts = urlsplit(url)
        host, port, address = self._checked(parts)
        connection = _Connection(parts.scheme, host, port, address, deadline)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "pixellm"})
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                return location
            if response.status != 200:
                raise _refused(f"The image's host answered {response.status}.")
            return self._read(response, connection)
        finally:
            connection.close()

    def _checked(self, parts: SplitResult) -> tuple[str, int, str]:
        """Host, port and an address of it that may be connected to."""
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in PORTS or not host or parts.username is not None or parts.password is not None:
            raise _refused("expected an image's URL http(s)://host/…")
        port = parts.port or PORTS[parts.scheme]
        usual = port == PORTS[parts.scheme] and host in self.hosts
        if not usual and f"{host}:{port}" not in self.hosts:
            raise _refused("The image's host is not among those that this server fetches from.")
        addresses = self._resolve(host, port)
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise _refused("The image's host has an address that is not public.")
        return host, port, addresses[0]

    def _read(self, response: http.client.HTTPResponse, connection: "_Connection") -> bytes:
        data = bytearray()
        while chunk := response.read1(CHUNK):
            data += chunk
            connection.limit()
            if len(data) > self.max_bytes:
                raise ApiError(413, f"expected an image of at most {self.max_bytes:,} bytes, got more.")
        return bytes(data)


class _Connection(http.client.HTTPConnection):
    """To an address that was checked, by the name it was looked up for; ends at a deadline."""

    def __init__(self, scheme: str, host: str, port: int, address: str, deadline: float) -> None:
        super().__init__(host, port)
        self._scheme, self._address, self._deadline = scheme, address, deadline

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self._left())
        if self._scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def limit(self) -> None:
        """No wait goes beyond the deadline."""
        left = self._left()
        if self.sock is not None:
            self.sock.settimeout(left)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        return left


def _refused(message: str) -> ApiError:
    return ApiError(400, message, "invalid_image_url")
