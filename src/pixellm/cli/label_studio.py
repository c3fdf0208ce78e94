"""`pixellm label-studio`: an ML backend for Label Studio."""

import os
from typing import Annotated

import typer

from pixellm.cli.common import out_console
from pixellm.utils.sockets import LOOPBACK, listen

TOKEN, PASSWORD = "LABEL_STUDIO_API_KEY", "PIXELLM_BACKEND_PASSWORD"


def label_studio(
    server: Annotated[
        str, typer.Option(help="Address of the `pixellm serve` that answers; PIXELLM_API_KEY is its API key.")
    ] = "http://127.0.0.1:8000",
    label_studio_url: Annotated[
        str, typer.Option("--label-studio", envvar="LABEL_STUDIO_URL", help="Address of Label Studio.")
    ] = "http://127.0.0.1:8080",
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than the loopback address needs a password.")
    ] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 9090,
    image_host: Annotated[
        list[str] | None,
        typer.Option(help="Allow fetching images from HOST[:PORT], too; repeat for several. Default: none."),
    ] = None,
    question_field: Annotated[
        str, typer.Option(help="Field of a task's data that holds its question, if it has one.")
    ] = "question",
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Least presence score (score without one) of a region; 0: the server's.")
    ] = 0.0,
) -> None:
    """Serve Label Studio as its ML backend: text prompts, questions of tasks, or labels → brush masks.

    LABEL_STUDIO_API_KEY is an access token of Label Studio, for its images; PIXELLM_BACKEND_PASSWORD is the password
    that it sends (basic authentication, any user name).
    """
    password = os.environ.get(PASSWORD, "")
    if host not in LOOPBACK and not password:
        raise ValueError(
            f"expected a password for {host}, where others can reach it, got none. "
            f"Set {PASSWORD}, or listen on 127.0.0.1."
        )
    import uvicorn

    from pixellm.integrations.label_studio import LabelStudioBackend, TaskImages, create_backend
    from pixellm.integrations.remote import RemoteSegmenter

    images = TaskImages(label_studio_url, os.environ.get(TOKEN, ""), image_host or ())
    backend = LabelStudioBackend(RemoteSegmenter(server, min_score=min_score), images, question_field)
    with listen(host, port) as listening:
        url_host = f"[{host}]" if ":" in host else host
        out_console.print(f"http://{url_host}:{listening.getsockname()[1]}  (Ctrl-C ends)")
        config = uvicorn.Config(create_backend(backend, password), log_level="warning")
        uvicorn.Server(config).run([listening])
