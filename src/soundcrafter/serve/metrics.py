"""What Prometheus can ask: requests, their latencies, jobs."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundcrafter.serve.service import Service


class _Jobs(Collector):
    """Jobs in each state, counted when asked."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("soundcrafter_jobs", "Jobs in each state.", labels=["state"])
        for state, count in self.service.store.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        ready = float(self.service.is_ready)
        yield GaugeMetricFamily("soundcrafter_ready", "Whether a worker has loaded.", value=ready)


class Metrics:
    """The metrics of one server."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "soundcrafter_requests", "Requests.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "soundcrafter_request_seconds",
            "Time to the first byte.",
            ("route",),
            registry=self.registry,
        )
        self.registry.register(_Jobs(service))

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


class Measure:
    """Counts requests and their time to the first byte."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                # the template, not the path, of which there are too many
                route = getattr(scope.get("route"), "path", "other")
                status = str(message["status"])
                self.metrics.requests.labels(scope["method"], route, status).inc()
                self.metrics.seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, measured)
