"""ROS 2 without ROS: encodings of images, the messages of an answer, and a bag that is written and read."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pixellm.integrations.remote import read_prompt
from pixellm.integrations.ros2 import decode_compressed, decode_image, segment
from tests.support.colours import ColourSegmenter, flag, mask_of

PIXELS = np.asarray(flag())
HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=12, nanosec=34), frame_id="camera")
ALPHA = np.full((30, 40, 1), 7, dtype=np.uint8)
GREY = PIXELS[..., :1].copy()


def message(data: np.ndarray, encoding: str, padding: int = 0, **fields) -> SimpleNamespace:
    """An image message whose rows are padded; `data` is uint8 (H, W, bytes of a pixel)."""
    rows = data.reshape(len(data), -1)
    step = rows.shape[1] + padding
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    values = {"header": HEADER, "height": data.shape[0], "width": data.shape[1], "encoding": encoding}
    return SimpleNamespace(**{**values, "is_bigendian": 0, "step": step, "data": padded.tobytes(), **fields})


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("rgb8", PIXELS, PIXELS),
        ("bgr8", PIXELS[..., ::-1], PIXELS),
        ("8UC3", PIXELS[..., ::-1], PIXELS),
        ("rgba8", np.concatenate([PIXELS, ALPHA], axis=2), PIXELS),
        ("bgra8", np.concatenate([PIXELS[..., ::-1], ALPHA], axis=2), PIXELS),
        ("mono8", GREY, GREY.repeat(3, axis=2)),
        ("mono16", np.concatenate([ALPHA, GREY], axis=2), GREY.repeat(3, axis=2)),  # the lower byte first
    ],
)
def test_encodings(encoding, data, expected, padding):
    assert np.array_equal(decode_image(message(data, encoding, padding)), expected)


def test_big_endian():
    swapped = message(np.concatenate([GREY, ALPHA], axis=2), "mono16", is_bigendian=1)
    assert np.array_equal(decode_image(swapped), GREY.repeat(3, axis=2))


@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(order):
    colour = {"r": 200, "g": 100, "b": 50}
    cell = np.array([colour[letter] for letter in order], dtype=np.uint8).reshape(2, 2)
    mosaic = np.tile(cell, (3, 4))[:5, :7, None]  # odd sizes
    decoded = decode_image(message(mosaic, f"bayer_{order}8"))
    assert decoded.shape == (5, 7, 3)
    assert (decoded[:4, :6] == (200, 100, 50)).all()


@pytest.mark.parametrize(("encoding", "first"), [("uyvy", 1), ("yuv422", 1), ("yuyv", 0), ("yuv422_yuy2", 0)])
def test_yuv(encoding, first):
    wide = flag(80, 30).resize((40, 30), Image.Resampling.NEAREST)
    yuv = np.asarray(wide.convert("YCbCr"))
    pairs = np.empty((30, 40, 2), dtype=np.uint8)
    pairs[..., first] = yuv[..., 0]
    pairs[:, 0::2, 1 - first], pairs[:, 1::2, 1 - first] = yuv[:, 0::2, 1], yuv[:, 0::2, 2]
    decoded = decode_image(message(pairs, encoding)).astype(int)
    same = (yuv[:, 0::2, 1:] == yuv[:, 1::2, 1:]).all(axis=2).repeat(2, axis=1)  # where neighbours share their colour
    assert same.mean() > 0.9
    assert np.abs(decoded - np.asarray(wide).astype(int))[same].max() <= 2


def test_compressed():
    stream = io.BytesIO()
    flag().save(stream, "PNG")
    assert np.array_equal(decode_compressed(np.frombuffer(stream.getvalue(), dtype=np.uint8)), PIXELS)
    with pytest.raises(ValueError, match="JPEG or PNG"):
        decode_compressed(b"no image")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"encoding": "32FC1"}, "rgb8, bgr8"),
        ({"data": b"short"}, "5 bytes in all"),
        ({"step": 3}, "rows of 3"),
        ({"height": 0}, "at least one pixel"),
        ({"height": 10**6, "width": 10**6}, "million pixels"),
    ],
)
def test_broken_messages(fields, expected):
    with pytest.raises(ValueError, match=expected):
        decode_image(SimpleNamespace(**(vars(message(PIXELS, "rgb8")) | fields)))


def test_detections_and_labels():
    found = segment(ColourSegmenter(), PIXELS, HEADER, read_prompt("red, green, blue"))
    header = {"stamp": {"sec": 12, "nanosec": 34}, "frame_id": "camera"}
    first, second = found.detections["detections"]
    assert found.detections["header"] == found.labels["header"] == first["header"] == header
    assert first["results"] == [{"hypothesis": {"class_id": "red", "score": 0.9}}]
    assert first["bbox"] == {
        "center": {"position": {"x": 10.0, "y": 5.0}, "theta": 0.0},
        "size_x": 20.0,
        "size_y": 10.0,
    }
    assert (first["id"], second["id"], second["results"][0]["hypothesis"]["class_id"]) == ("1", "2", "green")
    labels = found.labels["data"].view("<u2").reshape(30, 40)
    assert np.array_equal(labels, mask_of(flag(), "red") + 2 * mask_of(flag(), "green"))
    assert (found.labels["encoding"], found.labels["step"], found.labels["is_bigendian"]) == ("mono16", 80, 0)


def test_a_bag(tmp_path):
    """Written and read by rosbags: raw images, other messages beside them, compressed ones on a second topic."""
    rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed")
    from pixellm.integrations.ros2_bag import COMPRESSED, DETECTIONS, IMAGE, build, convert, typestore

    store, stream = typestore(), io.BytesIO()
    flag().save(stream, "JPEG", quality=95)
    with rosbag2.Writer(tmp_path / "in", version=9) as writer:
        camera = writer.add_connection("/camera", IMAGE, typestore=store)
        packed = writer.add_connection("/packed", COMPRESSED, typestore=store)
        words = writer.add_connection("/words", "std_msgs/msg/String", typestore=store)
        for number in range(4):
            fields = {"header": {"stamp": {"sec": number, "nanosec": 0}, "frame_id": "c"}}
            image = {"height": 30, "width": 40, "encoding": "rgb8", "step": 120, "data": PIXELS.ravel()}
            jpeg = {"format": "jpeg", "data": np.frombuffer(stream.getvalue(), dtype=np.uint8)}
            rows = ((camera, IMAGE, fields | image), (packed, COMPRESSED, fields | jpeg))
            for connection, name, values in (*rows, (words, "std_msgs/msg/String", {"data": "x"})):
                writer.write(connection, 1000 + number, store.serialize_cdr(build(store, name, values), name))
    prompt = read_prompt("red, green")
    with pytest.raises(ValueError, match="got 2"):
        convert(tmp_path / "in", tmp_path / "out", ColourSegmenter(), prompt)
    assert not (tmp_path / "out").exists()
    counts = convert(tmp_path / "in", tmp_path / "out", ColourSegmenter(), prompt, "/camera", every=2)
    assert counts == (2, 4)
    with rosbag2.Reader(tmp_path / "out") as reader:
        read = [(c.topic, time, store.deserialize_cdr(raw, c.msgtype)) for c, time, raw in reader.messages()]
        kinds = {c.topic: c.msgtype for c in reader.connections}
    assert kinds == {"/camera/detections": DETECTIONS, "/camera/labels": IMAGE}
    assert [(topic, time) for topic, time, _ in read] == [(t, time) for time in (1000, 1002) for t in sorted(kinds)]
    boxes, labels = read[2][2], read[3][2]
    assert boxes.header.stamp.sec == labels.header.stamp.sec == 2
    assert [(d.id, d.results[0].hypothesis.class_id, d.bbox.size_x) for d in boxes.detections] == [
        ("1", "red", 20.0),
        ("2", "green", 30.0),
    ]
    assert boxes.detections[0].results[0].pose.covariance.shape == (36,)
    assert np.array_equal(labels.data.view("<u2").reshape(30, 40) == 1, mask_of(flag(), "red"))
    assert convert(tmp_path / "in", tmp_path / "packed", ColourSegmenter(), prompt, "/packed").images == 4
