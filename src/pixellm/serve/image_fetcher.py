"""Fetch images by URL: from allowed hosts only, and never from an address that is not public.

The address is resolved once, checked, and connected to, so that a name that changes its address in between (DNS
rebinding) gains nothing. Redirects pass the same checks.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pixellm.serve.errors import ApiError
from pixellm.serve.fair_share import FairShare
from pixellm.serve.public_addresses import is_public
from pixellm.utils import limits

CHUNK = 64 << 10
PORTS = {"http": 80, "https": 443}
PRINTABLE = re.compile("[!-~]+")
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "pixellm"}

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Return the IPv4 and IPv6 addresses of a host; blocks."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class ImageFetcher:
    """Download images from allowed hosts, of which one tenant gets at most half of the downloads at once.

    Args:
        hosts: allowed hosts, `name` or `name:port`.
        max_bytes: size of one image.
        timeout: seconds for one image, from looking up its host to its last byte, redirects included.
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
        self._slots = FairShare(limits.MAX_FETCHES, limits.MAX_FETCHES // 2)
        # Looking up a name can't be given up: it gets threads of its own.
        self._lookups = ThreadPoolExecutor(limits.MAX_FETCHES, "lookup")

    async def fetch(self, url: str, tenant: str) -> bytes:
        """Download a URL.

        Raises:
            ApiError: 400, the URL is not allowed or the download failed; 413, the file is too large.
        """
        if not self.hosts:
            raise _refused("expected data:image/…;base64,…: this server fetches no images.")
        async with self._slots.hold(tenant):
            try:
                async with asyncio.timeout(self.timeout):
                    return await self._follow(url)
            except (OSError, aiohttp.ClientError, ValueError):  # the kind of error would reveal our network
                raise _refused("The image could not be fetched.") from None

    async def _follow(self, url: str) -> bytes:
        for _ in range(limits.MAX_REDIRECTS + 1):
            content = await self._get(url)
            if isinstance(content, bytes):
                return content
            url = urljoin(url, content)
        raise _refused(f"expected an image behind at most {limits.MAX_REDIRECTS} redirects, got more.")

    async def _get(self, text: str) -> bytes | str:
        """Return the content, or the location of a redirect."""
        if not PRINTABLE.fullmatch(text):
            raise _refused("expected an image URL of printable ASCII characters.")
        url = URL(text, encoded=True)  # signed URLs are sent as they are
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_Pinned(await self._addresses(url)), force_close=True),
                timeout=aiohttp.ClientTimeout(),
                headers=HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # no proxies, no .netrc
                auto_decompress=False,  # no bombs
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            location = response.headers.get("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                return location
            if response.status != 200:
                raise _refused(f"expected status 200 from the image's host, got {response.status}.")
            return await self._read(response)

    async def _addresses(self, url: URL) -> Sequence[str]:
        """Return the addresses of the URL's host, all of which may be connected to."""
        host = (url.host or "").lower().rstrip(".")
        if url.scheme not in PORTS or not host or url.user is not None or url.password is not None:
            raise _refused("expected an image URL http(s)://host/…")
        is_default_port = url.port == PORTS[url.scheme]
        if not (is_default_port and host in self.hosts) and f"{host}:{url.port}" not in self.hosts:
            raise _refused("expected an image URL of a host that this server is allowed to fetch from.")
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._lookups, self._resolve, host, url.port)
        if not addresses or not all(self._is_allowed(address) for address in addresses):
            raise _refused("expected an image URL of a host with public addresses only.")
        return addresses

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK):
            data += chunk
            if len(data) > self.max_bytes:
                raise ApiError(413, f"expected an image of at most {self.max_bytes:,} bytes, got more.")
        return bytes(data)


class _Pinned(AbstractResolver):
    """Resolver that knows checked addresses only."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def _refused(message: str) -> ApiError:
    return ApiError(400, message, "invalid_image_url")
