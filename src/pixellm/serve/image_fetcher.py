"""Fetch images by URL: from allowed hosts only, and never from an address that is not public.

The address is resolved once, checked, and connected to, so that a name that changes its address in between (DNS
rebinding) gains nothing. Redirects pass the same checks.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

from pixellm.serve.errors import ApiError
from pixellm.utils import limits

CHUNK = 64 << 10
PORTS = {"http": 80, "https": 443}
# IPv6 addresses that a gateway translates to IPv4: NAT64 (RFC 6052, RFC 8215), 6to4, Teredo.
TRANSLATED = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Return the IPv4 and IPv6 addresses of a host."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Return True for an address of the public Internet."""
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


class ImageFetcher:
    """Download images from allowed hosts.

    Args:
        hosts: allowed hosts, `name` or `name:port`.
        max_bytes: size of one image.
        timeout: seconds for one image, redirects included.
        resolve: function that returns the addresses of a host and port.
        is_allowed: predicate for addresses that may be connected to.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        timeout: float,
        resolve: Resolve = resolve,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self.hosts = {host.lower().rstrip(".") for host in hosts}
        self.max_bytes, self.timeout = max_bytes, timeout
        self._resolve, self._is_allowed = resolve, is_allowed

    def fetch(self, url: str) -> bytes:
        """Download a URL; blocks.

        Raises:
            ApiError: 400, the URL is not allowed or the download failed; 413, the file is too large.
        """
        if not self.hosts:
            raise _refused("expected data:image/…;base64,…: this server fetches no images.")
        deadline = time.monotonic() + self.timeout
        try:
            for _ in range(limits.MAX_REDIRECTS + 1):
                content = self._get(url, deadline)
                if isinstance(content, bytes):
                    return content
                url = urljoin(url, content)
        except (OSError, http.client.HTTPException, ValueError):  # the kind of error would reveal our network
            raise _refused("The image could not be fetched.") from None
        raise _refused(f"expected an image behind at most {limits.MAX_REDIRECTS} redirects, got more.")

    def _get(self, url: str, deadline: float) -> bytes | str:
        """Return the content, or the location of a redirect."""
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
                raise _refused(f"expected status 200 from the image's host, got {response.status}.")
            return self._read(response, connection)
        finally:
            connection.close()

    def _checked(self, parts: SplitResult) -> tuple[str, int, str]:
        """Return host, port, and an address that may be connected to."""
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in PORTS or not host or parts.username is not None or parts.password is not None:
            raise _refused("expected an image URL http(s)://host/…")
        port = parts.port or PORTS[parts.scheme]
        is_default_port = port == PORTS[parts.scheme]
        if not (is_default_port and host in self.hosts) and f"{host}:{port}" not in self.hosts:
            raise _refused("expected an image URL of a host that this server is allowed to fetch from.")
        addresses = self._resolve(host, port)
        if not addresses or not all(self._is_allowed(address) for address in addresses):
            raise _refused("expected an image URL of a host with public addresses only.")
        return host, port, addresses[0]

    def _read(self, response: http.client.HTTPResponse, connection: "_Connection") -> bytes:
        data = bytearray()
        while chunk := response.read1(CHUNK):
            data += chunk
            connection.limit_wait()
            if len(data) > self.max_bytes:
                raise ApiError(413, f"expected an image of at most {self.max_bytes:,} bytes, got more.")
        return bytes(data)


class _Connection(http.client.HTTPConnection):
    """Connection to a checked address under its host name, with a deadline."""

    def __init__(self, scheme: str, host: str, port: int, address: str, deadline: float) -> None:
        super().__init__(host, port)
        self._scheme, self._address, self._deadline = scheme, address, deadline

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self._seconds_left())
        if self._scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def limit_wait(self) -> None:
        """Let the next read end at the deadline."""
        seconds = self._seconds_left()
        if self.sock is not None:
            self.sock.settimeout(seconds)

    def _seconds_left(self) -> float:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the deadline has passed")
        return seconds


def _refused(message: str) -> ApiError:
    return ApiError(400, message, "invalid_image_url")
