"""What /metrics says, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"namespace": "pixellm", "registry": self.registry}
        self.requests = Counter("requests", "Requests by route and status.", ["route", "status"], **own)
        self.answers = Counter("answers", "Questions by how they ended.", ["outcome"], **own)
        self.stage = Histogram("stage_seconds", "Time by stage of a request.", ["stage"], buckets=SECONDS, **own)
        self.batch = Histogram("batch_rows", "Answers decoded together, for each step.", buckets=ROWS, **own)
        self.tokens = Counter("tokens", "Tokens read and written.", ["kind"], **own)
        self.masks = Counter("masks", "Masks found.", **own)
        self.images = Counter("images", "Images of answers, by whether the model knew them.", ["cache"], **own)
        self.restarts = Counter("worker_restarts", "Worker processes that died and were replaced.", **own)
        self.queued = Gauge("queue_questions", "Questions that wait for the model.", **own)
        self.running = Gauge("running_questions", "Questions that the model has.", **own)
        self.in_flight = Gauge("in_flight_requests", "Requests that are being read or answered.", **own)
        self.cached = Gauge("image_cache_bytes", "Encoded images that are kept.", **own)
        self.ready = Gauge("ready", "1 while the model is loaded.", **own)

    def text(self) -> bytes:
        return generate_latest(self.registry)
