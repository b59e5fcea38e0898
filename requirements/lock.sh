#!/usr/bin/env bash
# Make the lock files anew: `just lock`, or `just lock --upgrade` to take newer versions of all. They name versions
# and hashes, and no index. Each is complete, so pip refuses a set whose members do not agree; but serve.txt leaves out
# what libraries declare and serving never imports (not-served.txt): 27 packages, a third of the installation, and code
# that a gateway should not carry.
#
# torch stands apart from dev.txt, since it comes in two builds: torch-cpu.txt, kept by hand, and torch.txt, with the
# accelerator libraries that the usual build does not start without.
set -euo pipefail
cd "$(dirname "$0")"

compile() { uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }

for name in just load integrations litellm; do compile "$@" $name.in -o $name.txt; done
# One resolution for all, so that what is tested is what is served.
all=$(mktemp --suffix=.txt)
trap 'rm -f "$all"' EXIT
cat dev.txt torch.txt >"$all"
compile "$@" dev.in serve.in ../pyproject.toml -o "$all"
# shellcheck disable=SC2046 # one option per word is meant
compile serve.in ../pyproject.toml -c "$all" $(sed 's/^/--no-emit-package=/' not-served.txt) -o serve.txt
# Beside Ray stands a router of the versions that are served.
compile "$@" ray.in serve.in ../pyproject.toml -c serve.txt -o ray.txt
# An entry goes on over the lines that are indented.
family='^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)=='
awk -v family="$family" '/^[^ ]/ { theirs = $0 ~ family } theirs' "$all" >torch.txt
awk -v family="$family" '/^[^ ]/ { theirs = $0 ~ family } !theirs' "$all" >dev.txt
