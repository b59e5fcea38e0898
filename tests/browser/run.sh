#!/usr/bin/env bash
# The pages in a real browser: their types, and all that page.test.js and replay.test.js say of them.
#
#   tests/browser/run.sh              needs Node.js 20 or newer and Chromium; .venv-dev holds the gateway
#   tests/browser/run.sh --install    Chromium too, from Debian's packages (so does CI=true)
#   tests/browser/run.sh --pictures   also writes docs/pictures/page-*.png
#   tests/browser/run.sh --look DIR   also leaves pictures of every view, width and theme in DIR
#
# Exit code 3: there is no browser here, and nothing was proven.
set -euo pipefail
cd "$(dirname "$0")"

install=${CI:+1}
while [ $# -gt 0 ]; do
    case $1 in
    --install) install=1 ;;
    --pictures) export PICTURES=$PWD/../../docs/pictures ;;
    --look) mkdir -p "$2" && LOOK=$(cd "$2" && pwd) && export LOOK && shift ;;
    *) echo "run.sh: $1: expected --install, --pictures or --look DIR" >&2 && exit 2 ;;
    esac
    shift
done

if [ -n "$install" ] && ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium …" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium fonts-dejavu-core; } >/dev/null 2>&1 || true
fi
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$CHROMIUM" ] || ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "run.sh: Chromium, Node.js and npm are needed (--install gets Chromium on Debian, as root)" >&2
    exit 3
fi
export CHROMIUM

stamp=$(sha256sum package-lock.json | cut -c1-64)
if [ "$(cat node_modules/.installed 2>/dev/null)" != "$stamp" ]; then
    npm ci --silent --no-audit --no-fund --ignore-scripts || { echo "run.sh: npm cannot install what the tests need" >&2 && exit 3; }
    echo "$stamp" >node_modules/.installed
fi
npx --no-install tsc -p tsconfig.json
node --test --test-concurrency=1 --test-reporter=spec page.test.js replay.test.js
# Few colours, so that a picture stays small.
[ -z "${PICTURES:-}" ] || ../../.venv-dev/bin/python - "$PICTURES"/page-*.png <<'PY'
import sys

from PIL import Image

for name in sys.argv[1:]:
    Image.open(name).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(name, optimize=True)
PY
