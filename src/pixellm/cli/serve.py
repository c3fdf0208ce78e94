"""`pixellm serve`: an HTTP server around a model."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixellm.cli.common import (
    Device,
    Dtype,
    Quantization,
    QuantizeOption,
    device_and_dtype,
    err_console,
    out_console,
    quieten_transformers,
)
from pixellm.hub.models import MINI
from pixellm.utils.sockets import LOOPBACK, listen

if TYPE_CHECKING:
    from pixellm.serve.auth import Keys
    from pixellm.serve.messages import Start
    from pixellm.serve.settings import Settings

MIB = 1 << 20
Limit = typer.Option(min=1, rich_help_panel="Limits")
ModelName = Annotated[str, typer.Argument(help="A name of `pixellm models list`, a Hub id, or a directory.")]
Host = Annotated[str, typer.Option(help="Address to listen on; others than this computer's own want API keys.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
Name = Annotated[str | None, typer.Option(help="What clients call the model; by default its own name.")]
KeyFile = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="File of API keys, one a line.")]


def serve(
    model: ModelName = MINI,
    host: Host = LOOPBACK[0],
    port: Port = 8000,
    name: Name = None,
    keys: KeyFile = None,
    device: Annotated[Device, typer.Option(help="auto: a GPU where there is one.")] = Device.AUTO,
    dtype: Annotated[Dtype, typer.Option(help="auto: bfloat16 on a GPU, else float32.")] = Dtype.AUTO,
    quantize: QuantizeOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers that are written together.")] = 8,
    joint: Annotated[
        bool | None,
        typer.Option(
            "--joint/--exact",
            help="All answers of a batch in one matrix: quicker, but their last bits are not those of `pixellm ask`. "
            "By default exact on a CPU, joint on a GPU.",
        ),
    ] = None,
    cache_mb: Annotated[
        int, typer.Option(min=0, help="For encoded images, so that further questions are quick.")
    ] = 512,
    image_host: Annotated[
        list[str] | None,
        typer.Option(help="Host[:port] that images may be fetched from; may be given several times. None by default."),
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="With the page of `pixellm web`.")] = False,
    max_queue: Annotated[int, Limit] = 256,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Of one API key.", rich_help_panel="Limits")] = 256,
    max_body_mb: Annotated[int, Limit] = 16,
    max_megapixels: Annotated[float, typer.Option(min=0.01, rich_help_panel="Limits")] = 25,
    max_turns: Annotated[int, Limit] = 16,
    max_question_chars: Annotated[int, Limit] = 2000,
    max_prompt_tokens: Annotated[int, Limit] = 1024,
    max_new_tokens: Annotated[int, Limit] = 512,
    request_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for an answer, waiting included.", rich_help_panel="Limits")
    ] = 120,
    body_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a request to come.", rich_help_panel="Limits")
    ] = 30,
    header_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for its headers.", rich_help_panel="Limits")
    ] = 10,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds for answers to finish at the end.", rich_help_panel="Limits")
    ] = 60,
) -> None:
    """Serve a model: OpenAI's chat API with masks, a plain one, health and metrics.

    API keys are read from PIXELLM_API_KEYS (separated by commas) and from --keys FILE (one a line).
    """
    run_server(
        model,
        host,
        port,
        name,
        keys,
        device,
        dtype,
        quantize,
        loading={"batch_size": batch_size, "cache_bytes": cache_mb * MIB, "max_prompt_tokens": max_prompt_tokens},
        limits={
            "max_queue": max_queue,
            "max_in_flight": max_in_flight,
            "max_body_bytes": max_body_mb * MIB,
            "max_pixels": round(max_megapixels * 1e6),
            "max_turns": max_turns,
            "max_question_chars": max_question_chars,
            "max_new_tokens": max_new_tokens,
            "header_timeout": header_timeout,
            "body_timeout": body_timeout,
            "request_timeout": request_timeout,
            "drain_timeout": drain_timeout,
            "image_hosts": tuple(image_host or ()),
        },
        joint=joint,
        page=page,
    )


def run_server(
    model: str,
    host: str,
    port: int,
    name: str | None,
    keys: Path | None,
    device: Device,
    dtype: Dtype,
    quantize: Quantization | None,
    *,
    loading: dict[str, Any],
    limits: dict[str, Any],
    joint: bool | None,
    page: bool,
) -> None:
    """Answer until Ctrl-C or SIGTERM. `loading` and `limits` are further fields of `Start` and `Settings`."""
    quieten_transformers()
    from pixellm.hub.models import resolve
    from pixellm.serve.auth import Keys, read_keys
    from pixellm.serve.messages import Start
    from pixellm.serve.settings import Settings

    accepted = Keys(read_keys(keys))
    local = host in LOOPBACK
    if not local and not accepted:
        raise ValueError(
            f"expected API keys for {host}, where others can reach it, got none. "
            "Set PIXELLM_API_KEYS, or give --keys FILE; or listen on 127.0.0.1."
        )
    directory = resolve(model)
    where, precision = device_and_dtype(device, dtype)
    settings = Settings(
        model_name=name or (model if model == MINI or "/" not in model else directory.name),
        trusted_hosts=("127.0.0.1", "localhost", "[::1]") if local else None,
        page=page,
        **limits,
    )
    start = Start(
        model=str(directory),
        device=where,
        dtype=str(precision).removeprefix("torch."),
        quantize=quantize and quantize.value,
        joint=where != "cpu" if joint is None else joint,
        **loading,
    )
    _listen(start, settings, accepted, host, port)


def _listen(start: "Start", settings: "Settings", keys: "Keys", host: str, port: int) -> None:
    """Answer at an address; exit code 1 if the model can't be run."""
    from pixellm.serve.api import create_app
    from pixellm.serve.server import Server, log_to, run

    failures: list[str] = []

    def failed(reason: str) -> None:
        failures.append(reason)
        server.end()

    log_to(logging.INFO)
    _, gate = create_app(start, settings, keys, failed)
    with listen(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}{'' if settings.page else '/v1'}"
        server = Server(gate, settings, lambda: out_console.print(f"{address}  (Ctrl-C ends)"))
        run(server, listening)
    for reason in failures:
        err_console.print(f"Error: {reason}", style="red")
        raise typer.Exit(1)
