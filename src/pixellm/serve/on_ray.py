"""The API on a Ray cluster: as many replicas as there is work for, each with a model of its own.

    serve deploy recipes/serve/ray.yaml        (or: from ray import serve; serve.run(app({"model": …})))

Every replica is the whole server of `api.py`, model process included, but for uvicorn. Ray's proxy is in its place; it
has limits of its own for slow headers. API keys come from PIXELLM_API_KEYS on the replicas' machines, or a file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pixellm.hub.models import MINI
from pixellm.serve.auth import Keys, read_keys
from pixellm.serve.messages import Start
from pixellm.serve.settings import Settings

if TYPE_CHECKING:
    from ray.serve import Application

UP_AFTER, DOWN_AFTER = 10.0, 300.0  # seconds of too much, or too little, to do: a model takes long to load


class Arguments(BaseModel):
    """What `args` of a Serve config may say.

    Args:
        model: a name of `pixellm models list`, a Hub id, or a directory that all machines see.
        name: what clients call it.
        device, dtype, quantize: of the model; a GPU wants `num_gpus`, too.
        batch_size, joint, cache_mb: as of `pixellm serve`.
        keys_file: API keys, one a line, in place of PIXELLM_API_KEYS.
        open_to_anybody: no keys are wanted: for clusters that nobody else reaches.
        min_replicas, max_replicas: Ray chooses between them, so that a replica has `batch_size` questions at a time.
        upscale_delay, downscale_delay: seconds until it does.
        num_cpus, num_gpus: of a replica.
        limits: fields of `Settings`, such as `max_new_tokens`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = MINI
    name: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    quantize: Literal["int8", "int4"] | None = None
    batch_size: int = Field(8, ge=1)
    joint: bool = False
    cache_mb: int = Field(512, ge=0)
    keys_file: Path | None = None
    open_to_anybody: bool = False
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(4, ge=1)
    upscale_delay: float = UP_AFTER
    downscale_delay: float = DOWN_AFTER
    num_cpus: float = 1
    num_gpus: float = 0
    limits: dict[str, Any] = {}


def app(args: Arguments) -> "Application":
    """A Serve application.

    Raises:
        ValueError: there are no API keys, and none were renounced.
    """
    from ray import serve

    args = Arguments.model_validate(args)
    _keys(args)  # here, too, so that it fails before anything is deployed
    scaling = {
        **{"min_replicas": args.min_replicas, "max_replicas": args.max_replicas},
        **{"target_ongoing_requests": args.batch_size, "initial_replicas": max(1, args.min_replicas)},
        **{"upscale_delay_s": args.upscale_delay, "downscale_delay_s": args.downscale_delay},
    }
    resources = {"num_cpus": args.num_cpus, "num_gpus": args.num_gpus}
    failures: list[str] = []

    class Api:
        """A replica; Ray starts another one where its model can't be loaded."""

        def check_health(self) -> None:
            if failures:
                raise RuntimeError(failures[0])

    served = serve.ingress(lambda: _gate(args, failures))(Api)
    deployment = serve.deployment(
        name="pixellm",
        autoscaling_config=scaling,
        ray_actor_options=resources,
        max_ongoing_requests=4 * args.batch_size,
    )(served)
    return deployment.bind()


def _gate(args: Arguments, failures: list[str]) -> Any:
    """On a replica: the application with its model's process."""
    from pixellm.hub.models import resolve
    from pixellm.serve.api import create_app

    directory = resolve(args.model)
    name = args.name or (args.model if args.model == MINI else directory.name)
    start = Start(
        *(str(directory), args.device, args.dtype, args.quantize, args.batch_size, args.joint),
        cache_bytes=args.cache_mb << 20,
    )
    return create_app(start, Settings(model_name=name, **args.limits), _keys(args), failures.append)[1]


def _keys(args: Arguments) -> Keys:
    keys = Keys(read_keys(args.keys_file))
    if not keys and not args.open_to_anybody:
        raise ValueError(
            "expected API keys, got none. Set PIXELLM_API_KEYS where the replicas run, or give keys_file; or say "
            "open_to_anybody: true."
        )
    return keys
