#!/usr/bin/env bash
# Train with N ranks on this machine, from any folder:
#   launch/local.sh N name=NAME data=DIR [option=value ...]
set -euo pipefail

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh N name=NAME data=DIR [option=value ...]" >&2
    echo "       N is the number of ranks, such as the number of GPUs" >&2
    exit 2
fi
ranks=$1
shift

# The Python of the active environment, or else that of the clone that holds this script. The
# current folder stays what it is, so that relative paths mean what they say.
clone=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
python=python
if [[ -z "${VIRTUAL_ENV:-}" && -x "$clone/.venv/bin/python" ]]; then
    python=$clone/.venv/bin/python
fi
if ! command -v "$python" > /dev/null; then
    echo "error: there is no Python: run 'make setup' in $clone" >&2
    exit 2
fi
exec "$python" -m momentum_gpt.train launch.nproc_per_node="$ranks" "$@"
