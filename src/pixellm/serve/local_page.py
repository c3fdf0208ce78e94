"""Static server of `pixellm web --local`: the page, onnxruntime-web and an exported model, which run in the browser.

Only the files of a list that is made at the start are served; images and questions never reach this server.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from urllib.parse import urlsplit

from pixellm.prompts import PROCESSOR_CONFIG, TOKENIZER
from pixellm.runtime.manifest import ENCODE, LANGUAGE, LANGUAGE_UNPACKED, MANIFEST, MASKS, WEIGHTS, Manifest
from pixellm.serve import page_content
from pixellm.utils.limits import MAX_QUESTION_CHARS, MAX_TURNS
from pixellm.utils.npm import NpmPackage, fetch_npm

logger = logging.getLogger(__name__)

ONNXRUNTIME = NpmPackage(
    name="onnxruntime-web",
    version="1.30.0",
    integrity="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    members=(
        "dist/ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
    ),
    megabytes=33,
)
TOKENIZERS = NpmPackage(
    name="@huggingface/tokenizers",
    version="0.2.0",
    integrity="LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
    members=("dist/tokenizers.min.mjs",),
    megabytes=0.1,
)
PACKAGES = (ONNXRUNTIME, TOKENIZERS)
API = "api.js"  # of the page; here it asks the model in the browser
LOCAL = "local"  # directory of what is only here
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
HEADERS = {
    # WebAssembly may run; nothing may be loaded from, or sent to, anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; connect-src 'self' blob:; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    # Cross-origin isolation: without it, browsers give no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class StaticFile:
    """A file, or bytes, with its media type."""

    content: Path | bytes
    media_type: str

    @classmethod
    def of(cls, path: Path) -> "StaticFile":
        """Return the entry of a file, with the media type of its suffix."""
        return cls(path, MEDIA_TYPES.get(path.suffix, "application/octet-stream"))


def static_files(model: Path, name: str, min_score: float = 0.0) -> dict[str, StaticFile]:
    """Return what is served, by path.

    Args:
        model: directory of an exported model.
        name: of the model, which the page shows.
        min_score: 0..1, where the page's minimum score starts.

    Raises:
        ValueError: a file of the model is missing, or the npm packages can't be fetched.
    """
    language = LANGUAGE if Manifest.read(model / MANIFEST).precision == "float32" else LANGUAGE_UNPACKED
    parts = (MANIFEST, PROCESSOR_CONFIG, TOKENIZER, ENCODE, language, MASKS, WEIGHTS)
    if missing := [file for file in parts if not (model / file).is_file()]:
        raise ValueError(f"expected an exported model in {model}, got no {', '.join(missing)}. Export it again.")
    about = page_content.about(f"{name} in this browser", MAX_TURNS, MAX_QUESTION_CHARS, min_score)
    about["files"] = {file: (model / file).stat().st_size for file in parts}
    files = {
        "/": StaticFile.of(page_content.PAGE / "index.html"),
        "/web/about.json": StaticFile(json.dumps(about).encode(), MEDIA_TYPES[".json"]),
        **_directory("/web", page_content.PAGE),
        **_directory(f"/web/{LOCAL}", page_content.PAGE / LOCAL),
        **_directory("/web/shared", page_content.SHARED),
        **{f"/web/model/{file}": StaticFile.of(model / file) for file in parts},
    }
    files[f"/web/{API}"] = StaticFile(f'export * from "./{LOCAL}/{API}";\n'.encode(), MEDIA_TYPES[".js"])
    for package in PACKAGES:
        files |= _directory("/web/npm", fetch_npm(package))
    for example in page_content.examples():
        files[f"/web/examples/{example}.png"] = StaticFile(page_content.example_image(example), MEDIA_TYPES[".png"])
        files[f"/web/examples/{example}.jpg"] = StaticFile(page_content.example_thumbnail(example), MEDIA_TYPES[".jpg"])
    return files


def _directory(prefix: str, directory: Path) -> dict[str, StaticFile]:
    return {f"{prefix}/{path.name}": StaticFile.of(path) for path in sorted(directory.iterdir()) if path.is_file()}


def serve_files(files: Mapping[str, StaticFile], listening: socket) -> None:
    """Serve files on a listening socket until a KeyboardInterrupt."""
    handler = partial(StaticHandler, files)
    with ThreadingHTTPServer(listening.getsockname()[:2], handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listening
        server.serve_forever()


class StaticHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the paths of a list, as they are written: nothing is decoded or joined."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte

    def __init__(self, files: Mapping[str, StaticFile], *connection) -> None:
        self._files = files
        super().__init__(*connection)

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        return "pixellm"

    def log_message(self, format: str, *args) -> None:
        logger.debug(format, *args)

    def _respond(self, with_body: bool) -> None:
        file = self._files.get(urlsplit(self.path).path)
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with suppress(ConnectionError, TimeoutError):  # the browser went away
            if isinstance(file.content, bytes):
                self._head(len(file.content), file.media_type)
                if with_body:
                    self.wfile.write(file.content)
            else:
                self._send_path(file.content, file.media_type, with_body)

    def _send_path(self, path: Path, media_type: str, with_body: bool) -> None:
        try:
            opened = path.open("rb")
        except OSError as error:
            logger.warning("%s can't be read: %s", path, error.strerror)
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with opened:
            self._head(path.stat().st_size, media_type)
            if with_body:
                shutil.copyfileobj(opened, self.wfile, 1 << 20)

    def _head(self, length: int, media_type: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(length))
        self.end_headers()
