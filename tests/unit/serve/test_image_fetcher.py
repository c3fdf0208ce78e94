"""Images fetched by URL: allowed hosts and public addresses only, also behind redirects and changing names."""

import asyncio
import gzip
import http.server
import ipaddress
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from pixellm.serve.errors import ApiError
from pixellm.serve.image_fetcher import ImageFetcher
from pixellm.serve.public_addresses import SPECIAL_IPV4, SPECIAL_IPV6, is_public

PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
    *("::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "224.0.0.1"),
    *("3fff::1", "192.0.0.8", "::7f00:1", "::ffff:0:7f00:1", "::ffff:192.0.0.8", "fec0::1", "2620:4f:8000::1"),
    *("2002:7f00:1::", "2001:0:1::", "255.255.255.255", "198.18.0.1", "not an address", ""),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize("text", [*SPECIAL_IPV4, *SPECIAL_IPV6])
def test_the_ends_of_special_ranges(text):
    """Both ends are special, and their neighbours are not, unless they belong to another range or to no unicast."""
    network = ipaddress.ip_network(text)
    ends = (network[0], network[-1])
    assert not any(is_public(str(end)) for end in ends)
    others = [ipaddress.ip_network(other) for other in (SPECIAL_IPV4 if network.version == 4 else SPECIAL_IPV6)]
    for end, step in zip(ends, (-1, 1), strict=True):
        if 0 < int(end) < 2**network.max_prefixlen - 1:
            neighbour = end + step
            unicast = neighbour.version == 4 or neighbour in ipaddress.ip_network("2000::/3")
            if unicast and not any(neighbour in other for other in others):
                assert is_public(str(neighbour)), neighbour


@pytest.fixture(scope="module")
def site():
    """A web site of images and traps; gives its port and the paths that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.headers["Host"], self.path))
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
                return
            self.send_response(404 if self.path == "/none" else 200)
            if self.path == "/bomb":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            if self.path == "/slow":
                with suppress(ConnectionError):
                    for _ in range(100):
                        self.wfile.write(b"x")
                        threading.Event().wait(0.05)
                return
            self.wfile.write({"/large": b"x" * 5000, "/bomb": BOMB}.get(self.path, b"image"))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()


BOMB = gzip.compress(bytes(100_000))


def fetch(by, url):
    return asyncio.run(by.fetch(url, "a"))


def fetcher(port, *hosts, names=None, timeout=5.0, allowed=lambda address: address == "127.0.0.1"):
    """Every name means the site, unless `names` says otherwise."""
    lookup = names or {}
    return ImageFetcher(
        [f"{host}:{port}" for host in hosts or ("good.test",)],
        max_bytes=1000,
        timeout=timeout,
        resolve=lambda host, _: lookup.get(host, ["127.0.0.1"]),
        is_allowed=allowed,
    )


def refused(by, url, match, status=400):
    with pytest.raises(ApiError, match=match) as caught:
        fetch(by, url)
    assert caught.value.status == status


def test_an_allowed_host(site):
    port, asked = site
    assert fetch(fetcher(port), f"http://good.test:{port}/a.png?x=1") == b"image"
    assert asked[-1] == (f"good.test:{port}", "/a.png?x=1")  # by its name, at the address that was checked


def test_redirects_between_allowed_hosts(site):
    port, _ = site
    both = fetcher(port, "good.test", "other.test")
    assert fetch(both, f"http://good.test:{port}/to/http://other.test:{port}/a") == b"image"
    assert fetch(both, f"http://good.test:{port}/to//b") == b"image"


def test_nothing_is_fetched_by_default():
    refused(ImageFetcher([], 1000, 1), "http://good.test/", "fetches no images")


@pytest.mark.parametrize(
    "url",
    [
        *("http://bad.test/", "http://good.test.evil/", "http://good.test/", "http://127.0.0.1:{port}/"),
        *("file:///etc/passwd", "ftp://good.test:{port}/", "http://a:b@good.test:{port}/", "http:///x", "gopher://x"),
        *("http://good.test:{port}@evil.test/", "//good.test:{port}/", "http://[::1]:{port}/", "http://2130706433/"),
    ],
)
def test_other_urls(site, url):
    port, asked = site
    before = len(asked)
    refused(fetcher(port), url.format(port=port), "expected an image URL|allowed to fetch from|not be fetched")
    assert len(asked) == before


@pytest.mark.parametrize(
    "url", ["http://good.test:99999/", "http://good.test:x/", "http://[::1/", "http://good.test:{port}/\r\nX: y"]
)
def test_broken_urls(site, url):
    port, _ = site
    with pytest.raises(ApiError):
        fetch(fetcher(port), url.format(port=port))


def test_a_host_whose_name_means_a_private_address(site):
    port, asked = site
    before = len(asked)
    names = {"good.test": ["8.8.8.8", "127.0.0.1"]}  # one of several is enough
    refused(fetcher(port, names=names, allowed=is_public), f"http://good.test:{port}/", "public addresses only")
    assert len(asked) == before


def test_a_redirect_to_where_nothing_may_be_fetched(site):
    port, _ = site
    names = {"inside.test": ["10.0.0.1"]}
    both = fetcher(port, "good.test", "inside.test", names=names)
    refused(both, f"http://good.test:{port}/to/http://inside.test:{port}/", "public addresses only")
    refused(both, f"http://good.test:{port}/to/http://127.0.0.1:{port}/", "allowed to fetch from")
    refused(both, f"http://good.test:{port}/to/file:///etc/passwd", "expected an image URL")
    refused(both, f"http://good.test:{port}/to//to//to//to//to/a", "redirects|allowed to fetch from")


def test_a_name_is_looked_up_once(site):
    """What it means a moment later (DNS rebinding) does not matter."""
    port, _ = site
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    rebinding = ImageFetcher(
        [f"good.test:{port}"], 1000, 5, lambda *_: next(answers), lambda address: address == "127.0.0.1"
    )
    assert fetch(rebinding, f"http://good.test:{port}/") == b"image"
    assert next(answers) == ["10.0.0.1"]


def test_limits(site):
    port, _ = site
    refused(fetcher(port), f"http://good.test:{port}/large", "at most 1,000 bytes", 413)
    refused(fetcher(port), f"http://good.test:{port}/none", "got 404")
    refused(fetcher(port, timeout=0.3), f"http://good.test:{port}/slow", "could not be fetched")


def test_a_failure_says_nothing_of_our_network():
    refused(fetcher(1), "http://good.test:1/", "^The image could not be fetched.$")


@contextmanager
def dripping(*answer: bytes):
    """A host that sends the last piece of its answer again and again, and keeps the first bytes that it received."""
    received, over = [], threading.Event()

    def drip(connection):
        with suppress(OSError), connection:
            received.append(connection.recv(4096))
            for piece in answer[:-1]:
                connection.sendall(piece)
            while not over.wait(0.05):
                connection.sendall(answer[-1])

    def listen():
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], received
        over.set()


@pytest.mark.parametrize(
    "answer",
    [
        (b"H",),
        (b"HTTP/1.1 200 ", b"O"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 100 Continue\r\n\r\n",),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x"),
    ],
)
def test_no_part_of_an_answer_may_drip(answer):
    with dripping(*answer) as (port, _):
        start = time.monotonic()
        refused(fetcher(port, timeout=0.2), f"http://good.test:{port}/", "^The image could not be fetched.$")
        assert time.monotonic() - start < 1


def test_a_handshake_may_not_drip_either():
    """It names the host, whatever the address."""
    with dripping(b"\x16\x03\x03\x40\x00", b"x") as (port, received):
        start = time.monotonic()
        refused(fetcher(port, timeout=0.2), f"https://good.test:{port}/", "^The image could not be fetched.$")
        assert time.monotonic() - start < 1
    assert b"good.test" in received[0]


def test_looking_up_a_name_counts_and_holds_up_nobody(site):
    port, _ = site
    found = threading.Event()

    def resolve(host, _):
        if host == "slow.test":
            found.wait(10)
        return ["127.0.0.1"]

    by = fetcher(port, "good.test", "slow.test", timeout=0.3)
    by._resolve = resolve

    async def both():
        slow = [asyncio.create_task(by.fetch(f"http://slow.test:{port}/", "a")) for _ in range(8)]
        await asyncio.sleep(0)
        image = await by.fetch(f"http://good.test:{port}/", "b")
        return image, await asyncio.gather(*slow, return_exceptions=True)

    start = time.monotonic()
    image, slow = asyncio.run(both())
    assert time.monotonic() - start < 2
    found.set()
    assert image == b"image"
    assert all(isinstance(one, ApiError) for one in slow)


def test_nothing_of_ours_is_sent_and_nothing_unpacked(site, monkeypatch):
    port, _ = site
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    both, seen = fetcher(port, "good.test", "other.test"), []
    both._is_allowed = lambda address: seen.append(address) or True
    assert fetch(both, f"http://good.test:{port}/to/http://good.test:{port}/a") == b"image"
    assert seen == ["127.0.0.1"] * 2  # each redirect is checked
    assert fetch(both, f"http://good.test:{port}/bomb") == BOMB


def test_a_request_has_no_cookies_and_wants_no_compression():
    with dripping(b"HTTP/1.1 302 Found\r\nSet-Cookie: a=b\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", b"") as (
        port,
        received,
    ):
        refused(fetcher(port, timeout=2), f"http://good.test:{port}/a%2Fb?c=%7E", "at most 3 redirects")
    assert received[0].startswith(b"GET /a%2Fb?c=%7E HTTP/1.1\r\n")
    assert all(b"cookie" not in one.lower() and b"Accept-Encoding: identity" in one for one in received)
    assert len(received) == 4
