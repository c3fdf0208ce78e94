"""A Hugging Face Hub on the loopback: the routes that the stock client reads models by, with the faults of a bad day.

HEAD|GET /OWNER/NAME/resolve/REVISION/PATH   small files here; large ones (LFS) by a redirect to another host name
GET /cdn/SHA256                              their content, with ranges
GET /api/models/OWNER/NAME[/revision/…]      commit and list of files
"""

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = 1 << 16
LARGE = (".bin", ".safetensors", ".model")  # in LFS


@dataclass
class Faults:
    """What goes wrong; counters go down with each use."""

    busy: int = 0  # requests answered with 429
    retry_after: str = "1"
    broken: int = 0  # requests answered with 503
    cuts: int = 0  # contents cut after `cut_after` bytes
    cut_after: int = 100_000
    corrupt: int = 0  # contents with a wrong byte
    ignore_ranges: bool = False
    gated: bool = False
    bytes_per_second: float = 0  # 0: as fast as it goes


@dataclass
class LoopbackHub:
    """Repositories in memory, and a log of (method, path, Range header)."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0  # bytes of large files
    url: str = ""

    def add(self, repo_id: str, directory: Path, subfolder: str = "") -> None:
        files = self.repositories.setdefault(repo_id, {})
        prefix = f"{subfolder}/" if subfolder else ""
        files |= {prefix + file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}

    def commit(self, repo_id: str) -> str:
        files = self.repositories[repo_id]
        return _sha1("".join(f"{name} {_sha256(files[name])}\n" for name in sorted(files)).encode())

    def content(self, sha256: str) -> bytes | None:
        contents = (content for files in self.repositories.values() for content in files.values())
        return next((content for content in contents if _sha256(content) == sha256), None)

    def ranges(self) -> list[str]:
        """Ranges of large files that were asked for."""
        return [
            asked for method, path, asked in self.requests if method == "GET" and path.startswith("/cdn/") and asked
        ]


@lru_cache(1024)
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache(1024)
def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _blob_id(content: bytes) -> str:
    """Git's name of a content."""
    return _sha1(b"blob %d\0" % len(content) + content)


@contextmanager
def running(hub: LoopbackHub) -> Iterator[LoopbackHub]:
    """Serve the hub at `hub.url`."""
    handler = type("HubHandler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def point_at(hub: LoopbackHub, monkeypatch) -> None:
    """Let the stock client of this process, which reads HF_ENDPOINT when it is imported, use the hub."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def published(hub: LoopbackHub, shared: Path) -> LoopbackHub:
    """Add the reference checkpoints under the names of the real ones, in their layouts."""
    hub.add("maverickrzw/PixelLM-7B", shared / "reference" / "hf_model", "hf_model")
    hub.repositories["maverickrzw/PixelLM-7B"]["README.md"] = b"---\nlicense: apache-2.0\n---\n"
    hub.add("openai/clip-vit-large-patch14-336", shared / "reference" / "clip-tiny")
    hub.add("xinlai/LISA-7B-v1", shared / "reference_lisa" / "hf_model")
    hub.add("openai/clip-vit-large-patch14", shared / "reference_lisa" / "clip-tiny")
    return hub


def without_space(monkeypatch, free: int) -> None:
    """Let the disk have `free` bytes."""
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("pixellm.hub.room.shutil.disk_usage", lambda _path: usage._replace(free=free))


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        faults = self.hub.faults
        if faults.busy > 0:
            faults.busy -= 1
            return self._send(429, headers={"Retry-After": faults.retry_after})
        if faults.broken > 0:
            faults.broken -= 1
            return self._send(503)
        if match := re.fullmatch(r"/cdn/(\w+)", path):
            return self._large(self.hub.content(match[1]))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._described(match[1], match[2] or "main")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self._tree(*match.groups())
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*match.groups())
        return self._send(404)

    def _refused(self, repo_id: str, revision: str) -> bool:
        if repo_id not in self.hub.repositories:
            self._send(401, headers={"X-Error-Code": "RepoNotFound"})
        elif self.hub.faults.gated:
            self._send(403, headers={"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", self.hub.commit(repo_id)):
            self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def _described(self, repo_id: str, revision: str) -> None:
        if self._refused(repo_id, revision):
            return
        siblings = [{"rfilename": name} for name in self.hub.repositories[repo_id]]
        described = {"id": repo_id, "modelId": repo_id, "sha": self.hub.commit(repo_id), "siblings": siblings}
        self._send(200, json.dumps(described).encode(), {"Content-Type": "application/json"})

    def _tree(self, repo_id: str, revision: str) -> None:
        if self._refused(repo_id, revision):
            return
        entries = []
        for name, content in self.hub.repositories[repo_id].items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": _blob_id(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _file(self, repo_id: str, revision: str, name: str) -> None:
        if self._refused(repo_id, revision):
            return
        headers = {"X-Repo-Commit": self.hub.commit(repo_id)}
        content = self.hub.repositories[repo_id].get(name)
        if content is None:
            return self._send(404, headers=headers | {"X-Error-Code": "EntryNotFound"})
        if not name.endswith(LARGE):
            return self._send(200, content, headers | {"ETag": f'"{_blob_id(content)}"'})
        digest = _sha256(content)
        location = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{digest}?signature=x"
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"', "Location": location}
        return self._send(302, headers=headers | linked)

    def _large(self, content: bytes | None) -> None:
        if content is None:
            return self._send(404)
        faults = self.hub.faults
        if faults.corrupt > 0:
            faults.corrupt -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, total = 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not faults.ignore_ranges:
            start = int(asked[1])
            if start >= total:
                return self._send(416, headers={"Content-Range": f"bytes */{total}"})
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        if self.command == "GET":
            self._stream(content[start:])
        return None

    def _stream(self, content: bytes) -> None:
        faults = self.hub.faults
        if faults.cuts > 0 and len(content) > faults.cut_after:
            faults.cuts -= 1
            content = content[: faults.cut_after]
            self.close_connection = True
        try:
            for offset in range(0, len(content), CHUNK):
                chunk = content[offset : offset + CHUNK]
                self.hub.sent += len(chunk)  # before the client has it, and may ask what was sent
                self.wfile.write(chunk)
                if faults.bytes_per_second:
                    time.sleep(CHUNK / faults.bytes_per_second)
        except OSError:  # the client is gone
            self.close_connection = True

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
