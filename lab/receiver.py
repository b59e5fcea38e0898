"""What receives OTLP over HTTP and keeps it: a stand-in for a collector, on OpenTelemetry's own protocol files.

It decodes what came with the classes that a collector is generated from, names metrics as
Prometheus's OTLP receiver does, and can be told to refuse, to stall or to be slow.
"""

import gzip
import re
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

UNITS = {"s": "seconds", "By": "bytes"}
UNPACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}

Labels = tuple[tuple[str, str], ...]


class Point:
    """One series as a push had it. `value` of a histogram is its count, `buckets` are between two bounds."""

    def __init__(self, resource: Mapping[str, str], metric: Any, kind: str, point: Any) -> None:
        self.resource = resource
        self.metric = metric
        self.kind = kind
        self.labels = _attributes(point.attributes)
        self.start_ns, self.time_ns = point.start_time_unix_nano, point.time_unix_nano
        self.buckets: Sequence[int] = ()
        self.bounds: Sequence[float] = ()
        if kind == "histogram":
            self.value, self.sum = float(point.count), float(point.sum)
            self.buckets, self.bounds = list(point.bucket_counts), list(point.explicit_bounds)
        else:
            self.value = float(point.as_double if point.HasField("as_double") else point.as_int)

    @property
    def name(self) -> str:
        """As Prometheus's OTLP receiver stores it, by default."""
        monotonic = self.kind == "sum" and self.metric.sum.is_monotonic
        return prometheus_name(self.metric.name, self.metric.unit, counter=monotonic)


def prometheus_name(name: str, unit: str, *, counter: bool) -> str:
    """The rules of the specification "Prometheus and OpenMetrics Compatibility", as far as our names need them."""
    tokens = [token for token in re.split(r"[^A-Za-z0-9:]+", name) if token]
    if unit in UNITS and UNITS[unit] not in tokens:
        tokens.append(UNITS[unit])
    if counter:
        tokens = [token for token in tokens if token != "total"] + ["total"]
    if unit == "1" and not counter:
        tokens = [token for token in tokens if token != "ratio"] + ["ratio"]
    return "_".join(tokens)


class Receiver:
    """Listens on a port of 127.0.0.1. Use as a context manager.

    status       what pushes are answered with
    stall_s      how long an answer takes
    connections  how many have been made
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.stall_s = 0.0
        self.connections = 0
        self.headers: list[dict[str, str]] = []
        self.requests: list[tuple[str, bytes]] = []
        self._change = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(OSError):  # a caller who does not trust us, or breaks off
                    super().handle()

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(receiver.stall_s)
                receiver._take(self.path, dict(self.headers), body)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        if tls:
            # Shaken hands on the connection's own thread: one that breaks off keeps nobody else out.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        named = {name.lower(): value for name, value in headers.items()}
        with self._change:
            self.headers.append(named)
            if self.status == 200:
                self.requests.append((path, UNPACK[named.get("content-encoding", "")](body)))
            self._change.notify_all()

    def pushes(self, signal: str) -> list[bytes]:
        with self._change:
            return [body for path, body in self.requests if path.endswith(f"/v1/{signal}")]

    def points(self) -> list[Point]:
        """Every point of every push of metrics, in the order in which they came."""
        found: list[Point] = []
        for body in self.pushes("metrics"):
            for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                resource = _attributes(of_resource.resource.attributes)
                for scope in of_resource.scope_metrics:
                    for metric in scope.metrics:
                        kind = metric.WhichOneof("data")
                        points = getattr(metric, kind).data_points
                        found += [Point(resource, metric, kind, point) for point in points]
        return found

    def last(self) -> dict[tuple[str, Labels], Point]:
        """The newest point of each series, by the name that Prometheus gives it; of all instances together."""
        found = {}
        for point in self.points():
            key = (point.name, tuple(sorted(point.labels.items())))
            found[key] = point
        return found

    def total(self, name: str, **labels: str) -> float:
        """The sum of a name's series with these labels, over the last push of each instance."""
        newest: dict[tuple[str, Labels], Point] = {}
        for point in self.points():
            if point.name == name and labels.items() <= point.labels.items():
                instance = point.resource["service.instance.id"]
                newest[instance, tuple(sorted(point.labels.items()))] = point
        return sum(point.value for point in newest.values())

    def increase(self, name: str, **labels: str) -> float:
        """What Prometheus sees a name's series with these labels grow by: from each point to the next of its series.

        A series' first point is no increase, since Prometheus by default takes no account of when it began.
        """
        grown, before = 0.0, dict[tuple[str, Labels], float]()
        for point in sorted(self.points(), key=lambda point: point.time_ns):
            if point.name == name and labels.items() <= point.labels.items():
                series = (point.resource["service.instance.id"], tuple(sorted(point.labels.items())))
                last = before.get(series, point.value)
                grown += point.value - last if point.value >= last else point.value
                before[series] = point.value
        return grown

    def spans(self) -> list[Any]:
        return [
            span
            for body in self.pushes("traces")
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]


def _attributes(given: Any) -> dict[str, str]:
    return {one.key: str(getattr(one.value, one.value.WhichOneof("value"))) for one in given}
