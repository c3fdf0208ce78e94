"""Ray Serve application: the same API on a cluster, with autoscaled replicas that each hold a model.

    serve deploy recipes/serve/ray.yaml        (or: from ray import serve; serve.run(app({"model": …})))

A replica is the whole server of `app.py`, worker process included, without uvicorn: Ray's proxy takes its place and has
header limits of its own. API keys come from PIXELLM_API_KEYS on the replicas' machines, or from a file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pixellm.hub.models import MINI
from pixellm.serve.authentication import ApiKeys, load_api_keys
from pixellm.serve.messages import WorkerSettings
from pixellm.serve.middleware import RequestMiddleware
from pixellm.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ray.serve import Application


class Arguments(BaseModel):
    """The `args` of a Serve config file.

    Args:
        model: a name of `pixellm models list`, a Hub id, or a directory that all machines can read.
        name: the model's name in requests.
        device, dtype, quantize: see `pixellm serve`; a GPU also needs `num_gpus`.
        batch_size, joint, cache_mb: see `pixellm serve`.
        keys_file: API keys, one per line, in addition to PIXELLM_API_KEYS.
        open_to_anybody: accept requests without keys, for clusters that nobody else can reach.
        min_replicas, max_replicas: bounds of autoscaling, which aims at `batch_size` running questions per replica.
        upscale_delay, downscale_delay: seconds before Ray adds or removes a replica.
        num_cpus, num_gpus: resources of a replica.
        limits: fields of `ServeSettings`, such as `max_new_tokens`.
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
    upscale_delay: float = 10.0
    downscale_delay: float = 300.0  # loading a model again takes long
    num_cpus: float = 1
    num_gpus: float = 0
    limits: dict[str, Any] = {}

    def settings(self, model_name: str) -> ServeSettings:
        """Return the limits, checked."""
        return TypeAdapter(ServeSettings).validate_python({"model_name": model_name, **self.limits})

    def keys(self) -> ApiKeys:
        """Load the API keys.

        Raises:
            ValueError: there are none, and `open_to_anybody` is off.
        """
        keys = load_api_keys(self.keys_file)
        if not keys and not self.open_to_anybody:
            raise ValueError(
                "expected API keys, got none. Set PIXELLM_API_KEYS where the replicas run, or set keys_file; to accept "
                "requests without a key, set open_to_anybody: true."
            )
        return keys


def app(args: Arguments) -> "Application":
    """Build a Serve application.

    Raises:
        ValueError: wrong arguments, or no API keys.
    """
    from ray import serve

    args = Arguments.model_validate(args)
    args.keys()  # fail here rather than in every replica
    args.settings("")
    scaling = {
        "min_replicas": args.min_replicas,
        "max_replicas": args.max_replicas,
        "initial_replicas": max(1, args.min_replicas),
        "target_ongoing_requests": args.batch_size,
        "upscale_delay_s": args.upscale_delay,
        "downscale_delay_s": args.downscale_delay,
    }
    failures: list[str] = []

    class Api:
        """Replica; Ray replaces one whose model cannot be loaded."""

        def check_health(self) -> None:
            if failures:
                raise RuntimeError(failures[0])

    deployment = serve.deployment(
        name="pixellm",
        autoscaling_config=scaling,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        max_ongoing_requests=4 * args.batch_size,
    )(serve.ingress(lambda: _replica_app(args, failures))(Api))
    return deployment.bind()


def _replica_app(args: Arguments, failures: list[str]) -> RequestMiddleware:
    """Build the API on a replica, with a worker process of its own."""
    from pixellm.hub.models import resolve
    from pixellm.serve.app import create_app

    directory = resolve(args.model)
    worker = WorkerSettings(
        model=str(directory),
        device=args.device,
        dtype=args.dtype,
        quantize=args.quantize,
        batch_size=args.batch_size,
        joint=args.joint,
        cache_bytes=args.cache_mb << 20,
    )
    name = args.name or (args.model if args.model == MINI else directory.name)
    return create_app(worker, args.settings(name), args.keys(), failures.append)
