"""The review page in a real browser: Debian's `chromium`, or another Chromium on the PATH."""

import re
import signal
import subprocess
import sys
import threading

import pytest
import uvicorn

from pixellm.muse.journal import Journal
from pixellm.muse.review import Review, create_app
from pixellm.utils.sockets import listen
from tests.support import browsing, muse_examples
from tests.support.browsing import expect, needs_browser

FIRST, HOSTILE, LAST = muse_examples.RECORDS


@pytest.fixture(scope="module")
def browser():
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return muse_examples.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def review(tmp_path, images):
    """A review of the example records."""
    with Journal(muse_examples.write_journal(tmp_path)) as journal:
        yield Review(journal, images)


@pytest.fixture
def address(review):
    """Where it is served."""
    with listen("127.0.0.1", 0) as listening:
        app = create_app(review, ["127.0.0.1"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(browser, address):
    """The page on the first record."""
    with browsing.opened(browser) as page:
        page.goto(address)
        expect(page.locator("#question")).to_have_text(FIRST.question)
        yield page


def lit(page, kind: str) -> list[str]:
    """Numbers of the targets of which a mask, phrase or row is lit up."""
    return page.locator(f".{kind}.lit").evaluate_all("all => all.map(one => one.dataset.target)")


@needs_browser
def test_phrase_and_mask_light_up_together(page):
    page.locator(".phrase", has_text="shiny spoon").click()
    assert [lit(page, kind) for kind in ("mask", "phrase", "target")] == [["1"]] * 3
    box = page.locator(".mask.lit").bounding_box()
    picture = page.locator("#image").bounding_box()
    left = (box["x"] - picture["x"]) / picture["width"] * 600
    assert left == pytest.approx(FIRST.targets[1].box[0], abs=3)  # the mask lies where the spoon is
    page.locator(".phrase", has_text="shiny spoon").click()
    assert lit(page, "mask") == []

    cup = page.locator('.mask[data-target="0"]')
    cup.hover(position={"x": 150, "y": 100})
    expect(page.locator(".phrase.pointed")).to_have_text(re.compile("red and white cup"))
    assert cup.evaluate("mask => getComputedStyle(mask).stroke") == "rgb(255, 255, 255)"
    cup.click(position={"x": 150, "y": 100})
    assert [lit(page, kind) for kind in ("mask", "phrase", "target")] == [["0"]] * 3
    page.keyboard.press("3")
    assert lit(page, "phrase") == ["2"]
    # Where the cup stands, the saucer has a hole: a click there is the cup's.
    page.mouse.click(picture["x"] + 290 / 600 * picture["width"], picture["y"] + 200 / 400 * picture["height"])
    assert lit(page, "phrase") == ["0"]
    page.mouse.click(picture["x"] + 2, picture["y"] + 2)
    assert lit(page, "mask") == []


@needs_browser
def test_the_photograph_and_colours(page):
    expect(page.locator("#image")).to_have_js_property("naturalWidth", 600)
    colours = page.locator(".mask").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
    assert len(set(colours)) == 3


@needs_browser
def test_keep_and_reject_are_saved_and_there_after_a_reload(page, review):
    page.keyboard.press("k")
    expect(page.locator("#counts")).to_have_text("1 of 3 decided · 1 kept · 0 rejected")
    expect(page.locator("#question")).to_have_text(HOSTILE.question)
    page.locator("#reject").click()
    expect(page.locator("#counts")).to_have_text("2 of 3 decided · 1 kept · 1 rejected")
    expect(page.locator("#question")).to_have_text(LAST.question)
    page.reload()
    expect(page.locator("#question")).to_have_text(LAST.question)
    expect(page.locator("#counts")).to_have_text("2 of 3 decided · 1 kept · 1 rejected")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#verdict")).to_have_text("rejected")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#verdict")).to_have_text("kept")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#notice")).to_have_text("That was the first one.")
    assert review.counts() == {"all": 3, "undecided": 1, "keep": 1, "reject": 1}


@needs_browser
def test_undo(page):
    page.keyboard.press("r")
    expect(page.locator("#notice")).to_have_text("1/0 rejected.")
    page.keyboard.press("u")
    expect(page.locator("#notice")).to_have_text("1/0 is undecided again.")
    expect(page.locator("#verdict")).to_have_text("undecided")
    expect(page.locator("#undo")).to_be_disabled()


@needs_browser
def test_filter(page, review):
    review.decide("1/1", "reject")
    page.locator("#show").select_option("rejected")
    expect(page.locator("#question")).to_have_text(HOSTILE.question)
    page.locator("#show").select_option("kept")
    expect(page.locator("#notice")).to_have_text("There are no kept records.")
    page.locator("#show").select_option("undecided")
    expect(page.locator("#question")).to_have_text(LAST.question)
    page.keyboard.press("p")
    page.locator("#previous").click()
    expect(page.locator("#question")).to_have_text(FIRST.question)


@needs_browser
def test_edit_is_saved_and_a_wrong_one_refused(page, review):
    page.keyboard.press("e")
    page.locator("#edit-question").fill("Where do I stir?")
    page.locator("#edit-text").fill("In the pot {seg}.")
    expect(page.locator("#slots")).to_have_class("wrong")
    page.locator("#save").click()
    expect(page.locator("#form-error")).to_contain_text("expected 3 {seg} in the answer, one for each target, got 1")
    assert review.record("1/0") == FIRST
    page.locator("#edit-text").fill("In the pot {seg} with the shiny spoon beside it {seg}, not in the dish {seg}.")
    page.locator("#edit-descriptions input").first.fill("the pot")
    page.locator("#save").click()
    expect(page.locator("#verdict")).to_have_text("kept")
    page.reload()
    expect(page.locator("#question")).to_have_text("Where do I stir?")
    expect(page.locator("#edited")).to_be_visible()
    expect(page.locator(".phrase").first).to_have_text("the pot1")
    expect(page.locator(".target").last).to_contain_text("The answer has other words before its mask.")
    page.keyboard.press("e")
    page.locator("#edit-question").fill("Never mind")
    page.keyboard.press("k")  # a letter like any other while one writes
    page.keyboard.press("Escape")
    expect(page.locator("#question")).to_have_text("Where do I stir?")
    page.keyboard.press("e")
    page.locator("#restore").click()
    expect(page.locator("#question")).to_have_text(FIRST.question)
    assert review.record("1/0") == FIRST


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser, address, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/#2/0")
    for step in ("#edit", "#cancel", ".phrase >> nth=1"):
        page.locator(step).tap()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert lit(page, "mask") == ["1"]
    bottom = page.locator("#actions").bounding_box()
    assert bottom["y"] + bottom["height"] <= 844  # within the thumb's reach
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", background)[0]) > 127) == (scheme == "light")
    context.close()


@needs_browser
def test_text_is_text(page):
    page.keyboard.press("n")
    expect(page.locator("#question")).to_contain_text("<script>document.title = 'taken over'</script>")
    expect(page.locator("#answer")).to_contain_text("<img src=x onerror=")
    page.locator("#edit").click()
    expect(page.locator("#edit-text")).to_have_value(HOSTILE.text)
    assert page.title() == "Review"
    assert page.locator("main script, #answer img").count() == 0


@needs_browser
def test_a_missing_photograph_and_a_server_that_is_gone(page, review, images):
    (images / "people/astronaut.png").rename(images / "away.png")
    try:
        page.keyboard.press("n")
        page.keyboard.press("n")
        expect(page.locator("#image-error")).to_contain_text("does not exist")
    finally:
        (images / "away.png").rename(images / "people/astronaut.png")
    page.route("**/api/**", lambda route: route.abort())
    page.locator("#keep").click()
    expect(page.locator("#notice")).to_contain_text("The review does not answer.")
    assert review.counts()["undecided"] == 3


def test_the_command(tmp_path, images):
    """Served until Ctrl-C; nobody else may write meanwhile."""
    journal = muse_examples.write_journal(tmp_path / "journal")
    command = [sys.executable, "-m", "pixellm", "muse", "review", str(journal), "--images", str(images), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert re.match(r"http://127\.0\.0\.1:\d+ ", process.stdout.readline())
        with pytest.raises(ValueError, match="another process"):
            Journal(journal)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, errors.strip()) == (0, "")
    assert "0 kept, 0 rejected, 3 of 3 undecided" in output
    Journal(journal).close()
