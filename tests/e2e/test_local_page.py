"""The page of `pixellm web --local` in a real browser, with pixellm-mini: its answers are those of the runtime.

One server, one browser and one load of the model serve all tests that ask; the others need no model.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from pixellm.hub.models import resolve_graphs
from pixellm.imaging import masks
from pixellm.imaging.examples import SHIPPED
from pixellm.imaging.geometry import Letterbox
from pixellm.imaging.images import load_image
from pixellm.imaging.postprocess import binarize
from pixellm.inference.answer_builder import phrase_span
from pixellm.loading import load_graphs
from pixellm.prompts import PromptEncoder
from pixellm.serve.local_page import PACKAGES, StaticFile, serve_files, static_files
from pixellm.types import Answer, Target
from pixellm.utils.npm import fetch_npm
from pixellm.utils.sockets import listen
from tests.support import browsing, tiny
from tests.support.browsing import expect, needs_browser

pytestmark = needs_browser
IMAGE, QUESTION, FOLLOW_UP = "coffee", "Segment the spoon and the cup.", "And the dining table <image> [SEG0]?"
LOADING = 180_000  # milliseconds, on a busy machine
# Records what the worker sends, with times.
RECORD = """
    window.messages = [];
    window.Worker = class extends Worker {
        constructor(...settings) {
            super(...settings);
            this.addEventListener("message", ({data}) => messages.push({...data, at: performance.now()}));
        }
    };
"""


def serve(files: dict[str, StaticFile]) -> str:
    """Serve files until the tests end; returns the address."""
    listening = listen("127.0.0.1", 0)
    threading.Thread(target=serve_files, args=(files, listening), daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(scope="module")
def files() -> dict[str, StaticFile]:
    try:
        for package in PACKAGES:
            fetch_npm(package)
    except ValueError as error:
        pytest.skip(f"the npm packages of the page can't be had here: {error}")
    return static_files(resolve_graphs("pixellm-mini"), "pixellm-mini")


@pytest.fixture(scope="module")
def browser():
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def runtime():
    predictor = load_graphs("pixellm-mini", threads=1)
    predictor.set_image(f"example:{IMAGE}")
    return predictor


@pytest.fixture(scope="module")
def page(browser, files):
    """The page with a loaded model."""
    with browsing.opened(browser) as page:
        page.set_default_timeout(LOADING)
        page.add_init_script(RECORD)
        started = time.monotonic()
        page.goto(serve(files))
        expect(page.locator("#state")).to_contain_text("Loading the model")
        page.wait_for_selector("#state:empty", state="attached")
        print(f"\nmodel loaded in {time.monotonic() - started:.1f} s")
        yield page


def ask(page, question: str) -> list[dict]:
    """Ask by the page's form; returns the worker's messages."""
    before = page.evaluate("messages.length")
    count = page.locator(".entry").count()
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".entry")).to_have_count(count + 1)
    expect(page.locator(".entry").last).to_have_attribute("aria-busy", "false", timeout=LOADING)
    return page.evaluate(f"messages.slice({before})")


def check_equal(messages: list[dict], expected: Answer) -> None:
    deltas = [message["delta"] for message in messages if "delta" in message]
    assert tuple(token for delta in deltas for token in delta["ids"]) == expected.token_ids
    assert "".join(delta["content"] for delta in deltas) == expected.text
    targets = [target for delta in deltas for target in delta["targets"]]
    assert [tuple(target["span"]) for target in targets] == [target.span for target in expected.targets]
    assert [target["phrase"] for target in targets] == [target.phrase for target in expected.targets]
    for ours, theirs in zip(targets, expected.targets, strict=True):
        mask = masks.decode(ours["segmentation"], *ours["segmentation"]["size"])
        assert (mask & theirs.mask).sum() / (mask | theirs.mask).sum() >= 0.99
        assert (ours["area"], tuple(ours["box"])) == (mask.sum(), masks.bounding_box(mask))
        assert ours["score"] == pytest.approx(theirs.score, abs=0.01)
        assert ours["presence"] == pytest.approx(theirs.presence, abs=0.01)


def test_answers_are_those_of_the_runtime(page, runtime):
    assert page.evaluate("crossOriginIsolated")  # there are threads
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.locator("#file").set_input_files(SHIPPED / "coffee.png")
    asked = page.evaluate("performance.now()")
    messages = ask(page, QUESTION)
    first = next(message["at"] for message in messages if message.get("delta", {}).get("targets"))
    print(f"\ntime to first mask: {(first - asked) / 1000:.1f} s, image included")
    expected = runtime.ask(QUESTION)
    assert len(expected.targets) == 2
    check_equal(messages, expected)
    expect(page.locator(".mask")).to_have_count(2)
    expect(page.locator(".phrase")).to_have_count(2)

    # The image is not encoded again; control tokens are plain text, the history is read.
    page.locator("#follow").check()
    started = page.evaluate("performance.now()")
    messages = ask(page, FOLLOW_UP)
    print(f"follow-up: {(messages[-1]['at'] - started) / 1000:.1f} s")
    check_equal(messages, runtime.ask(FOLLOW_UP, history=[expected]))
    assert {urlsplit(url).scheme for url in requests} <= {"blob"}  # nothing left this computer's browser


@pytest.mark.slow
def test_stopped_and_asked_again(page, runtime):
    page.locator("#follow").uncheck()
    page.locator("#question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator("#stop").click()
    expect(page.locator(".entry").last).to_have_attribute("aria-busy", "false")
    expect(page.locator(".remark").last).to_have_text("Stopped.")
    check_equal(ask(page, QUESTION), runtime.ask(QUESTION))


def test_file_that_is_no_image(page):
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"}
    page.locator("#file").set_input_files(file)
    expect(page.locator("#notice")).to_contain_text("Expected an image that a browser can show")


# --- modules, one by one ---


@pytest.mark.parametrize("size", [(300, 640), (40, 31), (1, 9)])
def test_letterbox_is_that_of_the_runtime(page, size):
    image = load_image(tiny.picture(*size))
    settings = {"image_size": 512, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
    square, hw = Letterbox.of(settings)(image)
    found, different, most = page.evaluate(
        """async ([rgba, square, width, height, settings]) => {
            const {letterbox} = await import("/web/local/letterbox.js");
            const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
            const {pixels, hw} = letterbox({data: bytes(rgba), width, height}, settings);
            const expected = new Float32Array(bytes(square).buffer);
            const distances = pixels.map((pixel, i) => Math.abs(pixel - expected[i])).filter((distance) => distance);
            return [hw, distances.length, Math.max(0, ...distances)];
        }""",
        [*(base64.b64encode(data).decode() for data in (image.convert("RGBA").tobytes(), square)), *size, settings],
    )
    assert found == list(hw)
    assert different <= 2  # of 786432; Pillow's compiler may round a weight otherwise
    assert most <= 1.01 / 255 / min(settings["image_std"])


@pytest.mark.parametrize(
    ("hw", "resized"), [((300, 451), (341, 512)), ((640, 200), (512, 160)), ((200, 300), (43, 64))]
)
@pytest.mark.parametrize("peak_share", [None, 0.5])
def test_masks_are_those_of_the_runtime(page, hw, resized, peak_share):
    logits = np.random.default_rng(0).standard_normal((16, 16), np.float32) - (0 if peak_share is None else 4)
    logits = np.kron(logits, np.ones((8, 8), np.float32))
    (expected,) = binarize(logits[None], resized, hw, peak_share)
    found = page.evaluate(
        """async ([logits, resized, hw, share]) => {
            const {binarize} = await import("/web/local/postprocess.js");
            return binarize(Float32Array.from(logits), 128, resized, hw, share);
        }""",
        [logits.ravel().tolist(), resized, hw, peak_share],
    )
    mask = masks.decode(expected.rle, *hw)
    assert found["segmentation"]["size"] == list(hw)
    assert (masks.decode(found["segmentation"], *hw) != mask).mean() < 1e-5  # exp differs in its last bit
    assert found["score"] == pytest.approx(expected.score, abs=1e-5)
    assert found["area"] == pytest.approx(mask.sum(), abs=2)


def test_prompts_are_those_of_the_runtime(page, files):
    directory = files["/web/model/manifest.json"].content.parent
    prompts = PromptEncoder.from_directory(directory)
    target = Target("the cat", (4, 11), {}, None)
    text = "Sure, the 🐈 cat\n and more  "
    history = [Answer("What <image>?", text, (target,), (2, 2))]
    questions = ["Segment the cat.", "  It's [SEG0] <|im_end|> — 日本 🎉\n\n1234", "é\u200b\ta"]
    found = page.evaluate(
        """async ([questions, history]) => {
            const {PromptEncoder} = await import("/web/local/prompts.js");
            const [file, settings] = await Promise.all(["tokenizer.json", "processor_config.json"].map(
                async (name) => (await fetch(`/web/model/${name}`)).json()));
            const prompts = new PromptEncoder(file, settings);
            const ids = questions.map((question) => prompts.promptIds(question, history));
            const texts = ids.map((one) => prompts.decode(one));
            return {ids, texts, prefix: prompts.prefixIds(), end: prompts.endId()};
        }""",
        [questions, [{"question": "What <image>?", "text": text, "spans": [[4, 11]]}]],
    )
    expected = [prompts.prompt_ids(question, history) for question in questions]
    assert found["ids"] == expected
    assert (found["prefix"], [found["end"]]) == (prompts.prefix_ids, prompts.eos_ids)
    assert found["texts"] == [prompts.decode_text(ids) for ids in expected]


def test_phrases_are_those_of_the_runtime(page):
    texts = [
        *(
            "You could sit on the chair",
            "The soup could be served in the bowl",
            "It is who is the one",
            "I see 14 dogs",
        ),
        *("The cat", "Sure, it is the cat", "A dog. There are two cats, and the", "Yes, here are a, b: c,", "and "),
        *(
            "The segmentation result of the sofa is",
            "one; two; \n",
            "or then the lamp are",
            "",
            "Andes and or",
            "x is are",
        ),
    ]
    cases = [(text, start) for text in texts for start in (0, min(4, len(text)))]
    found = page.evaluate(
        """async (cases) => {
            const {phraseSpan} = await import("/web/local/answer.js");
            return cases.map(([text, start]) => phraseSpan(text, start));
        }""",
        cases,
    )
    assert found == [list(phrase_span(text, start)) for text, start in cases]


def test_repetition_guard(page):
    ids = [1, 2, 3, 9, 1, 2, 4, 1, 2]
    found = page.evaluate(
        """async (ids) => {
            const {nextToken} = await import("/web/local/sampling.js");
            const choose = (settings) => nextToken(Float32Array.of(-1, 1, -3, 9, 8, 7), ids, settings);
            const guard = (size) => choose({no_repeat_ngram_size: size});
            return [choose({}), guard(3), choose({repetition_penalty: 10}), guard(20)];
        }""",
        ids,
    )
    assert found == [3, 5, 5, 3]  # 1 2 3 and 1 2 4 were there; 3 and 4 were used


# --- what can be wrong ---


def test_missing_file(browser, files):
    address = serve({path: file for path, file in files.items() if path != "/web/model/weights.bin"})
    with browsing.opened(browser) as page:
        page.goto(address)
        expect(page.locator("#notice")).to_contain_text("Expected the model's file weights.bin, got status 404.")


def test_no_webassembly(browser, files):
    with browsing.opened(browser) as page:
        page.add_init_script("delete window.WebAssembly")
        page.goto(serve(files))
        expect(page.locator("#notice")).to_contain_text("This browser has no WebAssembly")


def test_too_little_memory(browser, files):
    about = json.loads(files["/web/about.json"].content)
    about["files"]["weights.bin"] = 1 << 45
    changed = StaticFile(json.dumps(about).encode(), "application/json")
    with browsing.opened(browser) as page:
        page.goto(serve({**files, "/web/about.json": changed}))
        expect(page.locator("#notice")).to_contain_text("too little memory for the model")


# --- the command ---


def start(*options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pixellm", "web", "--local", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_command_ends_quietly(files, end):
    with start("--port", "0") as process:
        try:
            line = process.stdout.readline()
            assert "(Ctrl-C ends)" in line
            process.send_signal(end)
            assert process.wait(timeout=20) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()  # or a command that does not end holds up the tests


def test_busy_port_and_options_of_the_server():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = start("--port", str(port))
        _, errors = result.communicate(timeout=60)
    assert result.returncode == 2
    assert f"127.0.0.1:{port}" in errors
    result = start("--device", "cpu")
    _, errors = result.communicate(timeout=60)
    assert result.returncode == 2
    assert "expected --local without" in " ".join(errors.split())
