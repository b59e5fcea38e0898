"""What each of the runbook's commands must show: the tables that `runbook.py` holds it to.

`DOCUMENT` has every command of docs/runbook.md. `REFERENCE` has every command of the
runbook that the product was ordered from: those that stand in ours word for word,
and for the others what they show as typed and which of ours does what they meant.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """What a command must show (a regular expression) and how it must end."""

    shows: str
    codes: tuple[int, ...] = (0,)  # none: any
    endless: bool = False  # is ended with Ctrl-C after some seconds
    tries: int = 8  # two seconds apart: a rate needs scrapes
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reference:
    """A command of the order. Without `shows` it is one of ours, word for word."""

    typed: str
    shows: str | None = None
    instead: str | None = None  # our command with the same intent
    why: str = ""
    endless: bool = False
    needs: frozenset[str] = field(default_factory=frozenset)


L2 = frozenset({"L2"})
GRAFANA = frozenset({"grafana"})
# A vector with a number in it; NaN would be no answer to on-call's question.
NUMBER = r'"status":"success".*"value":\[[\d.e+]+,"-?[\d.e+-]+"\]'
EMPTY_OR_NUMBER = r'"status":"success"'
OK = r".*"
STARTED = r"(Started|Running|Healthy)"
READY = r'"status":"ready"'
MODEL = r'"loaded": true.*"version".*"path": "/app/models/quantized".*"device": "cpu".*"tasks": \['
CACHE = r'"l1_enabled": true.*"l1_size": \d+.*"l1_max_size": \d+.*"l2_enabled": .*"l2_healthy": .*"l2_size": '
BATCH = r'"running": true.*"queue_depth": \d+.*"max_batch_size": \d+.*"max_wait_ms": [\d.]+.*"average_batch_size": '
STATS = r"CPU %.*query-gateway .*MiB / [\d.]+GiB"
LINES = r'"timestamp":"[^"]+","level":"error","event":"request_failed"'


def promql(query: str) -> str:
    return f"curl -sG http://localhost:9090/api/v1/query --data-urlencode 'query={query}'"


ERRORS_5M = 'rate(query_gateway_requests_total{status="error"}[5m])'
P99 = "histogram_quantile(0.99, rate(query_gateway_request_latency_seconds_bucket[5m]))"
BATCH_MEDIAN = "histogram_quantile(0.5, rate(query_gateway_inference_batch_size_bucket[10m]))"
INFERENCE_P95 = "histogram_quantile(0.95, rate(query_gateway_inference_latency_seconds_bucket[5m]))"
RUNS = "rate(query_gateway_inference_batch_size_count[1m])"
REQUESTS_1M = "rate(query_gateway_requests_total[1m])"
MOVED = (
    "sum by (moved) (increase(query_gateway_shadow_routes_total[1h])) / ignoring(moved) group_left() "
    "sum(increase(query_gateway_shadow_routes_total[1h]))"
)
L1_SIZE = 'query_gateway_cache_size{level="L1"}'
L1_HITS = 'sum(rate(query_gateway_cache_hits_total{level="L1"}[5m]))'
L2_HITS = 'sum(rate(query_gateway_cache_hits_total{level="L2"}[5m]))'


def hit_rate(window: str) -> str:
    hits = f"sum(rate(query_gateway_cache_hits_total[{window}]))"
    return f"{hits}/({hits}+sum(rate(query_gateway_cache_misses_total[{window}])))"


def watched(seconds: int, query: str, end: str = "") -> str:
    quoted = query.replace('"', '\\"')
    return f"watch -n {seconds} \"curl -sG http://localhost:9090/api/v1/query --data-urlencode 'query={quoted}'{end}\""


WATCH_ERRORS = watched(
    10, 'rate(query_gateway_requests_total{status="error"}[1m])', " | jq -c '.data.result[]'"
)
BACKUP = """docker run --rm -v prometheus-data:/data -v $(pwd):/backup alpine \\
  tar czf /backup/prometheus-backup-$(date +%Y%m%d).tar.gz /data"""
RESTORE = """docker run --rm -v prometheus-data:/data -v $(pwd):/backup alpine \\
  tar xzf /backup/prometheus-backup-$(date +%Y%m%d).tar.gz -C /"""


def memory_of(process: str) -> str:
    return f"""docker exec query-gateway python3 -c "
import psutil
process = psutil.Process({process})
print(f'Memory: {{process.memory_info().rss / 1024 / 1024:.2f}} MB')
\""""


TRUNCATE = "sudo truncate -s 0 \"$(docker inspect --format='{{.LogPath}}' query-gateway)\""
DELETE = (
    "curl -s -X POST -G http://localhost:9090/api/v1/admin/tsdb/delete_series -w '%{http_code}\\n' "
    "--data-urlencode 'match[]={__name__=~\".+\"}' "
    "--data-urlencode \"start=$(date -d '30 days ago' +%s)\" --data-urlencode \"end=$(date -d '7 days ago' +%s)\""
)

DOCUMENT: dict[str, Command] = {
    # ServiceDown
    "docker ps -a | grep query-gateway": Command(r"query-gateway-prometheus.*"),
    "docker logs query-gateway --tail=100": Command(r'"event":"(model_loaded|started|request_failed)"'),
    "docker logs query-gateway 2>&1 | grep -i error | tail -20": Command(LINES),
    "docker stats query-gateway --no-stream": Command(STATS),
    "docker compose restart gateway": Command(STARTED),
    "docker compose down": Command(r"Removed"),
    "docker compose up -d": Command(STARTED),
    "curl http://localhost:8080/health/ready": Command(READY),
    # ModelNotReady
    "curl http://localhost:8080/health/deep | jq '.checks.model'": Command(MODEL),
    "docker exec query-gateway ls -lh /app/models/quantized/": Command(r"manifest.json.*model.onnx.*tokenizer.json"),
    "docker exec query-gateway ls -lh /app/models/router/": Command(
        r"config.json.*model.safetensors.*tokenizer_config.json"
    ),
    'docker logs query-gateway 2>&1 | grep -i "model"': Command(r'"event":"model_loaded"'),
    "ls -lh models/quantized/": Command(r"manifest.json.*model.onnx.*tokenizer.json"),
    "ls -lh models/router/": Command(r"config.json.*model.safetensors.*tokenizer_config.json"),
    'docker logs -f query-gateway | grep "model"': Command(r'"event":"model_loaded"', endless=True),
    # ModelRefused
    "curl -s http://localhost:8080/health/deep | jq '.checks.model | {version, since, files, error}'": Command(
        r'"version": "[0-9a-f]{12}".*"since": "20.*"files": "present".*"error": null'
    ),
    "docker kill --signal HUP query-gateway": Command(r"query-gateway"),
    # PolicyRefused, KeysRefused: the stack has no files of its own
    "curl -s http://localhost:8080/health/deep | jq '.checks.policy.error'": Command(r"null"),
    "curl -s http://localhost:8080/health/deep | jq '.checks.keys'": Command(r"\{\}"),
    "docker logs query-gateway 2>&1 | grep -c '\"event\":\"keys_' || true": Command(r"\d"),
    # ShadowRefused, ShadowDisagrees: the stack has none
    "curl -s http://localhost:8080/health/deep | jq '.checks.shadow'": Command(r"null"),
    "docker logs query-gateway 2>&1 | grep -c '\"event\":\"shadow_' || true": Command(r"\d"),
    "docker exec query-gateway query-gateway shadow --url http://localhost:8000 || true": Command(
        r"this gateway has no shadow: SHADOW_MODEL_PATH names its model"
    ),
    promql(MOVED): Command(EMPTY_OR_NUMBER),
    # CrashLoop, ExporterUnreachable, InstanceDown, RouterFallback, Watchdog
    "docker inspect -f '{{.RestartCount}} restarts, exit code {{.State.ExitCode}}, OOMKilled {{.State.OOMKilled}}' query-gateway": Command(
        r"\d+ restarts, exit code \d+, OOMKilled (true|false)"
    ),
    "docker logs query-gateway 2>&1 | grep '\"level\":\"error\"' | tail -3": Command(LINES),
    promql('changes(process_start_time_seconds{job="query-gateway"}[10m])'): Command(NUMBER),
    # ManyInstancesDown, InstanceFailing, FleetRestarts
    promql('up{job="query-gateway"} == 0'): Command(EMPTY_OR_NUMBER),
    promql("count by (version) (query_gateway_build_info)"): Command(NUMBER),
    promql("max(query_gateway_batch_queue_fullness)"): Command(NUMBER),
    promql('sum by (instance, error_type) (rate(query_gateway_requests_total{code=~"5.."}[5m]))'): Command(NUMBER),
    promql('changes(process_start_time_seconds{job="query-gateway"}[1h])'): Command(NUMBER),
    "docker stats --no-stream": Command(STATS),
    "docker logs query-gateway 2>&1 | grep exporter_": Command(OK, codes=(0, 1)),
    "curl -s http://localhost:8080/metrics | grep query_gateway_otlp": Command(OK, codes=(0, 1)),
    "docker exec query-gateway env | grep -E '^OTEL_(EXPORTER_OTLP_.*(ENDPOINT|TIMEOUT|COMPRESSION)|SDK_DISABLED)'": Command(
        OK, codes=(0, 1)
    ),
    "docker exec query-gateway python3 -c 'import os, requests; print(requests.post(os.environ[\"OTEL_EXPORTER_OTLP_ENDPOINT\"] "
    '+ "/v1/metrics", data=b"", headers={"content-type": "application/x-protobuf"}, timeout=5).status_code)\'': Command(
        r"KeyError: 'OTEL_EXPORTER_OTLP_ENDPOINT'", codes=(1,)
    ),
    promql('up{job="query-gateway"}'): Command(NUMBER),
    promql("sum by (wire, reason) (rate(query_gateway_fallbacks_total[5m]))"): Command(r'"reason":"overloaded"'),
    promql('ALERTS{alertname="Watchdog"}'): Command(r'"alertstate":"firing"'),
    # HighErrorRate
    promql(ERRORS_5M): Command(r'"error_type":"ValidationError".*"value"'),
    promql("job:query_gateway_requests:failed_ratio_rate5m"): Command(NUMBER),
    "docker logs query-gateway 2>&1 | grep '\"level\":\"error\"' | tail -20": Command(LINES),
    "docker logs query-gateway 2>&1 | grep '\"level\":\"error\"' | jq -r '.error_type' | sort | uniq -c": Command(
        r"\d+ ValidationError"
    ),
    WATCH_ERRORS: Command(r"Every 10.0s.*ValidationError", endless=True),
    "docker ps | grep redis": Command(r"query-gateway-redis"),
    # Budgets
    promql("1 - job:query_gateway_requests:error_ratio_rate3d / 0.001"): Command(NUMBER, tries=40),
    promql(
        "sum by (stage) (rate(query_gateway_stage_seconds_sum[5m])) / sum by (stage) (rate(query_gateway_stage_seconds_count[5m]))"
    ): Command(r'"stage":"infer"'),
    promql("1 - job:query_gateway_cache_hit_latency:slow_ratio_rate5m"): Command(NUMBER),
    promql('rate(process_cpu_seconds_total{job="query-gateway"}[1m])'): Command(NUMBER),
    # HighP99Latency
    promql(P99): Command(NUMBER),
    "curl http://localhost:8080/health/deep | jq '.checks.batch_processor'": Command(BATCH),
    "curl -s 'http://localhost:9090/api/v1/query?query=query_gateway_active_requests'": Command(NUMBER),
    promql(hit_rate("5m")): Command(NUMBER),
    promql(BATCH_MEDIAN): Command(NUMBER),
    "curl http://localhost:8080/health/deep | jq '.checks.cache'": Command(CACHE),
    "docker compose up -d gateway": Command(STARTED),
    watched(30, P99): Command(r"Every 30.0s", endless=True),
    # LowCacheHitRate
    promql(hit_rate("10m")): Command(NUMBER),
    promql(L1_SIZE): Command(NUMBER),
    "curl -s http://localhost:8080/health/deep | jq '.checks.cache.l2_enabled'": Command(r"^true$", needs=L2),
    watched(60, hit_rate("5m")): Command(r"Every 60.0s", endless=True),
    promql(L1_HITS): Command(NUMBER),
    promql(L2_HITS): Command(NUMBER, needs=L2),
    # RedisConnectionFailure
    "curl -s http://localhost:8080/health/deep | jq '.checks.cache'": Command(CACHE),
    "docker logs query-gateway-redis --tail 50": Command(r"Ready to accept connections"),
    "docker exec query-gateway ping redis": Command(r"64 bytes from", endless=True),
    "docker exec query-gateway-redis redis-cli ping": Command(r"PONG"),
    "docker exec query-gateway env | grep REDIS_URL": Command(r"^REDIS_URL=redis://redis:6379/0$"),
    "docker exec query-gateway-redis redis-cli AUTH your_password": Command(r"called without any password configured"),
    "curl -s http://localhost:8080/health/deep | jq '.checks.cache.l2.shards'": Command(
        r'"address": "redis://redis:6379/0".*"trouble": null.*"reads": "closed"', needs=L2
    ),
    promql("query_gateway_l2_shards - query_gateway_l2_shards_up"): Command(r'"value":\[[\d.e+]+,"0"\]', needs=L2),
    "docker exec query-gateway-redis redis-cli cluster info": Command(r"cluster support disabled"),
    "docker compose restart redis": Command(STARTED),
    "curl -s http://localhost:8080/health/deep | jq '.checks.cache.l2_healthy'": Command(r"^true$", needs=L2),
    "curl -s http://localhost:8080/metrics | grep cache_hits_total": Command(
        r'query_gateway_cache_hits_total\{level="L1"\}'
    ),
    "docker exec query-gateway query-gateway cache stats": Command(r"all models: \d+ entries", needs=L2),
    "docker exec query-gateway query-gateway cache flush --dry-run": Command(r"would remove \d+ entries", needs=L2),
    "docker exec query-gateway-redis redis-cli FLUSHALL": Command(r"OK"),
    # HighBatchQueueDepth
    "curl -s 'http://localhost:9090/api/v1/query?query=query_gateway_batch_queue_size'": Command(NUMBER),
    promql(REQUESTS_1M): Command(NUMBER),
    promql(RUNS): Command(NUMBER),
    promql(INFERENCE_P95): Command(NUMBER),
    # HighClientErrorRate, QueriesShed, error types
    promql(
        'sum by (error_type, code) (rate(query_gateway_requests_total{code=~"4..", code!="429"}[10m]))'
    ): Command(r'"error_type":"ValidationError"'),
    "docker logs query-gateway 2>&1 | grep '\"code\":4' | tail -5": Command(r'"code":400'),
    promql('sum(rate(query_gateway_requests_total{code="429"}[5m]))'): Command(EMPTY_OR_NUMBER),
    "curl -s http://localhost:8080/v1/query-classify -H 'content-type: application/json' "
    """-d '{"text": "Write a poem about the sea"}'""": Command(
        r'\{"label":"1","route":"slow","task":"creative_writing","confidence":0\.\d+\}'
    ),
    "curl -s http://localhost:8080/v1/query-classify -H 'content-type: application/json' "
    """-d '{"txt": "Write a poem"}'""": Command(r'"code":400,"status":"INVALID_ARGUMENT","message":".*text'),
    'docker logs query-gateway 2>&1 | grep \'"error_type":"InternalError"\' | tail -3 '
    "| jq -c '{request_id, exception, traceback}'": Command(OK),  # none is good news
    # Scenarios
    "docker compose logs gateway": Command(r'"event":"model_loaded"'),
    "docker compose config": Command(r"name: query-gateway.*container_name: query-gateway"),
    'docker compose run --rm gateway env | grep -E "(MODEL|BATCH|CACHE)"': Command(
        r"^(?=.*MODEL_PATH=)(?=.*BATCH_MAX_SIZE=)(?=.*BATCH_MAX_WAIT_MS=)(?=.*CACHE_L1_SIZE=)"
    ),
    "docker compose run --rm gateway query-gateway check": Command(r"settings: ok.*model: ok"),
    "curl http://localhost:8080/metrics": Command(r"query_gateway_requests_total\{.*query_gateway_model_loaded 1\.0"),
    "docker exec query-gateway-prometheus wget -O- http://gateway:8000/metrics": Command(r"query_gateway_requests_total"),
    "docker exec query-gateway-prometheus cat /etc/prometheus/prometheus.yml": Command(r"job_name: query-gateway"),
    "docker exec query-gateway-prometheus promtool check config /etc/prometheus/prometheus.yml": Command(
        r"2 rule files found.*SUCCESS: [0-9]+ rules found"
    ),
    "docker logs query-gateway-prometheus 2>&1 | grep -i error": Command(OK, codes=(0, 1)),
    "curl -u admin:admin http://localhost:3000/api/datasources": Command(r'"url":"http://prometheus:9090"', needs=GRAFANA),
    "curl 'http://localhost:9090/api/v1/query?query=up'": Command(r'"job":"query-gateway"\},"value":\[[\d.]+,"1"\]'),
    memory_of("1"): Command(r"^Memory: (6|7|8|9|1\d|2\d)\d\.\d\d MB$"),
    # Tools and maintenance. So many restarts in so few minutes are a crash loop, and are told as one.
    "./scripts/diagnose.sh": Command(r"Stack.*Health.*Live numbers.*Alerts.*Verdict:", codes=(0, 1, 2)),
    "./scripts/diagnose.sh --url http://localhost:8080 --prometheus http://localhost:9090": Command(
        r"ok    ready.*ok    scraped.*Verdict:", codes=(0, 1, 2)
    ),
    TRUNCATE: Command(OK),
    DELETE: Command(r"^204$"),
    "curl -s -X POST http://localhost:9090/api/v1/admin/tsdb/clean_tombstones -w '%{http_code}\\n'": Command(r"^204$"),
    "docker compose stop prometheus": Command(r"Stopped"),
    BACKUP: Command(OK),
    "docker compose start prometheus": Command(r"Started"),
    RESTORE: Command(OK),
}  # fmt: skip

GLOBBED = "curl reads [ ] and { } in a URL as patterns of its own"
WATCHED = "so here too; and the shell that watch starts reads ( ) as its own"
RANGE = r"curl: \(3\)|parse error|bad_data|^$"  # with -s, the refusal may be silent


JQ_NUMBER = " | jq -r '.data.result[0].value[1]'"
ERROR_SHARE = f"sum({ERRORS_5M})/sum(rate(query_gateway_requests_total[5m]))"


def typed_url(query: str) -> str:
    return f"curl -s 'http://localhost:9090/api/v1/query?query={query}'"


def globbed(query: str) -> Reference:
    return Reference(typed_url(query), RANGE, promql(query), GLOBBED)


def watch_globbed(typed: str, instead: str) -> Reference:
    return Reference(
        typed,
        r"Every|syntax error",
        instead,
        WATCHED,
        endless=True,
    )


def same(*typed: str) -> list[Reference]:
    return [Reference(command) for command in typed]


REFERENCE: list[Reference] = [
    *same(
        "docker ps -a | grep query-gateway",
        "docker logs query-gateway --tail=100",
        "docker logs query-gateway 2>&1 | grep -i error | tail -20",
        "docker stats query-gateway --no-stream",
        "docker compose up -d gateway",
        "ls -lh models/router/",
        "docker compose restart gateway",
        "docker compose down",
        "docker compose up -d",
        "curl http://localhost:8080/health/ready",
        "curl http://localhost:8080/health/deep | jq '.checks.model'",
        "docker exec query-gateway ls -lh /app/models/router/",
        'docker logs query-gateway 2>&1 | grep -i "model"',
        'docker logs -f query-gateway | grep "model"',
        "docker logs query-gateway 2>&1 | grep '\"level\":\"error\"' | tail -20",
        "docker logs query-gateway 2>&1 | grep '\"level\":\"error\"' | jq -r '.error_type' | sort | uniq -c",
        "curl http://localhost:8080/health/deep | jq '.checks.batch_processor'",
        typed_url("query_gateway_active_requests"),
        "curl http://localhost:8080/health/deep | jq '.checks.cache'",
        "curl -s http://localhost:8080/health/deep | jq '.checks.cache.l2_enabled'",
        "curl -s http://localhost:8080/health/deep | jq '.checks.cache'",
        "docker ps | grep redis",
        "docker logs query-gateway-redis --tail 50",
        "docker exec query-gateway ping redis",
        "docker exec query-gateway-redis redis-cli ping",
        "docker exec query-gateway env | grep REDIS_URL",
        "docker exec query-gateway-redis redis-cli AUTH your_password",
        "docker compose restart redis",
        "curl -s http://localhost:8080/health/deep | jq '.checks.cache.l2_healthy'",
        "curl -s http://localhost:8080/metrics | grep cache_hits_total",
        "docker exec query-gateway-redis redis-cli FLUSHALL",
        typed_url("query_gateway_batch_queue_size"),
        "docker compose logs gateway",
        "docker compose config",
        'docker compose run --rm gateway env | grep -E "(MODEL|BATCH|CACHE)"',
        "curl http://localhost:8080/metrics",
        "docker exec query-gateway-prometheus wget -O- http://gateway:8000/metrics",
        "docker exec query-gateway-prometheus cat /etc/prometheus/prometheus.yml",
        "curl -u admin:admin http://localhost:3000/api/datasources",
        "curl 'http://localhost:9090/api/v1/query?query=up'",
        "./scripts/diagnose.sh",
        "docker compose stop prometheus",
        BACKUP,
        "docker compose start prometheus",
    ),
    # These run as typed too; ours say more, or look at the right place.
    Reference("lsof -i :8000", OK, why="8000 is the port inside the container; on the host it is 8080"),
    Reference("chmod -R 755 models/", OK),
    Reference("chmod +x scripts/diagnose.sh", OK, why="it is executable as it comes"),
    Reference(
        memory_of(""), r"Memory: [\d.]+ MB", memory_of("1"), "Process() is the python that asks; the gateway is 1"
    ),
    Reference(
        "docker logs query-gateway-prometheus | grep -i error", OK,
        "docker logs query-gateway-prometheus 2>&1 | grep -i error", "Prometheus logs to the other stream",
    ),
    # What the order's own diagnosis script runs; ours asks the same and judges it.
    Reference("docker compose ps", r"query-gateway.*healthy"),
    Reference("curl -s http://localhost:8080/health/deep | jq '.'", r'"status": "(healthy|degraded)".*"checks": \{'),
    Reference(typed_url("query_gateway_active_requests") + JQ_NUMBER, r"^\d+$"),
    Reference("docker logs query-gateway 2>&1 | grep '\"level\":\"error\"' | tail -10 | jq -r '.event'", r"request_failed"),
    Reference(
        "curl -s http://localhost:9090/api/v1/alerts | jq '.data.alerts[] | "
        "{alert: .labels.alertname, severity: .labels.severity, state: .state}'",
        OK,  # none is good news
    ),
    *(
        Reference(typed_url(query) + JQ_NUMBER, RANGE, "./scripts/diagnose.sh", GLOBBED)
        for query in (REQUESTS_1M, ERROR_SHARE, hit_rate("5m"))
    ),
    # These cannot be typed so.
    globbed(ERRORS_5M),
    globbed(P99),
    globbed(hit_rate("5m")),
    globbed(BATCH_MEDIAN),
    globbed(hit_rate("10m")),
    globbed(L1_SIZE),
    globbed(L1_HITS),
    globbed(L2_HITS),
    globbed(REQUESTS_1M),
    globbed(RUNS),
    globbed(INFERENCE_P95),
    watch_globbed(
        "watch -n 10 'curl -s http://localhost:9090/api/v1/query?query=rate(query_gateway_requests_total"
        "{status=\\\"error\\\"}[1m]) | jq'",
        WATCH_ERRORS,
    ),
    watch_globbed(f"watch -n 30 'curl -s \"http://localhost:9090/api/v1/query?query={P99}\"'", watched(30, P99)),
    watch_globbed(
        f"watch -n 60 'curl -s \"http://localhost:9090/api/v1/query?query={hit_rate('5m')}\"'",
        watched(60, hit_rate("5m")),
    ),
    Reference(
        "docker exec query-gateway-prometheus \\\n"
        '  promtool tsdb delete --time-range="$(date -d \'30 days ago\' +%s)000-$(date -d \'7 days ago\' +%s)000" '
        "/prometheus",
        r"expected command but got \"delete\"", DELETE, "promtool has no such command; the server deletes",
    ),
    Reference(
        "docker run --rm -v prometheus-data:/data -v $(pwd):/backup alpine \\\n"
        "  tar xzf /backup/prometheus-backup-20260121.tar.gz -C /",
        r"No such file|Cannot open", RESTORE, "the file has the day of its making in its name",
    ),
    Reference(
        "docker compose down\nsudo truncate -s 0 $(docker inspect --format='{{.LogPath}}' query-gateway)",
        r"[Nn]o such object|no entry for key", TRUNCATE, "down removes the container and its log with it",
    ),
]  # fmt: skip
