"""`pixellm mcp`: a server for agents that speak the Model Context Protocol."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixellm.cli.common import (
    STDOUT,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    MinScoreOption,
    Model,
    NamerOption,
    QuantizeOption,
    Runtime,
    RuntimeOption,
    device_and_dtype,
    reserve_stdout,
    runs_graphs,
)
from pixellm.hub.models import MINI

if TYPE_CHECKING:
    from pixellm.types import Segmenter

Server = Annotated[
    str | None,
    typer.Option(
        help="Address of a `pixellm serve` that answers, http://HOST:PORT, in place of a model that is loaded here; "
        "PIXELLM_API_KEY is its API key."
    ),
]
Out = Annotated[
    Path | None, typer.Option(file_okay=False, help="Directory for the files of cut-outs. Default: none are written.")
]
Roots = Annotated[
    list[Path] | None,
    typer.Option(
        "--root", exists=True, file_okay=False, help="Directory to read images from; repeat for several. Default: any."
    ),
]


def mcp(
    model: Model = MINI,
    namer: NamerOption = None,
    server: Server = None,
    out: Out = None,
    root: Roots = None,
    min_score: MinScoreOption = 0.0,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    runtime: RuntimeOption = Runtime.AUTO,
) -> None:
    """Serve agents over standard input and output (Model Context Protocol): ask, segment, refine, cut out.

    With --server an agent may also keep corrected masks, if the server was started with --corrections.
    The model is loaded while the agent starts; its first question waits for it, and gets the error if there is one.
    """
    reserve_stdout(STDOUT)  # the protocol's
    if find_spec("mcp") is None:
        raise ModuleNotFoundError("No module named 'mcp'", name="mcp")

    needs_torch = device is Device.CUDA or dtype is not Dtype.AUTO or quantize is not None or namer is not None
    by_graphs = server is None and runs_graphs(runtime, model, needs_torch)

    def load() -> "Segmenter":
        if server is not None:
            from pixellm.integrations.remote import RemoteSegmenter

            return RemoteSegmenter(server, min_score=min_score)
        if by_graphs:
            from pixellm.loading import load_graphs

            return load_graphs(model, min_score=min_score)
        from pixellm.segmenter import load_segmenter

        where = device_and_dtype(device, dtype)
        return load_segmenter(model, *where, namer=namer, quantize=quantize, min_score=min_score)

    from pixellm.integrations.mcp_server import SegmenterThread, create_server

    create_server(SegmenterThread(load, root or ()), out, keeps=server is not None).run("stdio")
