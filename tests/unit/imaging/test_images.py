"""Images of every kind become upright RGB; everything else is a ValueError that says what is wrong."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from pixellm.imaging import images
from pixellm.imaging.images import ImageError, count_scans, load_image, read_size, read_values
from tests.support import hostile

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def photo():
    """12×8 noise: 12 wide, 8 high."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))


def pixel(source, x=0, y=0):
    image = load_image(source)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return image.getpixel((x, y))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tiff", ".webp", ".gif", ".jpg", ".jp2", ".ico", ".tga"])
def test_formats(tmp_path, photo, suffix):
    file = tmp_path / f"photo{suffix}"
    photo.save(file, **({"lossless": True} if suffix == ".webp" else {}))
    image = load_image(file)
    assert (image.mode, image.size) == ("RGB", (12, 8))
    if suffix in {".png", ".bmp", ".ppm", ".tiff", ".webp", ".tga"}:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(photo))


def test_str_path_and_image_give_the_same_and_never_the_same_object(tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), photo, np.asarray(photo)):
        image = load_image(source)
        assert image is not photo
        np.testing.assert_array_equal(np.asarray(image), np.asarray(photo))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png")
    # Where the stored top left corner belongs, by the EXIF standard (tag 0x0112).
    corner = {1: (0, 0), 2: (2, 0), 3: (2, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 2), 8: (0, 2)}[orientation]
    assert image.size == ((3, 2) if orientation < 5 else (2, 3))
    assert image.getpixel(corner) == RED
    assert load_image(image).size == image.size  # not turned twice


def test_alpha_is_laid_on_white(tmp_path):
    assert pixel(Image.new("RGBA", (2, 2), (255, 0, 0, 0))) == WHITE
    assert pixel(Image.new("RGBA", (2, 2), (255, 0, 0, 255))) == RED
    assert pixel(Image.new("RGBA", (2, 2), (0, 0, 0, 51))) == (204, 204, 204)
    assert pixel(Image.new("LA", (2, 2), (0, 0))) == WHITE
    assert pixel(np.zeros((2, 2, 4), np.uint8)) == WHITE
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert pixel(tmp_path / "palette.png", 0) == WHITE
    assert pixel(tmp_path / "palette.png", 1) == RED
    Image.new("RGB", (1, 1), RED).save(tmp_path / "key.png", transparency=RED)
    assert pixel(tmp_path / "key.png") == WHITE


def test_grey_bilevel_palette_and_cmyk(tmp_path):
    assert pixel(Image.new("L", (1, 1), 7)) == (7, 7, 7)
    assert pixel(Image.new("1", (1, 1), 1)) == WHITE
    assert pixel(Image.new("CMYK", (1, 1), (0, 255, 255, 0))) == RED
    Image.new("RGB", (4, 4), RED).quantize(4).save(tmp_path / "p.png")
    assert pixel(tmp_path / "p.png") == RED
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "cmyk.jpg")
    assert pixel(tmp_path / "cmyk.jpg") == WHITE


def test_16_bit_grey(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    big_endian = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
    for source in (tmp_path / "deep.png", tmp_path / "deep.tiff", big_endian, Image.fromarray(values.astype(np.int32))):
        assert [pixel(source, x)[0] for x in range(4)] == [0, 1, 128, 255]
    assert pixel(Image.fromarray(np.array([[200]], np.uint16))) == (200, 200, 200)  # 8 bits in a 16-bit file
    with pytest.raises(ValueError, match=r"0\.\.65535, got -5\.\.-5"):
        load_image(Image.new("I", (1, 1), -5))


def test_float_images():
    assert pixel(Image.new("F", (1, 1), 1.0)) == WHITE
    assert pixel(Image.new("F", (1, 1), 128.0)) == (128, 128, 128)
    for value in (-0.5, 300.0, float("nan")):
        with pytest.raises(ValueError, match="expected floats in 0"):
            load_image(Image.new("F", (1, 1), value))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 3), (2, 3, 4)])
@pytest.mark.parametrize(
    ("dtype", "full"),
    [("uint8", 255), ("uint16", 65535), ("bool", 1), ("float16", 1), ("float32", 1), ("float64", 1)],
)
def test_arrays(shape, dtype, full):
    image = load_image(np.full(shape, full, dtype))
    assert image.size == (3, 2)
    assert image.getpixel((2, 1)) == WHITE
    assert load_image(np.full(shape, full, dtype)[::-1, ::-1]).size == (3, 2)  # not contiguous


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9)), r"shape \(3, 8, 9\).*transpose\(1, 2, 0\)"),
        (np.zeros((1, 8, 9, 3)), "one image"),
        (np.zeros(5), "shape"),
        (np.zeros((8, 9, 2)), "shape"),
        (np.zeros((0, 9)), "at least one pixel"),
        (np.zeros((9, 0, 3)), "at least one pixel"),
        (np.zeros((2, 2), np.int64), r"got int64.*astype"),
        (np.full((2, 2), 1.5), r"0\.\.1, got 1\.5"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 2), np.inf), "got inf"),
        (np.zeros((2, 2), complex), "complex"),
        (np.array([["a"]]), "<U1"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(ValueError, match=message):
        load_image(array)


@pytest.mark.parametrize("size", [(1, 1), (20000, 3), (3, 20000)])
def test_extreme_shapes(tmp_path, size):
    Image.new("RGB", size, RED).save(tmp_path / "odd.png")
    assert load_image(tmp_path / "odd.png").size == size


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, (0, 255, 0))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "moving.gif") == RED


@pytest.mark.parametrize(
    "url", ["http://a.b/c.jpg", "https://a.b/c.jpg", "ftp://a/b.png", "data:image/png;base64,AAAA", "HTTPS://A/B"]
)
def test_urls(url):
    with pytest.raises(ValueError, match="Download it first"):
        load_image(url)


@pytest.mark.parametrize("name", ["missing.png", "no/such/dir/x.png", "x" * 5000, "nul\0.png", ""])
def test_missing(name):
    with pytest.raises(ValueError, match="does not exist"):
        load_image(name)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image at all")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    os.mkfifo(tmp_path / "pipe")
    for name, message in [
        ("", "got the directory"),
        ("empty.png", "zero bytes"),
        ("text.png", "not one"),
        ("drawing.eps", "not one"),
        ("pipe", "a device or a pipe"),
        ("text.png/x", "does not exist"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_image(tmp_path / name)
    with pytest.raises(ValueError, match="got list"):
        load_image([1, 2, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".tiff", ".webp", ".jp2", ".ppm", ".tga", ".ico"])
def test_truncated(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    file = tmp_path / f"cut{suffix}"
    noise.save(file)
    content = file.read_bytes()
    for keep in (0.5, 0.1):
        file.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(ValueError, match=r"truncated or damaged|not one"):
            load_image(file)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tiff", ".webp"])
def test_damaged_bytes_never_raise_anything_else(tmp_path, photo, suffix):
    file = tmp_path / f"hurt{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(file, **({} if suffix == ".gif" else {"exif": exif}))
    content = file.read_bytes()
    random = np.random.default_rng(2)
    for _ in range(200):
        hurt = bytearray(content)
        for place in random.integers(0, len(hurt), 3):
            hurt[place] = random.integers(0, 256)
        file.write_bytes(hurt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(ValueError):  # any other error fails the test
                assert load_image(file).mode == "RGB"


def test_too_many_pixels_is_refused_from_the_header(tmp_path, monkeypatch):
    def png_header(width, height):  # a PNG that ends after its header: decoding would be an error of another kind
        buffer = io.BytesIO()
        Image.new("1", (1, 1)).save(buffer, "png")
        content = bytearray(buffer.getvalue())
        content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        return bytes(content)

    file = tmp_path / "bomb.png"
    for width, height in [(10001, 10000), (60000, 60000)]:  # above our limit; above Pillow's own
        file.write_bytes(png_header(width, height))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match="at most 50 million pixels"):
                load_image(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="at most 50 million pixels"):
            load_image(file)
    monkeypatch.setattr(images, "MAX_PIXELS", 10)
    for source in (Image.new("L", (4, 3)), np.zeros((4, 3))):
        with pytest.raises(ValueError, match="Scale it down"):
            load_image(source)


def test_permission(tmp_path, photo, monkeypatch):
    photo.save(tmp_path / "locked.png")

    def refuse(*_args, **_kwargs):  # as root, a chmod would not do
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match="permission denied"):
        load_image(tmp_path / "locked.png")


def test_examples():
    assert load_image("example:cat").size == (451, 300)
    with pytest.raises(ValueError, match=r"got 'nothing'.*astronaut"):
        load_image("example:nothing")


def test_scans_are_limited(tmp_path):
    """Without a limit, these 2,000 scans of 25 megapixels take 80 s."""
    path = tmp_path / "a.jpg"
    path.write_bytes(hostile.scans(5000, 5000, 2000))
    with pytest.raises(ValueError, match=r"at most 40 scans, got .*a\.jpg of more"):
        load_image(path)
    path.write_bytes(hostile.scans(1000, 1000, 60))
    assert load_image(path).size == (1000, 1000)


def test_markers_in_metadata_are_no_scans(tmp_path):
    """Raw data of cameras, in segments or behind the image, holds any bytes; fill bytes and restarts change nothing."""
    data = hostile.encoded(Image.new("RGB", (64, 48), "red"), "JPEG", restart_marker_blocks=1)
    segment = b"\xff\xe5" + (2 + 600).to_bytes(2) + b"\xff\xda" * 300
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + b"\xff" + segment + data[2:] + b"\xff\xda" * 300)
    with Image.open(path) as image:
        assert count_scans(image) == 1
    assert load_image(path).size == (64, 48)


def test_metadata_cannot_flood_the_log(tmp_path):
    """In a process of its own: pytest has filters of its own."""
    (tmp_path / "a.png").write_bytes(hostile.noisy(1000))
    code = "import sys; from pixellm.imaging.images import load_image; load_image(sys.argv[1])"
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"", b"")


@pytest.mark.parametrize("read", [load_image, read_size, read_values])
def test_errors_of_any_kind_name_the_file(tmp_path, read):
    """Found by fuzzing: Pillow's error was raised as it was."""
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 25z}2\x85 30 255 x")
    with pytest.raises(ImageError, match=r"a\.ppm"):
        read(path)
