"""`pixellm web`: a page in the browser, for people."""

from typing import Annotated

import typer

from pixellm.cli.common import Device, Dtype, QuantizeOption
from pixellm.cli.serve import Host, KeyFile, ModelName, Name, Port, run_server
from pixellm.hub.models import MINI
from pixellm.utils.sockets import LOOPBACK


def web(
    model: ModelName = MINI,
    host: Host = LOOPBACK[0],
    port: Port = 8000,
    name: Name = None,
    keys: KeyFile = None,
    device: Annotated[Device, typer.Option(help="auto: a GPU where there is one.")] = Device.AUTO,
    dtype: Annotated[Dtype, typer.Option(help="auto: bfloat16 on a GPU, else float32.")] = Dtype.AUTO,
    quantize: QuantizeOption = None,
) -> None:
    """Ask in a browser: a page with photograph, answer and masks, and the API of `pixellm serve` beside it.

    Limits are those of `pixellm serve`; `pixellm serve --page` is the same with all of its options.
    """
    run_server(model, host, port, name, keys, device, dtype, quantize, loading={}, limits={}, joint=None, page=True)
