#!/usr/bin/env bash
# Everything that on-call looks at first, on one page: each line ok, warn or bad, with the heading of
# docs/runbook.md to turn to. Reads, changes nothing.
#
#   scripts/diagnose.sh                               the stack of compose.yaml
#   scripts/diagnose.sh --url URL [--prometheus URL]  a gateway anywhere, without containers
#   --key-file FILE                                   an operator's key, where OPS_KEYS protects its reports
#
# Exit code: 0 all is well, 1 something warns, 2 something is bad, 3 the gateway could not be reached.
set -uo pipefail

url=http://localhost:8080 prometheus=http://localhost:9090 containers=1 key_file=
while [ $# -gt 0 ]; do
    case $1 in
    --url) url=${2:?--url needs a URL} containers=0 && shift 2 ;;
    --prometheus) prometheus=${2:?--prometheus needs a URL} && shift 2 ;;
    --key-file) key_file=${2:?--key-file needs a file} && shift 2 ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "diagnose.sh: $1: expected --url URL, --prometheus URL or --key-file FILE" >&2 && exit 64 ;;
    esac
done
[ -z "$key_file" ] || [ -r "$key_file" ] || { echo "diagnose.sh: --key-file: $key_file cannot be read" >&2 && exit 64; }
for tool in curl jq; do
    command -v $tool >/dev/null || { echo "diagnose.sh: needs $tool" >&2 && exit 64; }
done

worst=0 unreached=()
# say VERDICT TEXT [HEADING]
say() {
    printf '  %-5s %s%s\n' "$1" "$2" "${3:+  → docs/runbook.md#$3}"
    case $1 in bad) worst=2 ;; warn) [ $worst -gt 0 ] || worst=1 ;; esac
}
section() { printf '\n%s\n' "$1"; }
get() { curl -s --max-time 5 "$@"; }
# What OPS_KEYS may protect. The key goes through a pipe, so that no list of processes shows it.
get_report() {
    if [ -n "$key_file" ]; then
        printf 'x-api-key: %s\n' "$(tr -d '[:space:]' <"$key_file")" | get -H @- "$@"
    else
        get "$@"
    fi
}
# One number from Prometheus; empty when there is none.
ask() {
    get -G "$prometheus/api/v1/query" --data-urlencode "query=$1" |
        jq -r '.data.result[0].value[1] // empty | select(. != "NaN")' 2>/dev/null
}
# judge NUMBER CONDITION: a comparison of decimals
judge() { awk -v x="$1" "BEGIN { exit !(x $2) }"; }

echo "Query Gateway diagnosis, $(date -u '+%Y-%m-%d %H:%M:%S') UTC, $url"

if [ $containers = 1 ]; then
    section "Stack"
    if ! docker info >/dev/null 2>&1; then
        unreached+=("the container engine (docker info fails): stack and log lines were not looked at")
        containers=0
    else
        for name in query-gateway query-gateway-redis query-gateway-prometheus query-gateway-alertmanager query-gateway-grafana; do
            case $name in
            *redis) heading=redisconnectionfailure ;;
            *prometheus) heading=scenario-2-prometheus-not-scraping-metrics ;;
            *alertmanager) heading=watchdog ;;
            *grafana) heading=scenario-3-grafana-shows-no-data ;;
            *) heading=servicedown ;;
            esac
            state=$(docker inspect -f '{{.State.Status}}{{with .State.Health}}, {{.Status}}{{end}}, {{.RestartCount}} restarts' "$name" 2>/dev/null) || state="no such container"
            case $state in
            "running, healthy, 0 restarts") say ok "$name: $state" ;;
            "running, healthy"* | "running, starting"*) say warn "$name: $state" $heading ;;
            # What its health check asks is whether it is ready; whether it answers at all is seen below.
            running*) if [ $name = query-gateway ]; then say bad "$name: $state" modelnotready; else say warn "$name: $state" $heading; fi ;;
            *) if [ $name = query-gateway ]; then say bad "$name: $state" $heading; else say warn "$name: $state" $heading; fi ;;
            esac
            case $name-$state in
            query-gateway-*" 0 restarts" | query-gateway-"no such container") ;;
            query-gateway-*restarts)
                ended=$(docker inspect -f 'exit code {{.State.ExitCode}}, OOMKilled {{.State.OOMKilled}}' query-gateway)
                last=$(docker logs --tail 200 query-gateway 2>&1 | grep '"level":"error"' | tail -1 | jq -rR 'fromjson? | "\(.error_type): \(.message // .event)"')
                say warn "it last ended with $ended${last:+; its last error: $last}" crashloop
                ;;
            esac
        done
    fi
fi

section "Health"
reached=1
ready=$(get -w '\n%{http_code}' "$url/health/ready") || true
case ${ready##*$'\n'} in
200) say ok "ready" ;;
503) say bad "not ready: $(head -1 <<<"$ready" | jq -r '.reason // empty' 2>/dev/null)" modelnotready ;;
*)
    reached=0
    unreached+=("the gateway at $url")
    say bad "the gateway does not answer" servicedown
    ;;
esac
if [ $reached = 1 ]; then
    deep=$(get_report "$url/health/deep")
    field() { jq -r "$1" <<<"$deep" 2>/dev/null; }
    case $(field .status) in
    healthy) say ok "deep report: healthy, version $(field .version), up $(field .uptime_s) s" ;;
    degraded) say warn "deep report: degraded" ;;
    *)
        unreached+=("$url/health/deep (protected, or not a gateway)")
        deep="{}"
        ;;
    esac
    case $(field .checks.model.loaded) in
    true)
        say ok "model $(field .checks.model.version) from $(field .checks.model.path)"
        [ "$(field .checks.model.files)" = present ] ||
            say warn "the model's files are $(field .checks.model.files) since it was loaded" modelnotready
        [ "$(field .checks.model.error)" = null ] ||
            say warn "a new model was refused: $(field .checks.model.error)" modelrefused
        ;;
    false) say bad "no model: $(field .checks.model.error)" modelnotready ;;
    esac
    [ "$(field '.checks.policy.error // empty')" = "" ] ||
        say warn "the policy was refused: $(field .checks.policy.error)" policyrefused
    refused=$(field '.checks.keys // {} | to_entries[] | select(.value) | "\(.key): \(.value)"')
    [ "$refused" = "" ] || say warn "keys were refused: ${refused//$'\n'/; }" keysrefused
    case $(field '"\(.checks.shadow.loaded) \(.checks.shadow.error == null)"') in
    "null "*) ;;
    *" false") say warn "the shadow: $(field .checks.shadow.error)" shadowrefused ;;
    *) say ok "the shadow $(field '.checks.shadow.version // "is being loaded"'): $(field .checks.shadow.compared) queries compared" ;;
    esac
    if [ "$(field .checks.batch_processor.running)" = false ]; then
        say bad "the batcher does not run" servicedown
    fi
    case $(field '"\(.checks.cache.l2_enabled) \(.checks.cache.l2_healthy)"') in
    "true true") say ok "Redis: in use, $(field .checks.cache.l2_size) keys" ;;
    "true false") say warn "Redis: $(field '.checks.cache.l2.trouble // "not usable"')" redisconnectionfailure ;;
    "false "*) say ok "Redis: not configured, L1 alone" ;;
    esac
    [ "$deep" = "{}" ] || say ok "L1: $(field .checks.cache.l1_size) of $(field .checks.cache.l1_max_size) entries"
fi

section "Live numbers, last 5 minutes"
if ! get -f "$prometheus/-/ready" >/dev/null; then
    unreached+=("Prometheus at $prometheus: rates, percentiles and alerts were not looked at")
    say warn "Prometheus does not answer" scenario-2-prometheus-not-scraping-metrics
else
    # line NAME QUERY UNIT SCALE WARN BAD HEADING: conditions such as "> 0.1", or - for none
    line() {
        local value shown
        value=$(ask "$2")
        if [ -z "$value" ]; then
            say ok "$1: no data (no traffic)"
            return
        fi
        shown=$(awk -v x="$value" -v scale="$4" 'BEGIN { printf "%.4g", x * scale }')$3
        if [ "$6" != - ] && judge "$value" "$6"; then
            say bad "$1: $shown" "$7"
        elif [ "$5" != - ] && judge "$value" "$5"; then
            say warn "$1: $shown" "$7"
        else
            say ok "$1: $shown"
        fi
    }
    requests='sum(rate(query_gateway_requests_total[5m]))'
    of() { echo "(sum(rate(query_gateway_requests_total{code=~\"$1\"}[5m])) or vector(0)) / $requests"; }
    lookups='(sum(rate(query_gateway_cache_hits_total[5m])) + sum(rate(query_gateway_cache_misses_total[5m])))'
    case $(ask 'min(up{job="query-gateway"})') in
    1) say ok "scraped by Prometheus" ;;
    *) say bad "Prometheus does not reach the gateway" scenario-2-prometheus-not-scraping-metrics ;;
    esac
    line "requests a second" "$requests" "" 1 - - servicedown
    line "being answered now" 'sum(query_gateway_active_requests)' "" 1 '> 50' - highp99latency
    line "waiting for the model" 'max(query_gateway_batch_queue_size)' "" 1 '> 100' - highbatchqueuedepth
    line "failed (5xx; SLO 0.1%)" "$(of '5..')" "%" 100 - '> 0.001' higherrorrate
    line "callers' mistakes (4xx)" "$(of '4[0-1].|499')" "%" 100 '> 0.05' - highclienterrorrate
    line "shed (429)" "$(of 429)" "%" 100 '> 0.01' - queriesshed
    line "99th percentile (SLO 100 ms)" 'histogram_quantile(0.99, sum by (le) (rate(query_gateway_request_latency_seconds_bucket[5m])))' " ms" 1000 '> 0.1' - highp99latency
    line "99th percentile, cache hits (SLO 10 ms)" 'histogram_quantile(0.99, sum by (le) (rate(query_gateway_cache_hit_latency_seconds_bucket[5m])))' " ms" 1000 '> 0.01' - cachehitlatencyfastburn
    line "cache hit rate (SLO 30%)" "sum(rate(query_gateway_cache_hits_total[5m])) / $lookups" "%" 100 '< 0.3' - lowcachehitrate
    line "average batch (small is healthy)" 'sum(rate(query_gateway_inference_batch_size_sum[5m])) / sum(rate(query_gateway_inference_batch_size_count[5m]))' "" 1 - - highp99latency
    line "resident memory" 'max(process_resident_memory_bytes{job="query-gateway"})' " MB" 0.000001 - - scenario-4-high-memory-usage

    section "Alerts"
    # Prometheus knows every alert; a heading is the alert's name in lower case.
    alerts=$(get "$prometheus/api/v1/alerts" | jq -r '.data.alerts[] | [.state, .labels.severity, .labels.alertname, .annotations.description] | @tsv' 2>/dev/null)
    [ -n "$alerts" ] || say ok "none"
    while IFS=$'\t' read -r state severity name description; do
        [ -n "$name" ] || continue
        # Fires always: that it does is good news.
        [ "$name" != Watchdog ] || { say ok "the rules are evaluated (Watchdog fires, as it always does)" && continue; }
        verdict=warn
        [ "$state $severity" != "firing critical" ] || verdict=bad
        say $verdict "$name ($severity, $state): $description" "${name,,}"
    done <<<"$alerts"
fi

if [ $containers = 1 ]; then
    section "Errors in the last 15 minutes of the log"
    counts=$(docker logs --since 15m query-gateway 2>&1 | grep '"level":"error"' | jq -rR 'fromjson? | .error_type // empty' | sort | uniq -c | sort -rn)
    [ -n "$counts" ] || say ok "none"
    while read -r count kind; do
        case $kind in
        "") ;;
        ValidationError | Unauthenticated | NotFound | PayloadTooLarge) say ok "$count $kind (callers' mistakes)" ;;
        *) say warn "$count $kind" "${kind,,}" ;;
        esac
    done <<<"$counts"
fi

echo
for what in "${unreached[@]}"; do echo "Not reached: $what."; done
case $worst in 0) verdict="all is well" ;; 1) verdict="something warns" ;; *) verdict="something is bad" ;; esac
[ $reached = 1 ] || { worst=3 verdict="the gateway could not be reached"; }
echo "Verdict: $verdict (exit code $worst)."
exit $worst
