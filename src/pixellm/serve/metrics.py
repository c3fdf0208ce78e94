"""Prometheus metrics of a server, exported at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common = {"namespace": "pixellm", "registry": self.registry}
        self.requests = Counter("requests", "Requests by route and status.", ["route", "status"], **common)
        self.answers = Counter("answers", "Questions by outcome.", ["outcome"], **common)
        self.stage = Histogram("stage_seconds", "Time by stage of a request.", ["stage"], buckets=SECONDS, **common)
        self.batch = Histogram("batch_rows", "Rows of a decoding step.", buckets=ROWS, **common)
        self.tokens = Counter("tokens", "Prompt tokens and generated tokens.", ["kind"], **common)
        self.masks = Counter("masks", "Masks predicted.", **common)
        self.images = Counter("images", "Images of answers by cache hit or miss.", ["cache"], **common)
        self.image_warnings = Counter("image_warnings", "Warnings of the image decoders.", **common)
        self.decoders_lost = Counter("decoders_lost", "Decoder processes killed or dead.", ["reason"], **common)
        self.restarts = Counter("worker_restarts", "Worker processes replaced after their death.", **common)
        self.reloads = Counter("reloads", "New models taken over, or refused.", ["outcome"], **common)
        self.queued = Gauge("queue_questions", "Questions waiting for the model.", **common)
        self.running = Gauge("running_questions", "Questions sent to the worker.", **common)
        self.in_flight = Gauge("in_flight_requests", "Requests being read or answered.", **common)
        self.cached = Gauge("image_cache_bytes", "Size of the cached encoded images.", **common)
        self.ready = Gauge("ready", "1 while a model is loaded.", **common)

    def text(self) -> bytes:
        return generate_latest(self.registry)
