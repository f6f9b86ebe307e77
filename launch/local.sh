#!/usr/bin/env bash
# Train with N ranks on this machine: launch/local.sh N name=NAME data=DIR [option=value ...]
set -euo pipefail

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh N name=NAME data=DIR [option=value ...]   (N: ranks, e.g. one per GPU)" >&2
    exit 2
fi
ranks=$1
shift

cd "$(dirname "$0")/.."
python=python
[[ -x .venv/bin/python ]] && python=.venv/bin/python
exec "$python" -m momentum_gpt.train launch.nproc_per_node="$ranks" "$@"
