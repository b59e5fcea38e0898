"""What the gateway is measured against, each in a process of its own.

    python -m lab.bench.yardsticks litestar PORT     a bare Litestar handler on our structs
    python -m lab.bench.yardsticks granian PORT      a bare ASGI app on the same server
    python -m lab.bench.yardsticks fastapi PORT      FastAPI, uvicorn, and a model run per request
    python -m lab.bench.yardsticks tuned PORT        the same, its model opened as the gateway opens it
    python -m lab.bench.yardsticks alone SECONDS [N] tokenizers and ONNX Runtime in a loop, N queries a run
    python -m lab.bench.yardsticks floor             import what serving imports, open the model, score once

The model is MODEL_PATH's. Server, event loop and their settings are the gateway's, but for FastAPI's.
"""

import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

ANSWER = {"label": "0", "route": "fast", "task": "summarization", "confidence": 0.97}


def serve(app: Any, port: int) -> None:
    import uvloop
    from granian.constants import HTTPModes, Interfaces
    from granian.server.embed import Server

    server = Server(
        app,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=2048,
        backpressure=16_384,
        log_enabled=False,
    )
    uvloop.run(server.serve())


def litestar_app() -> Any:
    from litestar import Litestar, post

    from handler import wire

    answer = wire.ClassifyAnswer(**ANSWER)  # type: ignore[arg-type]

    @post("/v1/query-classify", status_code=200)
    async def classify(data: wire.ClassifyRequest) -> wire.ClassifyAnswer:
        return answer

    return Litestar([classify], openapi_config=None, logging_config=None)


def granian_app() -> Any:
    body = json.dumps(ANSWER).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return app


def fastapi_app(tuned: bool) -> Any:
    """What one would write first: no cache, no batches; a run per request, on FastAPI's own threads.

    tuned  ONNX Runtime has one thread, which does not spin, instead of its own choice
    """
    import onnxruntime as ort
    from fastapi import FastAPI
    from pydantic import BaseModel

    from handler.model import GRAPH, load
    from handler.policy import Policy, decide
    from handler.query import normalise

    folder = Path(os.environ["MODEL_PATH"])
    router = load(folder)
    if not tuned:
        router._session = ort.InferenceSession(str(folder / GRAPH))
    policy = Policy.of_routes(router.manifest.tasks, router.manifest.policy)
    app = FastAPI(openapi_url=None)

    class Asked(BaseModel):
        text: str

    class Answer(BaseModel):
        label: str
        route: str
        task: str
        confidence: float

    @app.post("/v1/query-classify")
    def classify(asked: Asked) -> Answer:
        (scores,) = router.score([normalise(asked.text, router.manifest.limits)])
        made = decide(scores, policy)
        return Answer(label=made.label, route=made.route, task=made.task, confidence=made.confidence)

    return app


def serve_fastapi(port: int, *, tuned: bool) -> None:
    import uvicorn

    uvicorn.run(fastapi_app(tuned), host="127.0.0.1", port=port, log_level="warning", access_log=False)


def alone(seconds: float, together: int = 1) -> dict[str, float]:
    """Score queries, so many a run, on every CPU. Returns CPU µs a query, µs each on a thread, and the rate."""
    from handler.machine import usable_cpus
    from handler.model import load
    from handler.query import normalise
    from lab.texts import texts

    router = load(Path(os.environ["MODEL_PATH"]))
    limits = router.manifest.limits
    threads = usable_cpus()
    queries = [normalise(text, limits) for text in itertools.islice(texts(os.getpid()), 8000)]
    counts = [0] * threads
    started, cpu = time.perf_counter(), time.process_time()

    def loop(number: int) -> None:
        mine = itertools.cycle(queries[number::threads])
        while time.perf_counter() - started < seconds:
            router.run(list(itertools.islice(mine, together)))
            counts[number] += together

    workers = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took, spent = time.perf_counter() - started, time.process_time() - cpu
    scored = sum(counts)
    return {"cpu_us": spent / scored * 1e6, "wall_us": took * threads / scored * 1e6, "per_s": scored / took}


def floor() -> None:
    """What a start cannot do without, one after the other."""
    import granian.server.embed
    import litestar
    import msgspec
    import numpy as np
    import onnxruntime as ort
    import prometheus_client
    import uvloop
    from tokenizers import Tokenizer

    assert granian, (litestar, msgspec, prometheus_client, uvloop)
    folder = Path(os.environ["MODEL_PATH"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        (folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    ids = np.array([Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a real query").ids])
    session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    print(time.perf_counter(), flush=True)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "alone":
        print(json.dumps(alone(float(rest[0]), *map(int, rest[1:]))))
    elif kind == "floor":
        floor()
    elif kind in ("fastapi", "tuned"):
        serve_fastapi(int(rest[0]), tuned=kind == "tuned")
    else:
        serve(litestar_app() if kind == "litestar" else granian_app(), int(rest[0]))
