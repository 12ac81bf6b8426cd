"""The metrics that Prometheus reads at `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one service, in a registry of their own.

    requests: number of requests by path and status. latency: time of requests in seconds.
    queue: number of images that wait for the model.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "frozenseg_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "frozenseg_request_seconds",
            "Time from a request to its answer",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue = Gauge(
            "frozenseg_queue_images", "Images that wait for the model", registry=self.registry
        )
        self._batches = Histogram(
            "frozenseg_batch_images",
            "Images that went through the model together",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self._model = Histogram(
            "frozenseg_batch_seconds",
            "Time of a batch in the model's process",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._memory = Gauge(
            "frozenseg_model_memory_bytes",
            "Resident memory of the model's process after its last batch",
            registry=self.registry,
        )

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request. seconds: the time that its answer took."""
        self.requests.labels(path, str(status)).inc()
        self.latency.labels(path).observe(seconds)

    def batch(self, images: int, seconds: float, memory: int) -> None:
        """Count a batch. memory: resident memory of the model's process, in bytes."""
        self._batches.observe(images)
        self._model.observe(seconds)
        self._memory.set(memory)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
