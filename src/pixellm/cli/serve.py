"""`pixellm serve` and `web`: an HTTP server around a model, and a page in the browser."""

import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixellm.cli.common import (
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    Quantization,
    QuantizeOption,
    Runtime,
    RuntimeOption,
    device_and_dtype,
    err_console,
    log_progress,
    out_console,
    runs_graphs,
)
from pixellm.hub.models import MINI
from pixellm.serve.settings import ServeSettings
from pixellm.utils.limits import MAX_PROMPT_TOKENS, MIB
from pixellm.utils.sockets import LOOPBACK, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket

    from fastapi import APIRouter

    from pixellm.serve.authentication import ApiKeys
    from pixellm.serve.messages import WorkerSettings
    from pixellm.serve.request_handler import RequestHandler

DEFAULTS = ServeSettings(model_name="")


def _limit(help: str, minimum: float = 1) -> Any:
    return typer.Option(min=minimum, help=help, rich_help_panel="Limits")


ModelName = Annotated[str, typer.Argument(help="Name of `pixellm models list`, Hub id, or directory.")]
Host = Annotated[str, typer.Option(help="Address to listen on; any other than the loopback address needs API keys.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")]
Name = Annotated[str | None, typer.Option(help="Model name in requests. Default: the model's own name.")]
KeyFile = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="File of accepted API keys, one per line.")
]
Joint = Annotated[
    bool | None,
    typer.Option(
        "--joint/--exact",
        help="Decode all answers of a batch in one matrix product: faster, but no longer bitwise identical to "
        "`pixellm ask`. Default: exact on a CPU, joint on a GPU.",
    ),
]
ServedMinScore = Annotated[
    float,
    typer.Option(
        "--min-score",
        min=0,
        max=1,
        help="Least presence score (score, where the model gives none) of the masks that are given out, where a "
        "request has no min_score; 0: all. The page starts with it.",
    ),
]
ImageHosts = Annotated[
    list[str] | None,
    typer.Option(help="Allow fetching images from HOST[:PORT]; repeat for several. Default: none."),
]
XAnyLabeling = Annotated[bool, typer.Option("--x-anylabeling", help="Serve X-AnyLabeling under /x-anylabeling, too.")]
Corrections = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        help="Keep the corrections that clients send to /v1/corrections in this directory, for `pixellm train --data "
        "DIR/corrections.jsonl`. Default: none are accepted.",
    ),
]
MaxCorrections = Annotated[int, _limit("Size of the directory of --corrections in MiB.")]
WriteTimeout = Annotated[float, _limit("Seconds for a client to read what was written.", 0.1)]


def serve(
    model: ModelName = MINI,
    host: Host = LOOPBACK[0],
    port: Port = 8000,
    name: Name = None,
    keys: KeyFile = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    runtime: RuntimeOption = Runtime.AUTO,
    min_score: ServedMinScore = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of answers decoded together.")] = 8,
    joint: Joint = None,
    cache_mb: Annotated[int, typer.Option(min=0, help="Cache for encoded images, in MiB.")] = 512,
    image_host: ImageHosts = None,
    page: Annotated[bool, typer.Option("--page", help="Serve the page of `pixellm web`, too.")] = False,
    x_anylabeling: XAnyLabeling = False,
    corrections: Corrections = None,
    max_queue: Annotated[int, _limit("Number of questions waiting for the model.")] = DEFAULTS.max_queue,
    max_in_flight: Annotated[int, _limit("Number of requests at once per API key.")] = DEFAULTS.max_in_flight,
    max_body_mb: Annotated[int, _limit("Size of a request in MiB.")] = DEFAULTS.max_body_bytes // MIB,
    max_megapixels: Annotated[float, _limit("Size of an image in megapixels.", 0.01)] = DEFAULTS.max_pixels / 1e6,
    max_turns: Annotated[int, _limit("Number of user messages in a conversation.")] = DEFAULTS.max_turns,
    max_question_chars: Annotated[int, _limit("Length of a user message.")] = DEFAULTS.max_question_chars,
    max_chat_chars: Annotated[int, _limit("Length of all texts of a conversation.")] = DEFAULTS.max_chat_chars,
    max_prompt_tokens: Annotated[int, _limit("Number of prompt tokens, image included.")] = MAX_PROMPT_TOKENS,
    max_new_tokens: Annotated[int, _limit("Number of answer tokens.")] = DEFAULTS.max_new_tokens,
    max_corrections_mb: MaxCorrections = DEFAULTS.max_corrections_bytes // MIB,
    request_timeout: Annotated[float, _limit("Seconds for an answer, queue included.", 0.1)] = DEFAULTS.request_timeout,
    body_timeout: Annotated[float, _limit("Seconds to receive a request.", 0.1)] = DEFAULTS.body_timeout,
    write_timeout: WriteTimeout = DEFAULTS.write_timeout,
    header_timeout: Annotated[float, _limit("Seconds to receive its headers.", 0.1)] = DEFAULTS.header_timeout,
    drain_timeout: Annotated[float, _limit("Seconds to finish answers at shutdown.", 0)] = DEFAULTS.drain_timeout,
) -> None:
    """Serve a model over HTTP: OpenAI's chat API with masks, a plain endpoint, health checks and metrics.

    API keys come from PIXELLM_API_KEYS (comma-separated) and --keys FILE (one per line). SIGHUP reloads the model.
    """
    limits = {
        "max_queue": max_queue,
        "max_in_flight": max_in_flight,
        "max_body_bytes": max_body_mb * MIB,
        "max_pixels": round(max_megapixels * 1e6),
        "max_turns": max_turns,
        "max_question_chars": max_question_chars,
        "max_chat_chars": max_chat_chars,
        "max_new_tokens": max_new_tokens,
        "header_timeout": header_timeout,
        "body_timeout": body_timeout,
        "request_timeout": request_timeout,
        "write_timeout": write_timeout,
        "drain_timeout": drain_timeout,
        "image_hosts": tuple(image_host or ()),
        "max_corrections_bytes": max_corrections_mb * MIB,
    }
    features = {"page": page, "min_score": min_score, "corrections": corrections}
    worker = {"batch_size": batch_size, "cache_bytes": cache_mb * MIB, "max_prompt_tokens": max_prompt_tokens}
    where = (model, host, port, name, keys, device, dtype, quantize, joint)
    run_server(
        *where, limits=limits | features, worker=worker, runtime=runtime, integrations=_integrations(x_anylabeling)
    )


def _integrations(x_anylabeling: bool) -> "list[Callable[[RequestHandler], APIRouter]]":
    """Return what builds the routes of the tools that are asked for."""
    if not x_anylabeling:
        return []
    from pixellm.integrations.x_anylabeling import x_anylabeling_routes

    return [x_anylabeling_routes]


def web(
    model: ModelName = MINI,
    host: Host = LOOPBACK[0],
    port: Port = 8000,
    name: Name = None,
    keys: KeyFile = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    runtime: RuntimeOption = Runtime.AUTO,
    min_score: ServedMinScore = 0.0,
    local: Annotated[
        bool,
        typer.Option("--local", help="Run the model in the browser: only static files are served, images stay there."),
    ] = False,
) -> None:
    """Serve a web page with image, answer and masks, and the API of `pixellm serve` beside it.

    The limits are the defaults of `pixellm serve`; `pixellm serve --page` has all of its options.
    """
    if local:
        serves = keys, device, dtype, quantize, runtime
        if serves != (None, Device.AUTO, Dtype.AUTO, None, Runtime.AUTO):
            raise ValueError(
                "expected --local without --keys, --device, --dtype, --quantize and --runtime, got one of them. The "
                "model runs in the browser, by onnxruntime-web."
            )
        serve_locally(model, host, port, name, min_score)
        return
    limits = {"page": True, "min_score": min_score}
    run_server(model, host, port, name, keys, device, dtype, quantize, None, limits=limits, worker={}, runtime=runtime)


def serve_locally(model: str, host: str, port: int, name: str | None, min_score: float) -> None:
    """Serve the page that runs the model itself, until Ctrl-C or SIGTERM; arguments as in `web`."""
    from pixellm.hub.models import resolve_graphs
    from pixellm.serve.local_page import serve_files, static_files

    with listen(host, port) as listening:
        directory = resolve_graphs(model)
        files = static_files(directory, name or (model if model == MINI else directory.name), min_score)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as with Ctrl-C
        with suppress(KeyboardInterrupt):
            out_console.print(f"{_address(host, listening)}  (Ctrl-C ends)")
            serve_files(files, listening)


def _address(host: str, listening: "socket") -> str:
    url_host = f"[{host}]" if ":" in host else host
    return f"http://{url_host}:{listening.getsockname()[1]}"


def run_server(
    model: str,
    host: str,
    port: int,
    name: str | None,
    key_file: Path | None,
    device: Device,
    dtype: Dtype,
    quantize: Quantization | None,
    joint: bool | None,
    *,
    limits: dict[str, Any],
    worker: dict[str, Any],
    runtime: Runtime = Runtime.AUTO,
    integrations: "Sequence[Callable[[RequestHandler], APIRouter]]" = (),
) -> None:
    """Serve until Ctrl-C or SIGTERM; `limits` and `worker` are fields of `ServeSettings` and `WorkerSettings`."""
    from pixellm.serve.authentication import load_api_keys

    keys = load_api_keys(key_file)
    is_local = host in LOOPBACK
    if not is_local and not keys:
        raise ValueError(
            f"expected API keys for {host}, where others can reach it, got none. "
            "Set PIXELLM_API_KEYS or --keys FILE, or listen on 127.0.0.1."
        )
    find = partial(_find_worker, model, device, dtype, quantize, joint, runtime, worker)
    worker_settings = find()
    settings = ServeSettings(
        model_name=name or (model if model == MINI or "/" not in model else Path(worker_settings.model).name),
        trusted_hosts=("127.0.0.1", "localhost", "[::1]") if is_local else None,
        **limits,
    )
    _listen(worker_settings, settings, keys, host, port, integrations, find)


def _find_worker(
    model: str,
    device: Device,
    dtype: Dtype,
    quantize: Quantization | None,
    joint: bool | None,
    runtime: Runtime,
    limits: dict[str, Any],
) -> "WorkerSettings":
    """Return the settings of a worker for the model that a name stands for now; `limits` are fields of them.

    Raises:
        ValueError: no such model, or options that do not fit it.
    """
    from pixellm.hub.models import resolve, resolve_graphs
    from pixellm.serve.messages import WorkerSettings

    needs_torch = device is Device.CUDA or dtype is not Dtype.AUTO or quantize is not None
    loaded: dict[str, Any] = {"runtime": "onnx"}
    if runs_graphs(runtime, model, needs_torch):
        directory = resolve_graphs(model)
    else:
        directory = resolve(model)
        where, precision = device_and_dtype(device, dtype)
        loaded = {"device": where, "dtype": str(precision).removeprefix("torch.")}
    return WorkerSettings(
        model=str(directory),
        quantize=quantize and quantize.value,
        joint=loaded.get("device", "cpu") != "cpu" if joint is None else joint,
        **loaded,
        **limits,
    )


def _listen(
    worker: "WorkerSettings",
    settings: ServeSettings,
    keys: "ApiKeys",
    host: str,
    port: int,
    integrations: "Sequence[Callable[[RequestHandler], APIRouter]]",
    find: "Callable[[], WorkerSettings]",
) -> None:
    """Serve on an address, with the model that `find` gives after a SIGHUP; exit code 1 if it cannot be loaded."""
    from pixellm.serve.app import create_app
    from pixellm.serve.server import Server

    failures: list[str] = []

    def on_failure(reason: str) -> None:
        failures.append(reason)
        server.stop()

    log_progress()
    app = create_app(worker, settings, keys, on_failure, integrations, find)
    with listen(host, port) as listening:
        address = _address(host, listening) + ("" if settings.page else "/v1")
        server = Server(app, settings, lambda: out_console.print(f"{address}  (Ctrl-C ends)"))
        server.serve_on(listening)
    for reason in failures:
        err_console.print(f"Error: {reason}", style="red")
        raise typer.Exit(1)
