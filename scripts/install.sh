#!/usr/bin/env bash
# Install what serving (serve), tests, checks and model building (dev), load tests (load) or the
# recipes for other people's programs (integrations) need, into a virtual environment of its own.
# Does nothing when the lock files have not changed.
#
#   scripts/install.sh serve   .venv      the locked serving set and the gateway
#   scripts/install.sh dev     .venv-dev  the same, test tools, torch and a Redis server
#   scripts/install.sh load    .venv-load what drives load tests, without the gateway
#   scripts/install.sh integrations       .venv-integrations and .venv-litellm: clients and proxies;
#                                         where CI=true, nginx and HAProxy too, from the system's packages
#   scripts/install.sh ray     .venv-ray  Ray Data, and the router beside it
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:?serve, dev, load, integrations or ray}
case $kind in
serve) venv=.venv locks=(requirements/serve.txt) ;;
dev) venv=.venv-dev locks=(requirements/dev.txt requirements/torch-cpu.txt requirements/torch.txt) ;;
load) venv=.venv-load locks=(requirements/load.txt) ;;
integrations) venv=.venv-integrations locks=(requirements/integrations.txt) ;;
ray) venv=.venv-ray locks=(requirements/ray.txt) ;;
litellm) venv=.venv-litellm locks=(requirements/litellm.txt) ;;
*) echo "install.sh: $kind: expected serve, dev, load, integrations or ray" >&2 && exit 2 ;;
esac

# nginx and HAProxy: from the system's packages only on CI, where nobody minds. Only what was
# installed here is stopped, not a proxy that was there.
system_proxies() {
    local tool lacking=()
    for tool in nginx haproxy; do
        PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || lacking+=("$tool")
    done
    [ -e /usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so ] && [ ${#lacking[@]} = 0 ] && return 0
    if [ "${CI:-}" != true ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        return 0 # their rows of the table say what is missing, and how to get it
    fi
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        nginx-light libnginx-mod-http-js libnginx-mod-http-headers-more-filter haproxy; } >/dev/null 2>&1 ||
        echo "install.sh: the system's packages have no nginx or no HAProxy" >&2
    for tool in "${lacking[@]}"; do service "$tool" stop >/dev/null 2>&1 || true; done
}
if [ "$kind" = integrations ]; then
    system_proxies
    "$0" litellm &
    other=$!
fi

# The gateway itself is installed in place, so only what its installation reads counts.
stamp=$(cat "${locks[@]}" pyproject.toml handler/__init__.py "$0" | sha256sum | cut -c1-64)
if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$stamp" ]; then
    [ -z "${other:-}" ] || wait "$other"
    exit
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "install.sh: $("$python" --version) is too old: Python 3.11 or newer is needed (set PYTHON to one)" >&2
    exit 1
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
# The locks are complete, so pip finds in them all that their members declare, or refuses.
locked() { pip install --quiet --require-hashes "$@"; }

# A Redis server (openssl makes certificates for its TLS tests): from the system's packages only
# on CI, where nobody minds. Only what was installed here is stopped, not a Redis that was there.
redis_server() {
    local tool lacking=() service
    for tool in redis-server redis-sentinel openssl; do
        command -v "$tool" >/dev/null || lacking+=("$tool")
    done
    [ ${#lacking[@]} -gt 0 ] || return 0
    if [ "${CI:-}" != true ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "install.sh: no ${lacking[*]} here: tests that need them are skipped, others use an older Redis" \
            "from a wheel (Debian and Ubuntu: apt-get install ${lacking[*]})" >&2
        return 0
    fi
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${lacking[@]}"; } >/dev/null 2>&1 ||
        echo "install.sh: the system's packages have no ${lacking[*]}" >&2
    for service in "${lacking[@]}"; do
        [ "$service" = openssl ] || service "$service" stop >/dev/null 2>&1 || true
    done
}

echo "Installing into $venv …" >&2
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
rm -f "$venv/.installed"
if [ "$kind" = dev ]; then
    # The CPU build where an index or PIP_FIND_LINKS has it: 0.2 GB. Else the usual one,
    # which does not start without its accelerator's libraries: 3 GB.
    locked --no-deps -r requirements/torch-cpu.txt 2>/dev/null || locked -r requirements/torch.txt -r requirements/dev.txt
    locked -r requirements/dev.txt
    redis_server
elif [ "$kind" = serve ]; then
    locked --no-deps -r requirements/serve.txt # what is left out, by name: requirements/not-served.txt
else
    locked -r "${locks[0]}"
fi
if [ "$kind" = serve ] || [ "$kind" = dev ]; then
    pip install --quiet --no-deps --no-build-isolation --editable .
    # Otherwise every start would compile the gateway anew where writing bytecode is switched off.
    "$venv/bin/python" -m compileall -q handler
fi
echo "$stamp" >"$venv/.installed"
[ -z "${other:-}" ] || wait "$other"
