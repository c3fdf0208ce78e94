"""The page of `pixellm web` in a real browser, on a server with a tiny model."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import httpx2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pixellm.segmenter import load
from tests.support import browsing, serving, tiny
from tests.support.browsing import expect, needs_browser
from tests.support.serving import KEY, QUESTIONS, TOKENS

WHERE, WHAT = QUESTIONS[:2]
WITHOUT_NUMBERS = (
    "answer => { const bare = answer.cloneNode(true); bare.querySelectorAll('sup').forEach(one => one.remove());"
    " return bare.textContent; }"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model):
    with serving.serving(model, "--page", "--max-new-tokens", str(TOKENS), keys=(KEY,)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with browsing.chromium() as browser:
        yield browser


def visit(page, server, key=KEY):
    """The page with a key in its pocket."""
    if key:
        page.add_init_script(f"sessionStorage.setItem('pixellm-key', '{key}')")
    page.goto(server.url)
    expect(page.locator("#examples button")).to_have_count(6)


@pytest.fixture
def page(browser, server):
    with browsing.opened(browser) as page:
        visit(page, server)
        yield page


def upload(page, seed=0, name="photo.png"):
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": serving.png(seed=seed)})
    expect(page.locator("#work")).to_be_visible()
    expect(page.locator("#image")).to_have_attribute("alt", name)


def ask(page, question, wait=True):
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    if wait:
        expect(page.locator(".entry").last).to_have_attribute("aria-busy", "false")


def said(page, number=-1):
    """Text of an answer, without the numbers of its masks."""
    return page.locator(".answer").nth(number).evaluate(WITHOUT_NUMBERS)


def lit(page, kind):
    return page.locator(f".{kind}.lit").evaluate_all("all => all.map(one => one.dataset.target)")


def a_mask(page):
    """Number of a mask that the pointer can get at, and where: the topmost in a grid of points."""
    found = page.evaluate(
        """() => {
            const box = document.getElementById("masks").getBoundingClientRect();
            for (let i = 1; i < 400; i++) {
                const [x, y] = [box.x + box.width * ((i % 20) + 0.5) / 20, box.y + box.height * (i / 20 | 0) / 20];
                const one = document.elementFromPoint(x, y);
                if (one?.classList.contains("mask")) return [one.dataset.target, x, y];
            }
        }"""
    )
    assert found, "no mask is to be seen"
    return found


def saved(page, button):
    with page.expect_download() as waiting:
        page.locator(button).click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


# --- asking ---


@needs_browser
def test_upload_ask_and_watch_the_answer_come(page, model):
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const entry = document.querySelector(".entry");
                if (entry?.getAttribute("aria-busy") === "true") {
                    seen.push([entry.querySelector(".answer").textContent.length,
                               entry.querySelectorAll(".phrase").length, document.querySelectorAll(".mask").length]);
                }
            }).observe(document.getElementById("entries"), {childList: true, subtree: true});
        }"""
    )
    upload(page)
    ask(page, WHERE)
    expected = serving.offline(model, WHERE)
    assert said(page) == expected["text"]
    assert page.locator(".phrase").count() == len(expected["targets"]) > 1
    seen = page.evaluate("seen")
    assert len({length for length, _, _ in seen}) > 3  # it grew
    assert any(0 < phrases == masks < len(expected["targets"]) for _, phrases, masks in seen)  # masks came on the way
    expect(page.locator(".remark")).to_contain_text("cut off")  # this model finds no end
    assert page.locator(".phrase").evaluate_all("all => new Set(all.map(p => getComputedStyle(p).boxShadow)).size") > 1


@needs_browser
@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_and_pasted(page, way):
    page.evaluate(
        """([way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "given.png", {type: "image/png"}));
            const event = way === "drop"
                ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.body.dispatchEvent(event);
        }""",
        [way, list(serving.png())],
    )
    expect(page.locator("#image")).to_have_attribute("alt", "given.png")
    expect(page.locator("#image")).to_have_js_property("naturalWidth", 60)


@needs_browser
def test_an_example_takes_two_clicks(page, server):
    page.locator("#examples button", has_text="cat").first.click()
    expect(page.locator("#image")).to_have_js_property("naturalWidth", 451)
    page.locator("#suggestions button").click()
    expect(page.locator(".entry")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".asked")).to_have_text("Segment the cat.")
    assert said(page)


@needs_browser
def test_follow_up_questions_and_history(page, model):
    upload(page)
    ask(page, WHERE)
    page.locator("#follow").check()
    ask(page, WHAT)
    predictor = load(model)
    predictor.set_image(tiny.picture(60, 40))
    first = predictor.ask(WHERE, max_new_tokens=TOKENS)
    second = predictor.ask(WHAT, (first,), max_new_tokens=TOKENS)
    assert [said(page, 0), said(page, 1)] == [first.text, second.text]
    page.locator("#follow").uncheck()
    ask(page, WHAT)
    assert said(page) == predictor.ask(WHAT, max_new_tokens=TOKENS).text != second.text

    def count(answer):
        return sum(target.area > 0 for target in answer.targets)

    page.locator(".asked", has_text=WHERE).click()
    expect(page.locator(".mask")).to_have_count(count(first))
    expect(page.locator(".entry.shown .asked")).to_have_text(WHERE)
    page.keyboard.press("ArrowDown")
    expect(page.locator(".mask")).to_have_count(count(second))
    # Another image begins anew, and the old one is found again with its answers.
    upload(page, seed=5, name="other.png")
    expect(page.locator(".mask")).to_have_count(0)
    ask(page, WHERE)
    assert said(page) == serving.offline(model, WHERE, 5)["text"]
    page.locator(".asked").first.click()
    expect(page.locator("#image")).to_have_attribute("alt", "photo.png")


@needs_browser
def test_two_tabs_do_not_meet(browser, server, model):
    context = browser.new_context()
    tabs = [context.new_page(), context.new_page()]
    for seed, tab in enumerate(tabs):
        visit(tab, server)
        upload(tab, seed)
    for tab in tabs:
        ask(tab, WHERE, wait=False)
    for seed, tab in enumerate(tabs):
        expect(tab.locator(".entry")).to_have_attribute("aria-busy", "false")
        assert said(tab) == serving.offline(model, WHERE, seed)["text"]
        assert tab.locator(".entry").count() == 1
    context.close()


# --- phrases and masks ---


@needs_browser
def test_phrase_and_mask_light_up_together(page):
    upload(page)
    ask(page, WHERE)
    number, x, y = a_mask(page)
    phrase = page.locator(f'.phrase[data-target="{number}"]')
    phrase.click()
    assert [lit(page, kind) for kind in ("mask", "phrase", "target")] == [[number]] * 3
    phrase.click()
    assert lit(page, "mask") == []

    page.mouse.move(x, y)
    expect(page.locator(".phrase.pointed")).to_have_attribute("data-target", number)
    mask = page.locator(f'.mask[data-target="{number}"]')
    assert mask.evaluate("mask => getComputedStyle(mask).stroke") == "rgb(255, 255, 255)"
    page.mouse.click(x, y)
    assert [lit(page, kind) for kind in ("mask", "phrase", "target")] == [[number]] * 3


@needs_browser
def test_by_keyboard_alone(page):
    page.keyboard.press("Tab")  # theme
    upload(page)
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("/")
    page.keyboard.type(WHERE)
    page.keyboard.press("Enter")
    expect(page.locator(".entry")).to_have_attribute("aria-busy", "false")
    page.keyboard.press("Escape")  # out of the field
    number = a_mask(page)[0]
    page.keyboard.press(str(int(number) + 1))
    assert lit(page, "phrase") == [number]
    page.keyboard.press("Escape")
    assert lit(page, "phrase") == []
    page.locator(f'.mask[data-target="{number}"]').focus()
    page.keyboard.press("Enter")
    assert lit(page, "mask") == [number]
    for name in ("contour", "cutout", "fill"):
        page.keyboard.press("m")
        expect(page.locator(f'[name="mode"][value="{name}"]')).to_be_checked()
        expect(page.locator("#masks")).to_have_class(re.compile(name))
    masks = page.locator(".mask").count()
    page.keyboard.press("Delete")
    expect(page.locator(".mask")).to_have_count(masks - 1)
    page.keyboard.press("/")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#question")).to_have_value(WHERE)


@needs_browser
def test_how_masks_are_drawn(page):
    upload(page)
    ask(page, WHERE)
    number = a_mask(page)[0]
    mask = page.locator(f'.mask[data-target="{number}"]')
    opacity = "mask => Number(getComputedStyle(mask).fillOpacity)"
    page.locator("#opacity").fill("80")
    expect(mask).to_have_css("fill-opacity", "0.8")
    page.locator("#modes span", has_text="Contour").click()
    expect(mask).to_have_css("fill-opacity", "0")
    expect(page.locator("#cover")).to_be_hidden()
    page.locator("#modes span", has_text="Cut-out").click()
    expect(page.locator("#cover")).to_be_visible()
    assert page.locator("#holes path").count() == page.locator(".mask").count()
    page.locator(f'.phrase[data-target="{number}"]').click()
    expect(page.locator("#holes path")).to_have_count(1)
    expect(mask).to_have_css("fill-opacity", "0")
    page.locator("#modes span", has_text="Fill").click()
    page.wait_for_timeout(200)
    assert mask.evaluate(opacity) == pytest.approx(0.8)


@needs_browser
def test_masks_are_read_and_outlined_rightly(page):
    """Against pycocotools, and filled again by the browser."""
    noise = np.random.default_rng(0)
    y, x = np.mgrid[:90, :120]
    ring = (np.hypot(x - 50, y - 40) < 35) & (np.hypot(x - 50, y - 40) > 15)
    blob = ring | (x > 110)
    masks = [blob, np.ones((30, 20), bool), np.zeros((4, 5), bool), noise.random((37, 23)) > 0.5, np.eye(9, dtype=bool)]
    for mask in masks:
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        read, filled = page.evaluate(
            """async rle => {
                const {decode, outline} = await import("/web/masks.js");
                const mask = decode(rle);
                const context = new OffscreenCanvas(mask.width, mask.height).getContext("2d");
                context.fill(new Path2D(outline(mask)), "evenodd");
                const alpha = context.getImageData(0, 0, mask.width, mask.height).data.filter((_, i) => i % 4 === 3);
                return [Array.from(mask.bits), Array.from(alpha)];
            }""",
            {"size": rle["size"], "counts": rle["counts"].decode()},
        )
        assert np.array_equal(np.reshape(read, mask.shape[::-1]).T, mask)
        # Corners are cut, at most half of a pixel: the halves that two sides' middles leave.
        alpha = np.reshape(filled, mask.shape)
        assert (alpha[mask] >= 120).all()
        assert (alpha[~mask] <= 135).all()
        if mask is blob:
            assert ((alpha > 127) == mask).all()


@needs_browser
def test_masks_below_a_score_are_hidden(page, model):
    upload(page)
    ask(page, WHERE)
    expected = serving.offline(model, WHERE)
    scores = [round(100 * target["score"]) for target in expected["targets"]]
    least = sorted(scores)[len(scores) // 2] + 1
    kept = [target for target in expected["targets"] if 100 * target["score"] >= least]
    assert len(kept) < len(scores)
    page.locator("#least").fill(str(least))
    expect(page.locator("#least-shown")).to_have_text(f"{least} %")
    expect(page.locator(".target")).to_have_count(len(kept))
    expect(page.locator(".phrase")).to_have_count(len(kept))
    assert page.locator(".mask").count() == sum(target["area"] > 0 for target in kept)
    assert said(page) == expected["text"]
    _, data = saved(page, "#save-coco")
    assert [one["phrase"] for one in json.loads(data)["annotations"]] == [target["phrase"] for target in kept]
    page.locator("#least").fill("100")
    expect(page.locator(".mask")).to_have_count(0)
    page.locator("#least").fill("0")
    expect(page.locator(".target")).to_have_count(len(scores))


# --- what people take away ---


@needs_browser
def test_downloads_have_what_was_not_left_out(page, server, model):
    upload(page, name="my photo.png")
    ask(page, WHERE)
    expected = serving.offline(model, WHERE)
    photograph = np.asarray(tiny.picture(60, 40))

    form = {"files": {"image": serving.png()}, "data": {"question": WHERE, "max_tokens": str(TOKENS)}}
    accept = {"Accept": "application/vnd.coco+json"}
    whole = server.http.post("/v1/segment", headers=accept, **form).json()
    name, data = saved(page, "#save-coco")
    assert name == "my photo-coco.json"
    ours = json.loads(data)
    assert ours.pop("images") == [{"id": 1, "width": 60, "height": 40, "file_name": "my photo.png"}]
    del whole["images"]  # there it is named by its content
    assert ours == whole

    name, data = saved(page, "#save-image")
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (name, picture.shape) == ("my photo-answer.png", photograph.shape)
    assert (picture != photograph).any()

    wrong = next(i for i, target in enumerate(expected["targets"]) if target["area"])
    page.locator(f'.target[data-target="{wrong}"] .out').click()
    expect(page.locator(f'.mask[data-target="{wrong}"]')).to_have_count(0)
    expect(page.locator(f'.phrase[data-target="{wrong}"]')).to_have_class(re.compile("removed"))
    assert len(json.loads(saved(page, "#save-coco")[1])["annotations"]) == len(expected["targets"]) - 1
    page.locator(f'.target[data-target="{wrong}"] .out').click()
    expect(page.locator(f'.mask[data-target="{wrong}"]')).to_have_count(1)

    page.locator(f'.phrase[data-target="{wrong}"]').click()  # of what is lit up alone
    name, data = saved(page, "#save-cutouts")
    assert name.startswith(f"my photo-{wrong + 1}")
    cut = np.asarray(Image.open(io.BytesIO(data)))
    x, y, width, height = expected["targets"][wrong]["box"]
    mask = coco_mask.decode(expected["targets"][wrong]["segmentation"]).astype(bool)[y : y + height, x : x + width]
    assert np.array_equal(cut[..., 3] > 0, mask)
    assert np.array_equal(cut[mask][:, :3], photograph[y : y + height, x : x + width][mask])


# --- what goes wrong ---


@needs_browser
def test_errors_are_sentences(page):
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="30" height="20"><rect width="9" height="9"/></svg>'
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"})
    expect(page.locator("#notice")).to_contain_text("Expected an image that a browser can show")
    page.locator("#file").set_input_files({"name": "plan.svg", "mimeType": "image/svg+xml", "buffer": drawing})
    ask(page, WHERE)  # a browser can show it, but the server does not take it
    expect(page.locator(".remark.error")).to_contain_text("Expected an image (AVIF, GIF, JPEG, PNG, WEBP)")
    expect(page.locator("#question")).to_have_value(WHERE)  # to be asked again
    page.route("**/v1/**", lambda route: route.abort())
    ask(page, WHERE)
    expect(page.locator(".remark.error").last).to_have_text("The server does not answer. Is it still running?")
    page.unroute("**/v1/**")
    page.route("**/v1/**", lambda route: route.fulfill(content_type="text/event-stream", body='data: {"choices": []}'))
    ask(page, WHERE)
    expect(page.locator(".remark.error").last).to_contain_text("The connection broke before the answer was complete.")
    # The page goes on.
    page.unroute("**/v1/**")
    upload(page)
    ask(page, WHERE)
    assert said(page)


@needs_browser
def test_stop(page):
    page.route("**/v1/**", lambda route: None)  # no answer ever
    upload(page)
    ask(page, WHERE, wait=False)
    expect(page.locator("#ask")).to_be_hidden()
    page.locator("#stop").click()
    expect(page.locator(".remark")).to_have_text("Stopped.")
    expect(page.locator("#ask")).to_be_visible()


@needs_browser
def test_words_are_words(page):
    """Neither a question nor an answer becomes HTML, and spans count code points."""
    text = "🐈 the <img src=x onerror=alert(1)> & 🐕"
    target = {"phrase": "🐕", "span": [len(text) - 1, len(text)], "score": 1, "area": 4, "box": [0, 0, 2, 2]}
    rle = coco_mask.encode(np.asfortranarray(np.pad(np.ones((2, 2), np.uint8), ((0, 38), (0, 58)))))
    target["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    deltas = [{"content": text}, {"content": "", "targets": [target]}]
    events = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route("**/v1/**", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    upload(page)
    ask(page, "<b>What?</b>")
    assert said(page) == text
    expect(page.locator(".asked")).to_have_text("<b>What?</b>")
    expect(page.locator(".phrase")).to_contain_text("🐕")
    assert page.locator(".answer img, .asked b").count() == 0


@needs_browser
def test_a_server_that_wants_a_key(browser, server):
    with browsing.opened(browser) as page:
        visit(page, server, key=None)
        upload(page)
        ask(page, WHERE)
        expect(page.locator("#key-dialog")).to_be_visible()
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator(".entry").last.locator(".phrase").first).to_be_visible()


# --- where it is looked at ---


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser, server, scheme):
    size = {"width": 390, "height": 844}
    with browsing.opened(browser, viewport=size, has_touch=True, is_mobile=True, color_scheme=scheme) as page:
        visit(page, server)
        fits = "document.documentElement.scrollWidth"
        assert page.evaluate(fits) == 390
        upload(page)
        ask(page, WHERE)
        assert page.evaluate(fits) == 390
        number, x, y = a_mask(page)
        page.touchscreen.tap(x, y)
        assert lit(page, "phrase") == [number]
        for part in ("#frame", "#form"):  # in sight, wherever one reads
            page.mouse.wheel(0, 5000)
            box = page.locator(part).bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 844
        light = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) > 127"
        assert page.evaluate(light) == (scheme == "light")
        for _ in range(2 if scheme == "light" else 1):  # auto → light → dark
            page.locator("#theme").tap()
        assert page.evaluate(light) == (scheme == "dark")


# --- the server's side ---


def test_only_the_page_may_be_shown(server):
    plain = httpx2.Client(base_url=server.url)
    page = plain.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/web/page.js", "/web/shared/targets.js", "/web/examples/cat.jpg", "/web/about.json"):
        found = plain.get(path)
        assert (found.status_code, found.headers["content-security-policy"]) == (200, policy), path
    for path in ("/v1/models", "/metrics", "/webs", "/web"):
        assert plain.get(path).status_code == 401, path
    for path in ("/web/%2e%2e/v1/models", "/web/../../web.py", "/web/%2e%2e/web.py", "/web/examples/coins.png"):
        assert plain.get(path).status_code in (401, 404), path
    assert server.http.get("/v1/models").headers["content-security-policy"].startswith("default-src 'none';")
    assert not [path for path in plain.get("/openapi.json").json()["paths"] if path.startswith("/web") or path == "/"]
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert plain.get("/", headers=foreign).status_code == 200  # a link


def test_the_command_and_a_server_without_the_page(model):
    command = [sys.executable, "-m", "pixellm", "web", str(model), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "PIXELLM_API_KEYS": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = re.match(r"(http://127\.0\.0\.1:\d+)  \(Ctrl-C ends\)", process.stdout.readline())[1]
        assert "<title>PixelLM</title>" in httpx2.get(address).text
        assert httpx2.get(f"{address}/v1/models").json()["data"][0]["id"] == model.name
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
        assert httpx2.get(f"{address}/v1/models", headers=foreign).status_code == 403
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    with serving.serving(model, ready=False) as running:
        assert running.http.get("/").status_code == running.http.get("/web/page.js").status_code == 404
