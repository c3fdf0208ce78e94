"""CVAT's finished jobs, read by its SDK from a server with CVAT's documented answers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from pixellm import cli
from pixellm.imaging import masks
from tests.support.colours import flag, flag_file, mask_of
from tests.support.stub_server import KEPT, sent_image, stub_server

pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk[masks] is not installed")

from cvat_sdk.masks import encode_mask

RED, GREEN = mask_of(flag(), "red"), mask_of(flag(), "green")


def job(number, stage="acceptance", state="completed", kind="annotation"):
    user = {"url": "http://cvat/api/users/1", "id": 1, "username": "ann", "first_name": "", "last_name": ""}
    row = {"id": number, "task_id": 7, "assignee": user, "stage": stage, "state": state, "type": kind}
    row["organization"] = None
    summary = {"url": "http://cvat/api"}
    return row | {"issues": summary | {"count": 0}, "labels": summary}


def shape(frame, label, mask, **fields):
    points = [float(value) for value in encode_mask(mask)]
    return {"type": "mask", "label_id": label, "frame": frame, "points": points, "source": "semi-auto", **fields}


HALF = RED.copy()
HALF[:, 5:] = False
SHAPES = [
    shape(3, 1, HALF),
    shape(3, 1, RED & ~HALF),
    shape(3, 2, GREEN),
    shape(4, 2, GREEN, type="polygon", points=[5.0, 15.0, 35.0, 15.0, 35.0, 30.0, 5.0, 30.0]),
    shape(4, 1, RED, type="rectangle", points=[0.0, 0.0, 9.0, 9.0]),
    shape(5, 1, RED),  # of a frame that is deleted
]
PAGE = {"next": None, "previous": None}
LABELS = [{"id": 1, "name": "Red"}, {"id": 2, "name": "Green"}]
ANSWERS = {
    "/api/server/about": {"name": "CVAT", "description": "", "version": "2.80.0", "subtitle": "", "logo_url": ""},
    "/api/jobs": PAGE | {"count": 4, "results": [job(1), job(2, state="in progress"), job(3, "validation")]},
    "/api/labels": PAGE | {"count": 2, "results": LABELS},
    "/api/jobs/1/data/meta": {"chunks_updated_date": "2026-01-01T00:00:00Z", "frames": None, "deleted_frames": [5]},
    "/api/jobs/1/annotations/": {"version": 0, "tags": [], "shapes": SHAPES, "tracks": []},
}
ANSWERS["/api/jobs"]["results"].append(job(4, kind="ground_truth"))


@pytest.fixture
def server():
    """CVAT's address, and what was asked: path, query and authorization."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            place = urlsplit(self.path)
            seen.append((place.path, parse_qs(place.query), self.headers.get("Authorization")))
            if place.path != "/api/server/about" and self.headers.get("Authorization") != "Bearer token":
                self.send_error(401, "Unauthorized")
                return
            is_frame = place.path == "/api/jobs/1/data"
            body = flag_file() if is_frame else json.dumps(ANSWERS[place.path]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "image/png" if is_frame else "application/vnd.cvat+json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    cvat = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=cvat.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{cvat.server_port}", seen
    cvat.shutdown()


def run(monkeypatch, *arguments, token="token"):
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", token)
    monkeypatch.setattr("sys.argv", ["pixellm", "corrections", "cvat", "7", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_finished_jobs_are_sent(server, monkeypatch, capsys):
    cvat, asked = server
    with stub_server() as (url, answers, seen):
        answers += [KEPT] * 9
        assert run(monkeypatch, "--cvat", cvat, "--server", url) == 0
    assert "3 corrections of 1 jobs kept; 3 are not finished" in capsys.readouterr().out
    bodies = [body for _, _, body in seen]
    assert [body["phrase"] for body in bodies] == ["Red", "Green", "Green"]
    for body, mask in zip(bodies, (RED, GREEN, GREEN), strict=True):
        assert np.array_equal(masks.decode(body["segmentation"], 30, 40), mask)
        assert (body["tool"], body["user"]) == ("cvat", "ann")
        assert "before" not in body
        assert sent_image(body).tobytes() == flag().tobytes()
    frames = [query for path, query, _ in asked if path == "/api/jobs/1/data"]
    assert [(query["number"], query["quality"]) for query in frames] == [(["3"], ["original"]), (["4"], ["original"])]


def test_errors(server, monkeypatch, capsys):
    cvat, _ = server
    for arguments, token, message in (
        (("--cvat", cvat), "", "Make one in CVAT's settings"),
        (("--cvat", cvat), "wrong", "Is CVAT_ACCESS_TOKEN right?"),
        (("--cvat", "http://127.0.0.1:1"), "token", "expected CVAT at http://127.0.0.1:1"),
    ):
        assert run(monkeypatch, *arguments, token=token) == 2
        assert message in " ".join(capsys.readouterr().err.split())
