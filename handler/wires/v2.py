"""`/v2/…`: the Open Inference Protocol, as tritonclient, kserve and `mlserver infer` speak it.

    POST /v2/models/router/infer
    {"id"?, "inputs": [{"name": "text", "shape": [n], "datatype": "BYTES", "data": ["…", …]}], "outputs"?}
    → {"model_name", "id"?, "outputs": [{"name", "shape", "datatype", "data"}, …]}

Tensors stand in the JSON, or behind it in binary: then the header
`inference-header-content-length` says where the JSON ends, and a string is its length
in four bytes, little-endian, and its UTF-8. `label`, `route` and `task` are BYTES,
`confidence` is FP32. A `timeout` among the parameters, in microseconds, is a deadline.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from handler import __version__, wire
from handler.errors import GatewayError, MethodNotAllowed, NotFound, ValidationError
from handler.gateway import Answer
from handler.wires.base import Endpoint, Question, Reply, Request, Service, answers, decoded, require_name
from handler.wires.documents import ANY, TEXT, a_list, an_object, operation
from handler.wires.messages import ask

PREFIX = "/v2"
# Where the JSON of a body ends, and the binary tensors begin. Before compression.
LENGTH_HEADER = b"inference-header-content-length"
INPUT = "text"
OUTPUTS = {"label": "BYTES", "route": "BYTES", "task": "BYTES", "confidence": "FP32"}
VERSION = "1"
BINARY = b"application/octet-stream"


class Output(NamedTuple):
    """An output that a request wants, in binary or in the JSON."""

    name: str
    binary: bool


def read(request: Request, service: Service) -> Question:
    """Decode a request for decisions. Raises `NotFound` for a path, `ValidationError` for a body."""
    model = _model_of(request.rest, service, "infer")
    head, tail = _parts(request)
    body = decoded(head)
    if not isinstance(body, dict):
        raise ValidationError("the body must be a JSON object")
    parameters = _object(body, "parameters", "the body")
    texts = _texts(body, tail)
    wanted = _wanted(body, parameters)
    given = body.get("id")

    def write(outcomes: Sequence[Answer | GatewayError]) -> Reply:
        found = answers(outcomes)
        answer: dict[str, Any] = {"model_name": model, "model_version": VERSION}
        if isinstance(given, str):
            answer["id"] = given
        return _written(answer, [(output, _column(output.name, found)) for output in wanted])

    return Question([ask(text) for text in texts], write, timeout_s=_timeout_s(parameters))


# What is asked


def _parts(request: Request) -> tuple[bytes, bytes]:
    """The JSON of a body, and what stands behind it."""
    length = request.header(LENGTH_HEADER).strip()
    if not length:
        return request.body, b""
    if not length.isdigit() or len(length) > 12 or int(length) > len(request.body):
        raise ValidationError(
            "inference-header-content-length must be the length of the JSON before the binary tensors"
        )
    return request.body[: int(length)], request.body[int(length) :]


def _object(found: Mapping[str, Any], member: str, where: str) -> dict[str, Any]:
    value = found.get(member)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValidationError(f"{member} of {where} must be an object")
    return value


def _texts(body: Mapping[str, Any], tail: bytes) -> list[str]:
    """The texts of the one input. Raises `ValidationError` where it is not as described."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise ValidationError(f"inputs must be a list of one tensor, {INPUT}")
    tensor = inputs[0]
    if tensor.get("name") != INPUT or tensor.get("datatype") != "BYTES":
        raise ValidationError(f"the input must be named {INPUT} and have the datatype BYTES")
    parameters = _object(tensor, "parameters", "the input")
    if "shared_memory_region" in parameters:
        raise ValidationError("tensors are not read from shared memory here; send them in the body")
    size = parameters.get("binary_data_size")
    if size is None:
        texts = list(_flat(tensor.get("data")))
    elif size != len(tail) or isinstance(size, bool):
        raise ValidationError(
            f"binary_data_size must be the number of bytes behind the JSON, which is {len(tail)}"
        )
    else:
        texts = list(_strings(tail))
    shape = tensor.get("shape")
    if not isinstance(shape, list) or shape not in ([len(texts)], [len(texts), 1]) or not texts:
        raise ValidationError(f"the shape must be [n] or [n, 1], with n at least 1; {len(texts)} texts came")
    for place, text in enumerate(texts):
        if not text.strip():
            raise ValidationError(f"text {place} is blank; expected a text")
    return texts


def _flat(data: Any) -> Iterator[str]:
    """The strings of a tensor in JSON, flat or a row each."""
    if not isinstance(data, list):
        raise ValidationError("the data of the input must be a list of strings")
    for one in data:
        if isinstance(one, list) and len(one) == 1:
            (one,) = one
        if not isinstance(one, str):
            raise ValidationError("the data of the input must be a list of strings")
        yield one


def _strings(tail: bytes) -> Iterator[str]:
    """The strings of a tensor in binary."""
    place = 0
    while place < len(tail):
        start = place + 4
        if start > len(tail):
            raise ValidationError("the binary tensor breaks off within the length of a string")
        (length,) = struct.unpack_from("<I", tail, place)
        place = start + length
        if place > len(tail):
            raise ValidationError("the binary tensor breaks off within a string")
        try:
            yield tail[start:place].decode()
        except UnicodeDecodeError:
            raise ValidationError("the strings of a binary tensor must be UTF-8") from None


def _wanted(body: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Output]:
    """The outputs that are asked for: those that are named, or all."""
    default = parameters.get("binary_data_output") is True
    named = body.get("outputs")
    if not named:
        return [Output(name, default) for name in OUTPUTS]
    if not isinstance(named, list):
        raise ValidationError("outputs must be a list of objects with a name")
    wanted: list[Output] = []
    for one in named:
        if not isinstance(one, dict) or one.get("name") not in OUTPUTS:
            raise ValidationError(f"every output must be one of {', '.join(OUTPUTS)}")
        own = _object(one, "parameters", "an output")
        if own.get("classification") or "shared_memory_region" in own:
            raise ValidationError("outputs are neither classified nor put into shared memory here")
        wanted.append(Output(one["name"], own.get("binary_data", default) is True))
    if len({output.name for output in wanted}) < len(wanted):
        raise ValidationError("an output is asked for twice")
    return wanted


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """The deadline among the parameters, which come in microseconds; 0 is none."""
    given = parameters.get("timeout")
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise ValidationError("timeout must be a whole number of microseconds, at least 0")
    return given / 1e6 or None


# What is answered


def _column(name: str, found: Sequence[Answer]) -> list[Any]:
    if name == "confidence":
        return [round(answer.decision.confidence, 4) for answer in found]
    return [str(getattr(answer.decision, name)) for answer in found]


def _written(answer: dict[str, Any], columns: Sequence[tuple[Output, list[Any]]]) -> Reply:
    tensors: list[dict[str, Any]] = []
    tail = b""
    for output, column in columns:
        datatype = OUTPUTS[output.name]
        tensor: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": [len(column)]}
        if output.binary:
            packed = _packed(datatype, column)
            tensor["parameters"] = {"binary_data_size": len(packed)}
            tail += packed
        else:
            tensor["data"] = column
        tensors.append(tensor)
    head = wire.encode(answer | {"outputs": tensors})
    if not any(output.binary for output, _ in columns):
        return Reply(head)
    return Reply(head + tail, extra=((LENGTH_HEADER, str(len(head)).encode()),), content_type=BINARY)


def _packed(datatype: str, column: Sequence[Any]) -> bytes:
    if datatype == "FP32":
        return struct.pack(f"<{len(column)}f", *column)
    encoded = [text.encode() for text in column]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)


# Paths


def _model_of(rest: str, service: Service, *below: str) -> str:
    """The model's name in a path `models/{name}[/versions/{version}][/…]`. Raises `NotFound`."""
    kind, _, path = rest.partition("/")
    name, *more = path.split("/")
    if more[:1] == ["versions"]:
        if more[1:2] != [VERSION]:
            raise NotFound(f"the model has one version, {VERSION}")
        more = more[2:]
    if kind != "models" or tuple(more) != below:
        raise NotFound("there is nothing at this path")
    require_name(name, service)
    return name


def facts(request: Request, service: Service) -> Reply | None:
    """What is asked without a query: health, and what the server and the model are."""
    index = request.rest == "repository/index"
    allowed = "POST" if index or request.rest.endswith("/infer") else "GET"
    if request.method != allowed:  # HEAD comes as GET
        raise MethodNotAllowed(f"this path takes {allowed}", headers=(("allow", allowed),))
    if index:
        return _described([{"name": service.model_name, "version": VERSION, "state": "READY", "reason": ""}])
    if allowed == "POST":
        return None
    ready = service.gateway.model.loaded
    if request.rest == "":
        return _described(
            {"name": "query-gateway", "version": __version__, "extensions": ["binary_tensor_data"]}
        )
    if request.rest == "health/live":
        return _described({"live": True})
    if request.rest == "health/ready":
        return _described({"ready": ready}, ready)
    if request.rest.endswith("/ready"):
        name = _model_of(request.rest, service, "ready")
        return _described({"name": name, "ready": ready}, ready)
    if request.rest.endswith("/config"):
        name = _model_of(request.rest, service, "config")
        return _described({"name": name, "platform": "onnxruntime_onnx", "max_batch_size": 0})
    name = _model_of(request.rest, service)
    outputs = [{"name": output, "datatype": kind, "shape": [-1]} for output, kind in OUTPUTS.items()]
    return _described(
        {
            "name": name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
            "outputs": outputs,
        }
    )


def _described(found: Any, good: bool = True) -> Reply:
    return Reply(wire.encode(found), 200 if good else 503)


def _open(method: str, rest: str) -> bool:
    """Whether a path needs no key: clients send none when they ask for health and descriptions."""
    return method == "GET"


def refuse(error: GatewayError) -> Reply:
    """An error in the wire's form, whose one member the clients read."""
    return Reply(wire.encode({"error": error.message}), error.code)


_ERROR = an_object(("error",), error=TEXT)

ENDPOINTS = (
    Endpoint(
        path=PREFIX + "/*",
        methods=(),
        wire="v2",
        read=read,
        facts=facts,
        refuse=refuse,
        open=_open,
        documents={
            "/v2/models/{name}/infer": {
                "post": operation(
                    "infer",
                    "Decisions about the texts of one BYTES tensor; binary tensors are read, too.",
                    body=an_object(("inputs",), inputs=a_list(an_object())),
                    answer=an_object(("model_name", "outputs"), outputs=a_list(an_object())),
                    error=_ERROR,
                    below=("name",),
                )
            },
            "/v2/models/{name}": {
                "get": operation(
                    "metadata", "The model's tensors.", answer=an_object(), error=_ERROR, below=("name",)
                )
            },
            "/v2/health/live": {
                "get": operation("v2Live", "The process answers.", answer=an_object(), error=_ERROR)
            },
            "/v2/health/ready": {
                "get": operation("v2Ready", "A query would be answered.", answer=an_object(), error=ANY)
            },
        },
    ),
)
