"""Serves metrics and health over HTTP: /metrics for Prometheus, /healthz and /readyz for probes.

prometheus-client (the extra `metrics`) renders and counts; this file and the services' `metrics` are imported
only where a port was asked for. Requests are answered in threads; what is read of the service is read on its
event loop, which also is the proof that it still turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from msgspec import Struct
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from ..addresses import netloc
from .version import version

T = TypeVar("T")
log = logging.getLogger("busbar.metrics")

LOOP_S: Final = 5.0
"""How long an answer waits for the event loop, seconds; Prometheus itself gives up after 10."""
MAX_ANSWERS: Final = 8
"""Requests that are answered at once; the next ones wait in the listener's queue."""
CLIENT_S: Final = 10.0
"""How long a client may take to send its request and to read the answer, seconds."""
MAX_SERIES: Final = 2_000
"""Of one metric: what is named by users (groups, workers, nodes) is bounded."""
TEXT: Final = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]


class Family(Struct, frozen=True):
    """One metric as it is now; each sample has the labels' values and the number.

    `kind`: gauge, or counter (its name ends in `_total`).
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    samples: Iterable[tuple[tuple[str, ...], float]] = ()
    kind: str = "gauge"


class Source:
    """A service as its metrics see it: both functions are called on its event loop.

    `families` are read at each scrape. `unready` says why it can't do its work now; None: it can.
    """

    def __init__(
        self, families: Callable[[], Iterable[Family]], unready: Callable[[], str | None], **facts: str
    ) -> None:
        self.families, self.unready, self.facts = families, unready, facts


def connection(*, connected: bool, attempts: int) -> Iterable[Family]:
    """A service's connection to the broker."""
    yield Family("busbar_bus_connected", "1 while connected.", samples=[((), float(connected))])
    yield Family(
        "busbar_bus_connection_attempts_total",
        "Connections to a broker that were tried.",
        samples=[((), float(attempts))],
        kind="counter",
    )


class NoAnswerError(Exception):
    """The event loop did not answer within `LOOP_S`."""


class MetricsServer:
    """An HTTP server in threads of its own. `registry` takes further counters and histograms.

    Raises:
        OSError: the address can't be had.
    """

    def __init__(self, host: str, port: int, source: Source, registry: CollectorRegistry) -> None:
        self._source, self._loop = source, asyncio.get_running_loop()
        registry.register(_Scraped(self))
        self._metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)
        try:
            self._server = _Server(host, port)
        except OSError as error:
            raise OSError(error.errno, f"metrics on {netloc(host, port)}: {error.strerror}") from None
        self._server.set_app(self._answer)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics on http://%s/metrics", netloc(host, self.port))

    def close(self) -> None:
        """Stop listening; answers under way are left to their threads. Blocks for about half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(LOOP_S)

    def on_loop(self, read: Callable[[], T]) -> T:
        """What `read` returns on the event loop.

        Raises:
            NoAnswerError: the loop is busy or has ended.
        """

        async def called() -> T:
            return read()

        work = called()
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise NoAnswerError("the service has ended") from None
        try:
            return waiting.result(LOOP_S)
        except FutureTimeoutError:
            waiting.cancel()
            raise NoAnswerError(f"its event loop has not answered for {LOOP_S:g} s") from None

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _say(start, "405 Method Not Allowed", "use GET")
        try:
            if path == "/metrics":
                return self._metrics(environ, start)
            if path == "/healthz":
                self.on_loop(lambda: None)
                return _say(start, "200 OK", "ok")
            if path == "/readyz":
                why = self.on_loop(self._source.unready)
                return _say(start, "503 Service Unavailable" if why else "200 OK", why or "ready")
        except NoAnswerError as error:
            return _say(start, "503 Service Unavailable", str(error))
        except Exception:
            log.exception("answering %s failed", path)
            return _say(start, "500 Internal Server Error", "it failed; see the service's log")
        return _say(start, "404 Not Found", "there are /metrics, /healthz and /readyz")

    def collect(self) -> list[Metric]:
        """The metrics of this moment."""
        found = [_metric(family) for family in self.on_loop(lambda: list(self._source.families()))]
        dropped = GaugeMetricFamily(
            "busbar_metrics_dropped_series",
            "Series left out: each metric has 2,000 at most.",
            sum(left_out for _, left_out in found),
        )
        about = InfoMetricFamily("busbar", "What is measured.", {"version": version(), **self._source.facts})
        return [about, dropped, *(metric for metric, _ in found)]


class _Scraped(Collector):
    def __init__(self, server: MetricsServer) -> None:
        self._server = server

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the event loop, on which it happens."""
        return []

    def collect(self) -> Iterable[Metric]:
        return self._server.collect()


def _metric(family: Family) -> tuple[Metric, int]:
    """A family as prometheus-client has it, and how many samples were left out."""
    metric: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    else:
        metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    samples = list(family.samples)
    for labels, value in samples[:MAX_SERIES]:
        metric.add_metric(labels, value)
    return metric, max(0, len(samples) - MAX_SERIES)


def _say(start: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start(status, list(TEXT))  # to which the server adds
    return [f"{text}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._room = threading.BoundedSemaphore(MAX_ANSWERS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without looking up this host's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """A timeout of the socket alone is one of each read: who drips would keep this place for ever."""
        late = threading.Timer(CLIENT_S, _cut, (request,))
        late.daemon = True
        late.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            late.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up or was too slow is no news."""
        log.debug("a request of %s failed", client_address, exc_info=True)


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has been closed
        request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape every 15 s would fill the log."""
