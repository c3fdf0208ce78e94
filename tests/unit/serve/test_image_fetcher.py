"""Images fetched by URL: allowed hosts and public addresses only, also behind redirects and changing names."""

import http.server
import threading
from contextlib import suppress

import pytest

from pixellm.serve.errors import ApiError
from pixellm.serve.image_fetcher import ImageFetcher, is_public

PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
    *("::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "224.0.0.1"),
    *("2002:7f00:1::", "2001:0:1::", "255.255.255.255", "198.18.0.1", "not an address", ""),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


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
            self.end_headers()
            if self.path == "/slow":
                with suppress(ConnectionError):
                    for _ in range(100):
                        self.wfile.write(b"x")
                        threading.Event().wait(0.05)
                return
            self.wfile.write(b"x" * 5000 if self.path == "/large" else b"image")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()


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


def refused(fetching, url, match, status=400):
    with pytest.raises(ApiError, match=match) as caught:
        fetching.fetch(url)
    assert caught.value.status == status


def test_an_allowed_host(site):
    port, asked = site
    assert fetcher(port).fetch(f"http://good.test:{port}/a.png?x=1") == b"image"
    assert asked[-1] == (f"good.test:{port}", "/a.png?x=1")  # by its name, at the address that was checked


def test_redirects_between_allowed_hosts(site):
    port, _ = site
    both = fetcher(port, "good.test", "other.test")
    assert both.fetch(f"http://good.test:{port}/to/http://other.test:{port}/a") == b"image"
    assert both.fetch(f"http://good.test:{port}/to//b") == b"image"


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
    refused(fetcher(port), url.format(port=port), "expected an image URL|allowed to fetch from")
    assert len(asked) == before


@pytest.mark.parametrize(
    "url", ["http://good.test:99999/", "http://good.test:x/", "http://[::1/", "http://good.test:{port}/\r\nX: y"]
)
def test_broken_urls(site, url):
    port, _ = site
    with pytest.raises(ApiError):
        fetcher(port).fetch(url.format(port=port))


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
    assert rebinding.fetch(f"http://good.test:{port}/") == b"image"
    assert next(answers) == ["10.0.0.1"]


def test_limits(site):
    port, _ = site
    refused(fetcher(port), f"http://good.test:{port}/large", "at most 1,000 bytes", 413)
    refused(fetcher(port), f"http://good.test:{port}/none", "got 404")
    refused(fetcher(port, timeout=0.3), f"http://good.test:{port}/slow", "could not be fetched")


def test_a_failure_says_nothing_of_our_network():
    refused(fetcher(1), "http://good.test:1/", "^The image could not be fetched.$")
