#!/usr/bin/env bash
# Train with N ranks on this machine, from any folder:
#   launch/local.sh N name=NAME data=DIR [option=value ...]
set -euo pipefail

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh N name=NAME data=DIR [option=value ...]   (N: ranks, e.g. one per GPU)" >&2
    exit 2
fi
ranks=$1
shift

# The active environment's Python, or that of the clone which this script is in. The folder stays
# the caller's, so that relative paths mean what they say.
python=python
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z "${VIRTUAL_ENV:-}" && -x "$clone/.venv/bin/python" ]]; then
    python=$clone/.venv/bin/python
fi
exec "$python" -m momentum_gpt.train launch.nproc_per_node="$ranks" "$@"
