"""Corrections in the page of `pixellm serve --page`: mouse, keyboard, touch and words, in a real browser."""

import json

import pytest

from pixellm.imaging import masks
from pixellm.segmenter import load
from pixellm.types import Target
from tests.support import browsing, serving, tiny
from tests.support.browsing import expect, needs_browser
from tests.support.serving import TOKENS

QUESTION = serving.QUESTIONS[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_refining_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Directory of the corrections."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def server(model, kept):
    options = ("--page", "--max-new-tokens", str(TOKENS), "--corrections", str(kept))
    with serving.serving(model, *options) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def predictor(model):
    predictor = load(model)
    predictor.set_image(tiny.picture(60, 40))
    return predictor


@pytest.fixture
def page(browser, server):
    with browsing.opened(browser) as page:
        answered(page, server)
        yield page


def answered(page, server):
    """An image with an answer."""
    page.goto(server.url)
    expect(page.locator("#examples button")).to_have_count(6)
    file = {"name": "photo.png", "mimeType": "image/png", "buffer": serving.png()}
    page.locator("#file").set_input_files(file)
    expect(page.locator("#image")).to_have_attribute("alt", "photo.png")
    page.locator("#question").fill(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".entry")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#correct")).to_be_visible()


def at(page, x, y):
    """The place on the screen of a point of the image, 60 × 40 pixels."""
    box = page.locator("#image").bounding_box()
    return box["x"] + box["width"] * x / 60, box["y"] + box["height"] * y / 40


def saved(page):
    """Masks of the COCO download, by the number of their target."""
    with page.expect_download() as waiting:
        page.locator("#save-coco").click()
    return [row["segmentation"] for row in json.loads(waiting.value.path().read_bytes())["annotations"]]


def everything(page):
    """All masks: a download of a highlighted target has that one alone."""
    page.locator("#done").click()
    return saved(page)


def select(page, number=0):
    page.locator(f'.target[data-target="{number}"] .words').click()
    expect(page.locator("#correct")).to_have_class("selected")


def settled(page, steps):
    """Wait until a number of corrections is done."""
    expect(page.locator("#correct")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#marks .point, #marks .box")).to_have_count(steps)
    expect(page.locator("#marks .waits")).to_have_count(0)


def refined(predictor, mask, **marks):
    target = predictor.refine(Target("", (0, 0), mask), **marks)
    return target.to_json()["segmentation"]


@needs_browser
def test_a_correction_is_kept_as_training_data(page, kept):
    before = saved(page)
    phrases = page.locator(".target .words").all_inner_texts()
    number = next(number for number, phrase in enumerate(phrases) if phrase.strip())
    select(page, number)
    for point, steps in (((30, 20), 1), ((40, 10), 2)):
        with page.expect_response("**/v1/corrections"):
            page.mouse.click(*at(page, *point))
        settled(page, steps)
    (row,) = [json.loads(line) for line in (kept / "corrections.jsonl").read_text().splitlines()]
    (after,) = saved(page)
    assert row["correction"]["tool"] == "pixellm web"
    assert row["correction"]["before"] == before[number]
    assert after in [mask.get("segmentation", mask) for mask in row["masks"]]


@needs_browser
def test_clicks_boxes_undo_and_what_is_saved(page, predictor):
    before = saved(page)
    assert len(before) > 2
    select(page)
    page.mouse.click(*at(page, 30, 20))
    settled(page, 1)
    first = refined(predictor, before[0], points=[(30, 20, 1)])
    assert saved(page) == [first]
    page.mouse.click(*at(page, 6, 6), button="right")
    settled(page, 2)
    expect(page.locator("#marks .minus")).to_have_count(1)
    both = refined(predictor, first, points=[(30, 20, 1), (6, 6, 0)])
    assert saved(page) == [both]
    page.mouse.move(*at(page, 10, 10))
    page.mouse.down()
    page.mouse.move(*at(page, 30, 20))
    page.mouse.move(*at(page, 50, 35))
    expect(page.locator("#marks .box")).to_have_count(1)
    page.mouse.up()
    settled(page, 3)
    boxed = refined(predictor, both, points=[(30, 20, 1), (6, 6, 0)], box=(10, 10, 40, 25))
    assert saved(page) == [boxed]
    # The others stay bit for bit.
    assert everything(page) == [boxed, *before[1:]]
    expect(page.locator(".target small").first).to_contain_text("corrected")

    select(page)
    for marks, mask in ((2, both), (1, first), (0, before[0])):
        page.keyboard.press("Control+z")
        settled(page, marks)
        assert saved(page) == [mask]
    expect(page.locator("#undo")).to_be_disabled()
    page.keyboard.press("Control+Shift+z")
    page.locator("#redo").click()
    settled(page, 2)
    assert saved(page) == [both]
    page.keyboard.down("Alt")
    page.mouse.click(*at(page, 50, 5))
    page.keyboard.up("Alt")
    settled(page, 3)
    expect(page.locator("#marks .minus")).to_have_count(2)
    expect(page.locator("#redo")).to_be_disabled()


@needs_browser
def test_by_keyboard_alone(page, predictor):
    before = saved(page)
    page.locator("#question").focus()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.dataset.target")
    assert focused == "0"
    page.keyboard.press("Enter")
    expect(page.locator("#correct")).to_have_class("selected")
    expect(page.locator("#said")).to_contain_text("Correcting")
    page.keyboard.press("ArrowRight")  # the crosshair appears in the middle of the mask's box
    expect(page.locator("#marks path.aim")).to_have_count(2)
    expect(page.locator("#said")).to_contain_text("the mask")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    settled(page, 1)
    expect(page.locator("#said")).to_contain_text("% of the image")
    x, y = (float(page.locator("#marks circle").get_attribute(name)) for name in ("cx", "cy"))
    assert saved(page) == [refined(predictor, before[0], points=[(x, y, 1)])]
    page.locator("#masks").focus()
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Shift+Enter")
    settled(page, 2)
    expect(page.locator("#marks .minus")).to_have_count(1)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Alt+Enter")
    settled(page, 3)
    page.keyboard.press("Escape")  # the crosshair
    expect(page.locator("#marks path.aim")).to_have_count(0)
    page.keyboard.press("Escape")  # the selection
    expect(page.locator("#correct")).not_to_have_class("selected")
    expect(page.locator('.phrase[data-target="0"]')).to_be_focused()


@needs_browser
def test_by_touch(browser, server):
    with browsing.opened(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        answered(page, server)
        page.locator('.phrase[data-target="0"]').tap()
        expect(page.locator("#correct")).to_have_class("selected")
        page.touchscreen.tap(*at(page, 30, 20))
        settled(page, 1)
        page.locator("#less").tap()
        expect(page.locator("#less")).to_have_attribute("aria-pressed", "true")
        page.touchscreen.tap(*at(page, 6, 6))
        settled(page, 2)
        expect(page.locator("#marks .minus")).to_have_count(1)
        page.locator("#undo").tap()
        settled(page, 1)
        page.locator("#done").tap()
        expect(page.locator("#marks .point")).to_have_count(0)


@needs_browser
def test_a_box_by_touch(browser, server, predictor):
    with browsing.opened(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        answered(page, server)
        before = saved(page)
        page.locator('.phrase[data-target="0"]').tap()
        expect(page.locator("#correct")).to_have_class("selected")
        page.locator("#image").scroll_into_view_if_needed()
        scrolled = page.evaluate("scrollY")
        finger = page.context.new_cdp_session(page)

        def touch(kind, *place):
            points = [dict(zip("xy", at(page, *place), strict=True))] if place else []
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 50, 35)  # from the lower right corner to the upper left one
        touch("touchMove", 40, 30)
        touch("touchMove", 20, 15)
        touch("touchMove", 10, 10)
        expect(page.locator("#marks .box")).to_have_count(1)
        touch("touchEnd")
        settled(page, 1)
        assert page.evaluate("scrollY") == scrolled  # the image stays under the finger
        box = [float(page.locator("#marks .box").get_attribute(name)) for name in ("x", "y", "width", "height")]
        assert box == pytest.approx([10, 10, 40, 25], abs=0.5)
        boxed = refined(predictor, before[0], box=box)
        assert boxed != before[0]
        assert saved(page) == [boxed]
        assert everything(page) == [boxed, *before[1:]]


def answering(page, text, *targets):
    """Have the server answer every question with a text and targets; returns the requests to come."""
    asked = []

    def answer(route):
        asked.append(route.request.post_data_buffer)
        deltas = [{"delta": {"content": text, "targets": targets}, "finish_reason": None}]
        deltas.append({"delta": {}, "finish_reason": "stop"})
        lines = [json.dumps({"choices": [delta]}) for delta in deltas]
        events = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
        route.fulfill(content_type="text/event-stream", body=events)

    page.route("**/v1/chat/completions", answer)
    return asked


def drag(page, start, end):
    page.mouse.move(*at(page, *start))
    page.mouse.down()
    page.mouse.move(*at(page, *end), steps=3)
    page.mouse.up()


def kept_row(kept, phrase):
    lines = [json.loads(line) for line in (kept / "corrections.jsonl").read_text().splitlines()]
    (row,) = [row for row in lines if row["correction"]["phrase"] == phrase]
    return row


NOTHING = dict(masks.as_text(masks.empty(40, 60)))


@needs_browser
@pytest.mark.parametrize("by", ["box", "click", "keyboard"])
def test_an_empty_mask_is_corrected(browser, server, predictor, kept, by):
    phrase = f"a bird by {by}"
    target = {"phrase": phrase, "span": [0, len(phrase)], "score": 0.0, "area": 0, "box": None}
    with browsing.opened(browser) as page:
        answering(page, f"{phrase}.", target | {"segmentation": NOTHING})
        answered(page, server)
        expect(page.locator(".target small")).to_contain_text("empty")
        select(page)
        with page.expect_response("**/v1/corrections"):
            if by == "box":
                drag(page, (10, 10), (50, 35))
                marks = {"box": (10, 10, 40, 25)}
            elif by == "click":
                page.mouse.click(*at(page, 30, 20))
                marks = {"points": [(30, 20, 1)]}
            else:
                page.keyboard.press("ArrowRight")  # the crosshair appears in the middle of the image
                page.keyboard.press("Enter")
                marks = {"points": [(30, 20, 1)]}
        settled(page, 1)
        mask = refined(predictor, NOTHING, **marks)
        assert mask != NOTHING
        assert saved(page) == [mask]
        expect(page.locator(".mask")).to_have_count(1)
        row = kept_row(kept, phrase)
        assert ([entry.get("segmentation", entry) for entry in row["masks"]], row["correction"]["before"]) == (
            [mask],
            NOTHING,
        )


@needs_browser
def test_an_object_is_added_to_an_answer_without_masks(browser, server, predictor, kept):
    with browsing.opened(browser) as page:
        asked = answering(page, "There is no owl.")
        answered(page, server)
        expect(page.locator(".target")).to_have_count(0)
        expect(page.locator("#correct-hint")).to_contain_text("Name what has no mask")
        page.locator("#add").fill("the owl")
        page.keyboard.press("Enter")
        expect(page.locator("#correct")).to_have_class("selected")
        expect(page.locator(".target small")).to_have_text("empty · added")
        with page.expect_response("**/v1/corrections"):
            drag(page, (10, 10), (50, 35))
        settled(page, 1)
        mask = refined(predictor, NOTHING, box=(10, 10, 40, 25))
        assert saved(page) == [mask]
        row = kept_row(kept, "the owl")
        assert (row["answer"], row["correction"]["before"]) == ("The owl {seg}.", None)
        assert row["correction"]["answer"] == "There is no owl."
        page.keyboard.press("Control+z")
        settled(page, 0)
        assert saved(page) == [NOTHING]
        page.keyboard.press("Control+y")
        settled(page, 1)
        page.locator("#done").click()
        expect(page.locator(".mask")).to_have_count(1)
        expect(page.locator(".answer .phrase")).to_have_count(0)  # the text does not name it
        # The model's answer is sent back as it was.
        page.locator("#follow").check()
        page.locator("#question").fill("Why not?")
        page.keyboard.press("Enter")
        expect(page.locator(".entry").last).to_have_attribute("aria-busy", "false")
        assert b'"content":"There is no owl.","targets":[]' in asked[1]


@needs_browser
def test_by_words(page, predictor):
    before = saved(page)
    first = predictor.ask(QUESTION, max_new_tokens=TOKENS)
    said = predictor.ask("no, the left one", [first], max_new_tokens=TOKENS).targets[0].to_json()["segmentation"]
    assert said != before[0]
    select(page)
    page.locator("#say").fill("no, the left one")
    page.keyboard.press("Enter")
    expect(page.locator("#undo")).to_be_enabled()
    settled(page, 0)
    assert everything(page) == [said, *before[1:]]
    page.keyboard.press("Control+z")
    assert saved(page) == before
    assert page.locator(".entry").count() == 1


@needs_browser
def test_a_correction_that_fails_changes_nothing(page):
    before = saved(page)
    select(page)
    page.route("**/v1/refine", lambda route: route.abort())
    page.mouse.click(*at(page, 30, 20))
    expect(page.locator("#notice")).to_have_text("The server does not answer. Is it still running?")
    settled(page, 0)
    page.unroute("**/v1/refine")
    page.route("**/v1/refine", lambda route: None)  # no answer ever
    page.mouse.click(*at(page, 30, 20))
    expect(page.locator("#marks .waits")).to_have_count(1)
    page.keyboard.press("Escape")
    settled(page, 0)
    assert everything(page) == before


@needs_browser
def test_clicks_that_follow_each_other_fast_are_done_in_order(page, predictor):
    before = saved(page)
    select(page)
    places = [(30, 20), (10, 10), (50, 30)]
    for place in places:
        page.mouse.click(*at(page, *place))
    settled(page, 3)
    mask = before[0]
    for number in range(3):
        mask = refined(predictor, mask, points=[(*place, 1) for place in places[: number + 1]])
    assert saved(page) == [mask]
