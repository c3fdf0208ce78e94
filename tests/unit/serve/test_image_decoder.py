"""Decoding of requests' images: limits, processes that are killed, fair shares."""

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack

import psutil
import pytest
from PIL import Image

from pixellm.serve import decoding
from pixellm.serve.decoder_process import DecoderProcesses
from pixellm.serve.decoding import DecodedImage
from pixellm.serve.errors import ApiError
from pixellm.serve.fair_share import FairShare
from pixellm.serve.image_decoder import ImageDecoder
from pixellm.serve.metrics import Metrics
from tests.support import hostile, tiny
from tests.support.hostile import encoded

PIXELS = 10_000


@pytest.fixture(scope="module")
def run():
    """One loop for all tests: it keeps the decoder processes."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def processes(run):
    processes = DecoderProcesses(200 << 20)
    run(processes.warm(1))
    yield processes
    run(processes.close())


@pytest.fixture
def decoder(processes):
    def build(max_decoded_bytes: int = 3 * PIXELS, seconds: float = 10, max_pixels: int = PIXELS) -> ImageDecoder:
        decoder = ImageDecoder(max_pixels, max_decoded_bytes, Metrics(), seconds)
        decoder.processes = processes
        return decoder

    return build


async def decode(data: bytes, by: ImageDecoder, tenant: str = "a") -> DecodedImage:
    async with by.decode(data, tenant) as image:
        return image


def lost(by: ImageDecoder, reason: str) -> float:
    return by.metrics.registry.get_sample_value("pixellm_decoders_lost_total", {"reason": reason}) or 0


def test_the_same_pixels_have_the_same_digest(run, decoder):
    image = Image.new("RGB", (20, 10), "red")
    one, same = (run(decode(encoded(image, kind), decoder())) for kind in ("PNG", "GIF"))
    assert one.digest == same.digest
    assert one.to_pil().tobytes() == image.tobytes()
    assert run(decode(encoded(image.resize((10, 20))), decoder())).digest != one.digest  # in another shape


@pytest.mark.parametrize("size", [(101, 100), (5000, 5000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_not_decoded(run, decoder, size):
    by = decoder()
    with pytest.raises(ApiError) as caught:
        run(decode(hostile.bomb(*size), by))
    assert caught.value.status in (400, 413)
    assert not by.memory.held


@pytest.mark.parametrize("kind", decoding.FORMATS)
def test_formats(run, decoder, kind):
    image = tiny.picture(50, 50)
    assert run(decode(encoded(image, kind), decoder())).size == image.size
    whole = encoded(image, kind)
    with pytest.raises(ApiError) as caught:
        run(decode(whole[: len(whole) // 3], decoder()))
    assert caught.value.status == 400


def test_other_files_are_no_images(run, decoder):
    tiff = encoded(Image.new("RGB", (5, 5)), "TIFF")
    for data in (b"", b"hello", tiff, b"<svg/>", bytes(1000), b"%!PS-Adobe\n"):
        with pytest.raises(ApiError) as caught:
            run(decode(data, decoder()))
        assert caught.value.status == 400


def test_scans_are_limited_before_decoding(run, decoder):
    assert run(decode(hostile.scans(100, 100, 90), decoder())).size == (100, 100)
    with pytest.raises(ApiError, match=r"at most 100 scans, got 105\. Save it anew"):
        run(decode(hostile.scans(100, 100, 99), decoder()))
    by = decoder(max_pixels=25_000_000)
    with pytest.raises(ApiError, match=r"at most 40 scans, got 46"):
        run(decode(hostile.scans(5000, 5000, 40), by))


def test_warnings_are_counted(run, decoder, capfd):
    by = decoder()
    run(decode(hostile.noisy(2000), by))
    assert by.metrics.registry.get_sample_value("pixellm_image_warnings_total") >= 2000
    assert capfd.readouterr() == ("", "")


def test_a_slow_image_ends_with_its_process(run, decoder):
    by = decoder(seconds=0.3)
    start = time.monotonic()
    with pytest.raises(ApiError, match=r"decoded within 0\.3 s") as caught:
        run(decode(hostile.slow(), by))
    assert caught.value.status == 400
    assert time.monotonic() - start < 2
    assert lost(by, "timeout") == 1
    assert not by.slots.held
    assert run(decode(encoded(tiny.picture(50, 50)), decoder())).size == (50, 50)


def test_a_decode_that_is_cancelled_ends_at_once(run, decoder):
    by = decoder()

    async def leave():
        task = asyncio.create_task(decode(hostile.slow(), by))
        await asyncio.sleep(0.3)
        assert by.slots.held["a"] == 1
        task.cancel()
        start = time.monotonic()
        await asyncio.gather(task, return_exceptions=True)
        return time.monotonic() - start

    assert run(leave()) < 0.5
    assert lost(by, "cancelled") == 1
    assert not by.slots.held


def test_a_process_that_died_is_replaced(run, decoder, processes):
    by, data = decoder(), encoded(tiny.picture(50, 50))
    run(decode(data, by))
    os.kill(processes.idle[-1].pid, signal.SIGKILL)
    assert run(decode(data, by)).size == (50, 50)


def test_an_image_that_kills_its_process(run, decoder, processes):
    """Such an image would have to find a fault of Pillow's; here the process is killed from outside, twice."""
    by = decoder()

    async def kill():
        task = asyncio.create_task(decode(hostile.slow(), by))
        for _ in range(2):
            await asyncio.sleep(0.3)
            for process in psutil.Process().children():
                if "pixellm.serve.decoding" in process.cmdline():
                    process.kill()
        await task

    with pytest.raises(ApiError, match="got something else"):
        run(kill())
    assert lost(by, "crash") == 1
    assert run(decode(encoded(tiny.picture(50, 50)), by)).size == (50, 50)


def test_memory_is_limited(run):
    processes = DecoderProcesses(30 << 20)
    by = ImageDecoder(25_000_000, 75_000_000, Metrics())
    by.processes = processes
    with pytest.raises(ApiError, match="damaged"):
        run(decode(encoded(Image.new("L", (5000, 5000))), by))
    assert run(decode(encoded(tiny.picture(50, 50)), by)).size == (50, 50)  # by the same process
    run(processes.close())


def test_one_tenant_cannot_hold_everything(run, decoder):
    by = decoder()

    async def flood():
        bombs = [asyncio.create_task(decode(hostile.slow(), by, "bomber")) for _ in range(3)]
        await asyncio.sleep(0.1)
        start = time.monotonic()
        await decode(encoded(tiny.picture(50, 50)), by, "other")
        assert not any(bomb.done() for bomb in bombs)
        seconds = time.monotonic() - start
        for bomb in bombs:
            bomb.cancel()
        await asyncio.gather(*bombs, return_exceptions=True)
        return seconds

    assert run(flood()) < 3


def test_only_so_many_pixels_are_held_at_once(run, decoder):
    data = encoded(Image.new("RGB", (100, 100)))

    async def hold():
        by, leave, holding = decoder(60_000), asyncio.Event(), []  # two images, one of each tenant

        async def one(tenant):
            async with by.decode(data, tenant):
                holding.append(tenant)
                await leave.wait()

        tasks = [asyncio.create_task(one(tenant)) for tenant in "ab"]
        while len(holding) < 2:
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(one(tenant)) for tenant in "aac"]
        await asyncio.sleep(0.3)
        before = sorted(holding)
        tasks[-1].cancel()  # while it waits
        leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return before, sorted(holding), by.memory.held

    assert run(hold()) == (["a", "b"], ["a", "a", "a", "b"], {})


def test_shares_are_granted_in_order(run):
    async def claims():
        share, granted = FairShare(4, 2), []

        async def claim(tenant, amount):
            async with share.hold(tenant, amount):
                granted.append((tenant, amount))
                await asyncio.sleep(0.01)

        async with AsyncExitStack() as held:
            await held.enter_async_context(share.hold("a", 2))
            await held.enter_async_context(share.hold("b", 1))
            # a's share is taken, which stops a alone; c's claim is too large for what is left, which stops d's, too.
            tasks = [asyncio.create_task(claim(*one)) for one in (("a", 1), ("c", 2), ("d", 1), ("b", 1))]
            await asyncio.sleep(0.01)
            assert not granted
        await asyncio.gather(*tasks)
        return granted, share.held

    granted, held = run(claims())
    assert granted == [("c", 2), ("a", 1), ("d", 1), ("b", 1)]
    assert not held
