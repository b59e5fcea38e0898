#!/usr/bin/env bash
# Make the lock files anew: `just lock`. They name versions and hashes, and no index.
#
# serve.txt is installed with --no-deps and leaves out what the libraries declare but
# serving never imports (not-served.txt): half of the installation, and code that a
# gateway should not carry. dev.txt keeps it all.
set -euo pipefail
cd "$(dirname "$0")"

compile() { uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
without() { sed 's/^/--no-emit-package=/' "$@"; }

compile just.in -o just.txt
compile load.in -o load.txt
compile integrations.in -o integrations.txt
compile litellm.in -o litellm.txt
# One resolution for all, so that what is tested is what is served.
compile dev.in serve.in ../pyproject.toml -o all.txt
grep -oE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)' all.txt | sort -u > torch-family
# shellcheck disable=SC2046 # one option per word is meant
compile dev.in serve.in ../pyproject.toml -c all.txt $(without torch-family) -o dev.txt
# shellcheck disable=SC2046
compile serve.in ../pyproject.toml -c all.txt $(without not-served.txt) -o serve.txt
python3 - <<'PY'
"""Split torch's own entries from its accelerator libraries. (torch-cpu.txt is kept by hand.)"""
import re
from pathlib import Path

entries = re.findall(r"^(?:torch|triton|nvidia-|cuda-).*?(?=^\S|\Z)", Path("all.txt").read_text(), re.M | re.S)
torch = [entry for entry in entries if entry.startswith("torch==")]
Path("torch.txt").write_text("".join(torch))
Path("torch-accelerator.txt").write_text("".join(entry for entry in entries if entry not in torch))
PY
rm all.txt torch-family
