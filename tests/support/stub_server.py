"""An HTTP server that answers with what it is given: what clients of ours send."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from PIL import Image

KEPT = 200, json.dumps({"id": "1", "image": "images/1.png", "replaced": False})  # answer of /v1/corrections


@contextmanager
def stub_server() -> Iterator[tuple[str, list[tuple[int, str]], list[tuple[str, str | None, dict]]]]:
    """Yield its address, the answers to come (status, text), and the requests (path, authorization, JSON)."""
    answers, seen = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            status, text = answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers, seen
    server.shutdown()


def sent_image(body: dict) -> Image.Image:
    """The image of a request."""
    return Image.open(io.BytesIO(base64.b64decode(body["image"].partition(",")[2]))).convert("RGB")
