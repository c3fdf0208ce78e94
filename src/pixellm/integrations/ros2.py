"""ROS 2: sensor_msgs/Image → vision_msgs/Detection2DArray and a label image; a node, and what it does to a message.

    python -m pixellm.integrations.ros2 --ros-args -r image:=/camera/image_raw -p prompt:="cup, spoon"

Messages go in as objects with ROS's attributes and come out as dictionaries of their fields, so that rclpy, a bag
reader and tests share everything here; `rclpy` is imported by the node alone.

Shapes:  H, W image height and width · N targets
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pixellm.hub.models import MINI
from pixellm.imaging.images import check_pixels, load_image
from pixellm.integrations.remote import PromptQuestion, connect, read_prompt
from pixellm.types import Segmenter, Target

# Order of the channels of encodings with 8 bits a channel; 8UC3 is OpenCV's, which has blue first.
CHANNELS = {
    **{"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "8UC3": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)},
    **{"8UC4": (2, 1, 0), "mono8": (0, 0, 0), "8UC1": (0, 0, 0)},
}
DEPTHS = {"rgba8": 4, "bgra8": 4, "8UC4": 4, "mono8": 1, "8UC1": 1}  # channels; 3 where they are not named
BAYER = {  # red, the two greens and blue of a cell, as (row, column)
    "bayer_rggb8": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "bayer_bggr8": ((1, 1), (0, 1), (1, 0), (0, 0)),
    "bayer_gbrg8": ((1, 0), (0, 0), (1, 1), (0, 1)),
    "bayer_grbg8": ((0, 1), (0, 0), (1, 1), (1, 0)),
}
YUV = {"yuv422": 1, "uyvy": 1, "yuv422_yuy2": 0, "yuyv": 0}  # where the first Y stands
MAX_LABEL = np.iinfo(np.uint16).max
ENCODINGS = (*CHANNELS, *BAYER, *YUV, "mono16", "16UC1")


class ImageMessage(Protocol):
    """Fields of sensor_msgs/Image."""

    header: Any
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def decode_image(message: ImageMessage) -> np.ndarray:
    """Return the RGB pixels, uint8 (H, W, 3), of an image message.

    16 bits are scaled down; a Bayer mosaic is resolved cell by cell, each 2 × 2 pixels in one colour.

    Raises:
        ValueError: another encoding, or fewer bytes than its size needs.
    """
    height, width, encoding = int(message.height), int(message.width), str(message.encoding)
    check_pixels(height, width)
    if encoding in CHANNELS:
        pixels = _rows(message, DEPTHS.get(encoding, 3)).reshape(height, width, -1)
        return np.ascontiguousarray(pixels[..., CHANNELS[encoding]])
    if encoding in BAYER:
        return _from_bayer(_rows(message, 1), BAYER[encoding])
    if encoding in YUV:
        return _from_yuv(_rows(message, 2).reshape(height, width, 2), YUV[encoding])
    if encoding in ("mono16", "16UC1"):
        pairs = _rows(message, 2).reshape(height, width, 2)
        return np.repeat(pairs[..., 0 if message.is_bigendian else 1][..., None], 3, axis=-1)  # the upper byte
    raise ValueError(f"expected an image in one of {', '.join(ENCODINGS)}, got {encoding[:40]!r}. Convert it first.")


def decode_compressed(data: Any) -> np.ndarray:
    """Return the RGB pixels, uint8 (H, W, 3), of a sensor_msgs/CompressedImage's data: JPEG or PNG."""
    try:
        with Image.open(io.BytesIO(bytes(data)), formats=("JPEG", "PNG")) as image:
            return np.asarray(load_image(image))
    except OSError:
        raise ValueError("expected a compressed image, JPEG or PNG, got something else.") from None


def _rows(message: ImageMessage, channel_bytes: int) -> np.ndarray:
    """Return the bytes of the image's rows, uint8 (H, W · channel_bytes), without what pads them."""
    height, used, step = int(message.height), int(message.width) * channel_bytes, int(message.step)
    data = np.frombuffer(memoryview(message.data).cast("B"), dtype=np.uint8)
    if step < used or len(data) < height * step:
        raise ValueError(
            f"expected an image of {height} rows of {used} bytes, got rows of {step} and {len(data)} bytes in all."
        )
    return data[: height * step].reshape(height, step)[:, :used]


def _from_bayer(mosaic: np.ndarray, cell: Sequence[tuple[int, int]]) -> np.ndarray:
    height, width = mosaic.shape
    padded = np.pad(mosaic, ((0, height % 2), (0, width % 2)), mode="edge")
    red, green, other, blue = (padded[row::2, column::2].astype(np.uint16) for row, column in cell)
    cells = np.stack([red, (green + other) // 2, blue], axis=-1).astype(np.uint8)
    return cells.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]


def _from_yuv(pairs: np.ndarray, first: int) -> np.ndarray:
    """Return RGB of interleaved Y and U or V, uint8 (H, W, 2), two pixels of which share U and V (BT.601)."""
    height, width, _ = pairs.shape
    if width % 2:
        raise ValueError(f"expected an even width of an image in YUV 4:2:2, got {width}.")
    chroma = pairs[..., 1 - first].repeat(2, axis=1).reshape(height, width // 2, 2, 2)
    u, v = chroma[:, :, 0, 0].repeat(2, axis=1), chroma[:, :, 1, 1].repeat(2, axis=1)
    planes = np.stack([pairs[..., first], u, v], axis=-1)
    return np.asarray(Image.fromarray(planes, "YCbCr").convert("RGB"))


@dataclass(frozen=True)
class Segmented:
    """Fields of the messages about one image: `detections` (vision_msgs/Detection2DArray) and `labels` (Image)."""

    detections: dict[str, Any]
    labels: dict[str, Any]


def segment(segmenter: Segmenter, pixels: np.ndarray, header: Any, questions: Sequence[PromptQuestion]) -> Segmented:
    """Ask about an image.

    Args:
        segmenter: what answers.
        pixels: uint8 (H, W, 3), RGB.
        header: of the image's message; that of both results.
        questions: see `pixellm.integrations.remote.read_prompt`.

    Returns:
        Detections and label image (mono16): the pixels of a detection have the number that is its `id`, 0 is
        background; where masks overlap, the smaller one is seen. Targets without a pixel are left out.
    """
    segmenter.set_image(pixels)
    answers = segmenter.ask_many([question for question, _ in questions])
    found = [
        (phrase or target.category, target)
        for (_, phrase), answer in zip(questions, answers, strict=True)
        for target in answer.targets
        if target.area
    ][:MAX_LABEL]
    fields = _header(header)
    labels = np.zeros(pixels.shape[:2], dtype="<u2")
    for number, (_, target) in sorted(enumerate(found, 1), key=lambda entry: -entry[1][1].area):
        labels[target.mask] = number
    detections = [_detection(fields, number, name, target) for number, (name, target) in enumerate(found, 1)]
    height, width = pixels.shape[:2]
    image = {"height": height, "width": width, "encoding": "mono16", "is_bigendian": 0, "step": 2 * width}
    data = np.frombuffer(labels.tobytes(), dtype=np.uint8)
    return Segmented({"header": fields, "detections": detections}, {"header": fields, **image, "data": data})


def _header(header: Any) -> dict[str, Any]:
    stamp = {"sec": int(header.stamp.sec), "nanosec": int(header.stamp.nanosec)}
    return {"stamp": stamp, "frame_id": str(header.frame_id)}


def _detection(header: dict[str, Any], number: int, name: str, target: Target) -> dict[str, Any]:
    """Return the fields of a vision_msgs/Detection2D (4.0 and later); its score is the presence score, if any."""
    assert target.box is not None
    x, y, width, height = map(float, target.box)
    hypothesis = {"class_id": name, "score": float(target.confidence or 0.0)}
    centre = {"position": {"x": x + width / 2, "y": y + height / 2}, "theta": 0.0}
    return {
        "header": header,
        "results": [{"hypothesis": hypothesis}],
        "bbox": {"center": centre, "size_x": width, "size_y": height},
        "id": str(number),
    }


def run_node(arguments: Sequence[str]) -> None:
    """Run the node until it is stopped; `arguments` are those of ROS.

    Topics: `image` in; `~/detections` and `~/labels` out. Parameters: `prompt`, which may change while it runs,
    `model`, `min_score`, `device`.
    """
    import rclpy  # pyright: ignore[reportMissingImports]
    from rclpy.qos import qos_profile_sensor_data  # pyright: ignore[reportMissingImports]
    from rosidl_runtime_py.set_message import set_message_fields  # pyright: ignore[reportMissingImports]
    from sensor_msgs.msg import Image as RosImage  # pyright: ignore[reportMissingImports]
    from vision_msgs.msg import Detection2DArray  # pyright: ignore[reportMissingImports]

    rclpy.init(args=list(arguments))
    node = rclpy.create_node("pixellm")
    defaults = {"prompt": "person", "model": MINI, "min_score": 0.0, "device": "cpu"}
    for name, value in defaults.items():
        node.declare_parameter(name, value)
    model, min_score, device = (node.get_parameter(name).value for name in ("model", "min_score", "device"))
    segmenter = connect(model, min_score, device)
    detections = node.create_publisher(Detection2DArray, "~/detections", 10)
    labels = node.create_publisher(RosImage, "~/labels", 10)

    def answer(message: ImageMessage) -> None:
        try:
            questions = read_prompt(node.get_parameter("prompt").value)
            segmented = segment(segmenter, decode_image(message), message.header, questions)
        except ValueError as error:
            node.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        boxes, image = Detection2DArray(), RosImage()
        set_message_fields(boxes, segmented.detections)
        pixels = segmented.labels.pop("data")
        set_message_fields(image, segmented.labels)
        image.data = pixels.tobytes()
        detections.publish(boxes)
        labels.publish(image)

    # Best effort, the newest images alone: a camera is faster than any model, old frames would pile up.
    qos_profile_sensor_data.depth = 1
    node.create_subscription(RosImage, "image", answer, qos_profile_sensor_data)
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    run_node(sys.argv)
