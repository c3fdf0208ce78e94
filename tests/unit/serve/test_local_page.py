"""Static server of the page that runs the model itself: only what is on its list, with headers that allow threads."""

import http.client
import json
import threading
from contextlib import contextmanager

import pytest

from pixellm.runtime.mini import SHIPPED
from pixellm.serve import local_page
from pixellm.serve.local_page import StaticFile, serve_files, static_files
from pixellm.utils.sockets import listen


@pytest.fixture
def model(tmp_path):
    """The files of pixellm-mini, the weights made up."""
    directory = tmp_path / "model"
    directory.mkdir()
    for file in SHIPPED.iterdir():
        (directory / file.name).symlink_to(file)
    (directory / "weights.bin").write_bytes(b"weights")
    (directory / "secret.txt").write_text("not on the list")
    return directory


@pytest.fixture
def files(model, tmp_path, monkeypatch) -> dict[str, StaticFile]:
    package = tmp_path / "npm"
    package.mkdir()
    (package / "ort.wasm").write_bytes(b"\0asm")
    monkeypatch.setattr(local_page, "fetch_npm", lambda _: package)
    return static_files(model, "mini", min_score=0.25)


@contextmanager
def running(files):
    """A connection to a server of these files; the socket's end is that of the server."""
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    threading.Thread(target=serve_files, args=(files, listening), daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    yield connection
    connection.close()


def test_list(files):
    about = json.loads(files["/web/about.json"].content)
    assert (about["model"], about["min_score"]) == ("mini in this browser", 0.25)
    assert about["files"]["weights.bin"] == len("weights")
    assert {f"/web/model/{name}" for name in about["files"]} == {
        path for path in files if path.startswith("/web/model")
    }
    assert "/web/model/language.onnx" not in files  # its graph for the browser is another one
    for path in ("/", "/web/page.js", "/web/shared/base.css", "/web/local/worker.js", "/web/npm/ort.wasm"):
        assert path in files
    assert {f"/web/examples/{one['name']}.png" for one in about["examples"]} <= files.keys()


def test_answers_and_headers(files):
    with running(files) as connection:
        for path, media_type in {
            "/": "text/html",
            "/web/api.js": "text/javascript",
            "/web/npm/ort.wasm": "application/wasm",
        }.items():
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200
            assert response.getheader("Content-Type").split(";")[0] == media_type
            assert len(body) == int(response.getheader("Content-Length")) > 0
            assert response.getheader("Cross-Origin-Opener-Policy") == "same-origin"
            assert response.getheader("Cross-Origin-Embedder-Policy") == "require-corp"
            assert "connect-src 'self'" in response.getheader("Content-Security-Policy")
        assert b"local/api.js" in body or path != "/web/api.js"
        connection.request("HEAD", "/web/model/weights.bin?x=1")
        response = connection.getresponse()
        assert (response.status, response.getheader("Content-Length"), response.read()) == (200, "7", b"")


@pytest.mark.parametrize(
    "path",
    [
        *("/web/model/secret.txt", "/web/model/../model/weights.bin", "/web/../../pyproject.toml", "//etc/passwd"),
        *("/web/model/%2e%2e/secret.txt", "/web/%2e%2e/%2e%2e/etc/passwd", "/web/", "/web/local", "/web/missing.js"),
    ],
)
def test_nothing_else(files, path):
    with running(files) as connection:
        connection.request("GET", path)
        assert connection.getresponse().status == 404


def test_takes_nothing(files):
    with running(files) as connection:
        connection.request("POST", "/", body=b"an image")
        assert connection.getresponse().status == 501


def test_file_that_went_away(files, model):
    (model / "weights.bin").unlink()
    with running(files) as connection:
        connection.request("GET", "/web/model/weights.bin")
        assert connection.getresponse().status == 404


def test_incomplete_model(model):
    (model / "masks.onnx").unlink()
    with pytest.raises(ValueError, match=r"expected an exported model in .*, got no masks.onnx. Export it again"):
        static_files(model, "mini")
