"""Prometheus metrics: requests of this process, and jobs of all processes from the store."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.store import JobStore
from fw_serve.storage import JobStorage

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Metrics of one service."""

    def __init__(self, store: JobStore, fleet: Fleet, storage: JobStorage) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "fw_http_requests", "Answered requests.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "fw_http_request_seconds", "Seconds to the end of the response.", ["route"], buckets=BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_JobNumbers(store, fleet, storage))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS") else "other"
        self.requests.labels(known, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class _JobNumbers(Collector):
    """Queries the store at every scrape."""

    def __init__(self, store: JobStore, fleet: Fleet, storage: JobStorage) -> None:
        self.store, self.fleet, self.storage = store, fleet, storage

    def describe(self) -> list[Metric]:
        """Nothing, so that registration does not query the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Jobs by state, finished jobs by outcome, workers by state, free disk space."""
        jobs = GaugeMetricFamily("fw_jobs", "Jobs by state.", labels=["status"])
        for status, number in self.store.counts().items():
            jobs.add_metric([status], number)
        yield jobs
        finished = CounterMetricFamily("fw_jobs_finished", "Finished jobs by outcome.", labels=["outcome"])
        totals = self.store.totals()
        for name, value in sorted(totals.items()):
            if name == "completed" or name.startswith("failed."):
                finished.add_metric([name.removeprefix("failed.")], value)
        yield finished
        yield CounterMetricFamily("fw_jobs_requeued", "Interrupted attempts.", value=totals.get("requeued", 0))
        yield CounterMetricFamily(
            "fw_job_seconds", "Running time of completed jobs.", value=totals.get("seconds", 0.0)
        )  # fmt: skip
        workers = GaugeMetricFamily("fw_workers", "Workers with a recent heartbeat, by state.", labels=["state"])
        alive = [worker.state for worker in self.fleet.alive()]
        for state in ("loading", "ready", "busy"):
            workers.add_metric([state], alive.count(state))
        yield workers
        yield GaugeMetricFamily("fw_disk_free_bytes", "Free space of the data folder.", value=self.storage.free_bytes())
