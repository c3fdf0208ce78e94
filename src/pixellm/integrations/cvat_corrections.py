"""CVAT's finished jobs as corrections: masks and polygons of each frame → masks of labels.

CVAT tells its functions nothing about what becomes of their shapes. Its jobs do: *Finish the job* sets their stage to
acceptance and their state to completed, and the SDK reads both, and the annotations.
"""

import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import cvat_sdk.models as models  # pyright: ignore[reportMissingImports]
import numpy as np
from cvat_sdk import Client, make_client  # pyright: ignore[reportMissingImports]
from cvat_sdk.api_client.exceptions import ApiException  # pyright: ignore[reportMissingImports]
from cvat_sdk.core.proxies.jobs import Job  # pyright: ignore[reportMissingImports]
from cvat_sdk.masks import decode_mask  # pyright: ignore[reportMissingImports]
from PIL import Image
from urllib3.exceptions import HTTPError

from pixellm.imaging import masks
from pixellm.imaging.images import load_image
from pixellm.integrations.corrected_labels import AcceptedImage, corrections_of_labels, united

TOOL = "cvat"
KINDS = ("mask", "polygon")


def is_accepted(job: "Job") -> bool:
    """Return whether a job of annotators is finished: stage acceptance, state completed."""
    return (str(job.type), str(job.stage), str(job.state)) == ("annotation", "acceptance", "completed")


@contextmanager
def _cvat_errors(url: str) -> Iterator[None]:
    """Turn errors of the SDK into one line for users."""
    try:
        yield
    except ApiException as error:
        advice = " Is CVAT_ACCESS_TOKEN right?" if error.status in (401, 403) else ""
        raise ValueError(f"expected an answer of CVAT at {url}, got {error.status} {error.reason}.{advice}") from None
    except HTTPError as error:
        raise ValueError(f"expected CVAT at {url}, got: {error}.") from None


def jobs_of(url: str, token: str, task: int) -> "list[Job]":
    """Return the jobs of a task; they keep a client of CVAT.

    Args:
        url: CVAT's address.
        token: a personal access token.
        task: number of the task.

    Raises:
        ValueError: no CVAT there, no such task, or a wrong token.
    """
    with _cvat_errors(url):
        client: Client = make_client(url, access_token=token)
        return client.jobs.list(task_id=task)


def accepted_images(job: "Job", url: str) -> Iterator[AcceptedImage]:
    """Yield the frames of a job that have masks or polygons: for each label the union of its shapes.

    Args:
        job: see `is_accepted`.
        url: CVAT's address, for messages.

    Raises:
        ValueError: what CVAT answers, or an image that can't be read.
    """
    with _cvat_errors(url):
        labels = {label.id: str(label.name) for label in job.get_labels()}
        deleted = set(job.get_meta().deleted_frames)
        by_frame = defaultdict[int, list](list)
        for shape in job.get_annotations().shapes:
            if str(shape.type) in KINDS and shape.frame not in deleted:
                by_frame[shape.frame].append(shape)
        user = str(job.assignee.username) if job.assignee else ""
        for frame, shapes in sorted(by_frame.items()):
            file = job.get_frame(frame, quality="original").read()
            image = load_image(Image.open(io.BytesIO(file)))
            parts = [(labels[shape.label_id], _mask(shape, image.height, image.width)) for shape in shapes]
            yield AcceptedImage(f"frame {frame}", file, corrections_of_labels(united(parts), {}, tool=TOOL, user=user))


def _mask(shape: "models.LabeledShape", height: int, width: int) -> np.ndarray:
    if str(shape.type) == "mask":
        return decode_mask(shape.points, image_width=width, image_height=height)
    return masks.decode([list(shape.points)], height, width)
