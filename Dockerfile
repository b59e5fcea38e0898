# The serving image: the locked serving set, the gateway and its model. No compiler, no pip, no torch.
# `just image` builds it, `just image-smoke` proves it.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /src
# pip works on the gateway's environment from outside, so that it never gets into it.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/gateway
COPY requirements/serve.txt requirements/serve.txt
RUN /opt/pip/bin/pip --python /opt/gateway/bin/python --disable-pip-version-check --no-cache-dir \
        install --quiet --no-compile --no-deps --require-hashes -r requirements/serve.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY scripts/backend.py scripts/backend.py
COPY handler handler
RUN /opt/pip/bin/pip --python /opt/gateway/bin/python --disable-pip-version-check --no-cache-dir \
        install --quiet --no-compile --no-deps --no-build-isolation . \
    && /opt/pip/bin/pip --python /opt/gateway/bin/python uninstall --quiet --yes flit-core \
    # Compiled here and never checked again: a read-only container could not write bytecode, and would
    # compile every module on every start, whatever PYTHONDONTWRITEBYTECODE says.
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/gateway/lib \
    # What a gateway never opens: other people's tests, headers, stubs and generators.
    && find /opt/gateway/lib -depth -type d \( -name tests -o -name test -o -name testing -o -name include \) \
        -path '*/numpy/*' -not -path '*/numpy/testing*' -exec rm -rf {} + \
    && find /opt/gateway/lib -name '*.pyi' -delete \
    && rm -rf /opt/gateway/include

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="query-gateway" \
      org.opencontainers.image.description="Decides per query whether a small model can answer it or a large one must." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="docs/runbook.md" \
      org.opencontainers.image.base.name="python:3.13-slim-trixie"
# ping is what on-call types in here. The base may hold pip and an uncompiled standard library: the one
# goes, the other is compiled, or every cold start would do it.
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends iputils-ping \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* /usr/share/doc /usr/share/man \
    && useradd --uid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin gateway \
    && rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/bin/pip* \
    && python -m compileall -q -x '/(test|idlelib|tkinter|turtledemo|ensurepip|pydoc_data|lib2to3)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /opt/gateway /opt/gateway
WORKDIR /app
# What is served. Mount another folder over /app/models to serve another model.
COPY models/quantized models/quantized
COPY LICENSE NOTICE ./
# PATH lets `docker exec … python3` find psutil. HOST: in a container, everyone outside must reach us.
# LOG_FORMAT: tools read a container's log, though it has a terminal (`docker run -t`).
# ONNX Runtime's telemetry would otherwise look for a home to keep a device's name in.
ENV PATH=/opt/gateway/bin:$PATH \
    HOST=0.0.0.0 \
    PORT=8000 \
    MODEL_PATH=/app/models/quantized \
    LOG_FORMAT=json \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# A bare socket: a quarter of the processor time of a library's client. `start-interval` lets
# `up --wait` see readiness within a second.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python3", "-IS", "-c", "import os, socket\nconnection = socket.create_connection(('127.0.0.1', int(os.environ.get('PORT') or 8000)), 2)\nconnection.sendall(b'GET /health/ready HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n')\nraise SystemExit(not connection.recv(64).startswith(b'HTTP/1.1 200'))"]
# Signals wait until the interpreter can take them: as process 1, what comes before its handlers stand is lost.
CMD ["env", "--block-signal=TERM,INT,HUP", "query-gateway", "serve"]
