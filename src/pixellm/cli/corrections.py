"""`pixellm corrections`: masks that people have accepted in annotation tools → a server that keeps corrections."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli.common import out_console

TOKEN = "CVAT_ACCESS_TOKEN"

app = typer.Typer(help="Send masks that were accepted in annotation tools to a server.", no_args_is_help=True)

Server = Annotated[
    str,
    typer.Option(help="Address of the `pixellm serve --corrections DIR` that keeps them; PIXELLM_API_KEY is its key."),
]
LOCAL = "http://127.0.0.1:8000"


@app.command("x-anylabeling")
def x_anylabeling(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of X-AnyLabeling's label files.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of the images. Default: as the label files say."),
    ] = None,
    user: Annotated[str, typer.Option(help="Name of the annotator, kept with each correction. Default: none.")] = "",
    server: Server = LOCAL,
) -> None:
    """Send the polygons of all images that are marked as checked in X-AnyLabeling, a mask for each label."""
    from pixellm.integrations.corrected_labels import send
    from pixellm.integrations.remote import RemoteSegmenter
    from pixellm.integrations.x_anylabeling_files import accepted_image, is_checked, label_files

    files = list(label_files(folder))
    if not files:
        raise ValueError(f"expected label files of X-AnyLabeling in {folder}, got none. Save the annotations there.")
    checked = [(path, content) for path, content in files if is_checked(content)]
    accepted = (accepted_image(path, content, images, user) for path, content in checked)
    count = send(RemoteSegmenter(server), accepted)
    out_console.print(f"{count} corrections of {len(checked)} images kept; {len(files) - len(checked)} are not checked")


@app.command("cvat")
def cvat(
    task: Annotated[int, typer.Argument(min=1, help="Number of the task.")],
    cvat_url: Annotated[str, typer.Option("--cvat", help="Address of CVAT.")] = "https://app.cvat.ai",
    server: Server = LOCAL,
) -> None:
    """Send the masks and polygons of a CVAT task's finished jobs, a mask for each label and frame.

    CVAT_ACCESS_TOKEN is a personal access token of CVAT.
    """
    token = os.environ.get(TOKEN, "")
    if not token:
        raise ValueError(f"expected a personal access token of CVAT in {TOKEN}, got none. Make one in CVAT's settings.")
    from pixellm.integrations.corrected_labels import send
    from pixellm.integrations.cvat_corrections import accepted_images, is_accepted, jobs_of
    from pixellm.integrations.remote import RemoteSegmenter

    segmenter = RemoteSegmenter(server)
    jobs = jobs_of(cvat_url, token, task)
    accepted = [job for job in jobs if is_accepted(job)]
    count = sum(send(segmenter, accepted_images(job, cvat_url)) for job in accepted)
    out_console.print(f"{count} corrections of {len(accepted)} jobs kept; {len(jobs) - len(accepted)} are not finished")
