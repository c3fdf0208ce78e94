"""Bags of ROS 2 without ROS: a bag's images → a bag of detections and label images.

python -m pixellm.integrations.ros2_bag drive drive_segmented --topic /camera/image_raw --prompt "car, person"
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pixellm.hub.models import MINI
from pixellm.integrations.remote import PromptQuestion, connect, read_prompt
from pixellm.integrations.ros2 import decode_compressed, decode_image, segment
from pixellm.types import Segmenter
from pixellm.utils.files import atomic_directory

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore  # pyright: ignore[reportMissingImports]

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
BAG_VERSION = 8  # of the format, the older of the two that rosbags writes
DETECTIONS = "vision_msgs/msg/Detection2DArray"
# vision_msgs 4.0 (Humble and later), which readers of bags have to be told: it is not part of ROS's common interfaces.
DEFINITIONS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
}


def typestore() -> "Typestore":
    """Return ROS 2's message types (Humble's) with those of vision_msgs."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # pyright: ignore[reportMissingImports]

    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in DEFINITIONS.items():
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return store


class Counts(NamedTuple):
    """Numbers of images, and of detections in them."""

    images: int
    detections: int


def convert(
    source: Path,
    out: Path,
    segmenter: Segmenter,
    questions: Sequence[PromptQuestion],
    topic: str | None = None,
    every: int = 1,
) -> Counts:
    """Write a bag with the detections and label images of a bag's images, under `TOPIC/detections` and `TOPIC/labels`.

    Times are those of the images, so that both bags play together.

    Args:
        source: directory of a ROS 2 bag.
        out: directory of the new bag, which must not exist; after an error it is not there.
        segmenter: what answers.
        questions: see `pixellm.integrations.remote.read_prompt`.
        topic: topic of the images; None: the only one that has images.
        every: every how many images are asked about.

    Raises:
        ValueError: no such topic, no prompt, or an image in another encoding.
    """
    from rosbags.rosbag2 import Reader, Writer  # pyright: ignore[reportMissingImports]

    if not questions:
        raise ValueError("expected a prompt, got an empty text. Name an object, or ask a question.")
    store, images, detections = typestore(), 0, 0
    with Reader(source) as reader, atomic_directory(out) as temporary:
        chosen = _images_of(reader.connections, topic)
        with Writer(temporary / "bag", version=BAG_VERSION) as writer:
            outputs = [
                (name, writer.add_connection(f"{chosen[0].topic}/{suffix}", name, typestore=store))
                for name, suffix in ((DETECTIONS, "detections"), (IMAGE, "labels"))
            ]
            for connection, time, raw in islice(reader.messages(chosen), None, None, every):
                message = store.deserialize_cdr(raw, connection.msgtype)
                pixels = decode_image(message) if connection.msgtype == IMAGE else decode_compressed(message.data)
                result = segment(segmenter, pixels, message.header, questions)
                for (name, target), fields in zip(outputs, (result.detections, result.labels), strict=True):
                    writer.write(target, time, store.serialize_cdr(build(store, name, fields), name))
                images, detections = images + 1, detections + len(result.detections["detections"])
        _move_up(temporary)
    return Counts(images, detections)


def build(store: "Typestore", name: str, fields: Mapping[str, Any]) -> Any:
    """Return a message of a type of `store`; fields that are left out are 0 or empty, as ROS makes them."""
    values = {field: _value(store, kind, fields.get(field)) for field, kind in store.fielddefs[name][1]}
    return store.types[name](**values)


def _value(store: "Typestore", kind: tuple, value: Any) -> Any:
    """Return the value of a field of a kind, as rosbags writes it: (node, (name, length) or the kind of elements)."""
    from rosbags.interfaces import Nodetype  # pyright: ignore[reportMissingImports]

    node, detail = kind
    if node == Nodetype.NAME:
        return build(store, detail, value or {})
    if node == Nodetype.BASE:
        return ("" if detail[0] == "string" else 0) if value is None else value
    (inner, name), length = detail
    if inner == Nodetype.NAME:
        return [build(store, name, fields) for fields in value or ()]
    if value is not None:
        return value
    return [] if name[0] == "string" else np.zeros(length if node == Nodetype.ARRAY else 0, dtype=name[0])


def _images_of(connections: Sequence[Any], topic: str | None) -> list[Any]:
    """Return the connections of the topic with images; a ValueError if there is none, or several to choose from."""
    found = [c for c in connections if c.msgtype in (IMAGE, COMPRESSED) and topic in (None, c.topic)]
    topics = sorted({connection.topic for connection in found})
    if len(topics) != 1:
        there = ", ".join(sorted(f"{c.topic} ({c.msgtype})" for c in connections)) or "nothing"
        raise ValueError(f"expected one topic of images, got {len(topics)}. Name it by --topic; the bag has: {there}.")
    return found


def _move_up(directory: Path) -> None:
    """Move the files of `directory/bag` into the directory: the writer makes a directory of its own."""
    for file in (directory / "bag").iterdir():
        file.rename(directory / file.name)
    (directory / "bag").rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="Directory of a ROS 2 bag.")
    parser.add_argument("out", type=Path, help="Directory of the new bag.")
    parser.add_argument("--prompt", required=True, help="Phrases between commas, or a question.")
    parser.add_argument("--topic", help="Topic of the images. (default: the only one that has images)")
    parser.add_argument("--every", type=int, default=1, help="Every how many images are asked about. (default: 1)")
    parser.add_argument("--model", default=MINI, help="Name of a model, or address of a `pixellm serve`.")
    parser.add_argument(
        "--min-score", type=float, default=0.0, help="Least presence score of a detection. (default: 0)"
    )
    parser.add_argument("--device", default="cpu", help="Device of a model that is loaded here. (default: cpu)")
    arguments = parser.parse_args()
    segmenter = connect(arguments.model, arguments.min_score, arguments.device)
    questions = read_prompt(arguments.prompt)
    counts = convert(arguments.source, arguments.out, segmenter, questions, arguments.topic, arguments.every)
    print(f"{arguments.out}: {counts.images} images, {counts.detections} detections")


if __name__ == "__main__":
    main()
