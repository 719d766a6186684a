"""Prometheus metrics: requests of this process, and jobs as the store counts them (for all processes, since ever)."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.store import JobStore

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The numbers of one service."""

    def __init__(self, store: JobStore, fleet: Fleet) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "fw_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "fw_http_request_seconds", "Time to the end of the answer.", ["route"], buckets=BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_JobNumbers(store, fleet))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS") else "other"
        self.requests.labels(known, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self.registry)


class _JobNumbers(Collector):
    """Asks the store when it is asked."""

    def __init__(self, store: JobStore, fleet: Fleet) -> None:
        self.store, self.fleet = store, fleet

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not ask the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Jobs by state, finished jobs by outcome, workers by state."""
        jobs = GaugeMetricFamily("fw_jobs", "Jobs that are kept, by state.", labels=["status"])
        for status, number in self.store.counts().items():
            jobs.add_metric([status], number)
        yield jobs
        finished = CounterMetricFamily("fw_jobs_finished", "Jobs that ended, by outcome.", labels=["outcome"])
        totals = self.store.totals()
        for name, value in sorted(totals.items()):
            if name == "completed" or name.startswith("failed."):
                finished.add_metric([name.removeprefix("failed.")], value)
        yield finished
        yield CounterMetricFamily(
            "fw_jobs_requeued", "Attempts whose worker was lost.", value=totals.get("requeued", 0)
        )
        yield CounterMetricFamily(
            "fw_job_seconds", "Running time of completed jobs.", value=totals.get("seconds", 0.0)
        )  # fmt: skip
        workers = GaugeMetricFamily("fw_workers", "Workers heard of lately, by state.", labels=["state"])
        alive = [worker.state for worker in self.fleet.alive()]
        for state in ("loading", "ready", "busy"):
            workers.add_metric([state], alive.count(state))
        yield workers
