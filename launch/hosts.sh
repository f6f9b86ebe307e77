#!/usr/bin/env bash
# Train on several hosts over ssh, from any folder that all of them share:
#   launch/hosts.sh HOSTFILE name=NAME data=DIR [option=value ...]
# HOSTFILE has a line "HOST slots=RANKS" for each host, as DeepSpeed's. Ctrl-C stops all hosts, after
# a checkpoint. RSH is another command than "ssh -tt", PYTHON another Python than this one.
set -euo pipefail

usage() {
    echo "usage: launch/hosts.sh HOSTFILE name=NAME data=DIR [option=value ...]" >&2
    echo "       HOSTFILE has a line 'HOST slots=RANKS' for each host, with equal RANKS" >&2
    exit 2
}
[[ -r ${1:-} ]] || usage
hosts=() slots=()
while read -r host count _; do
    [[ $host == '' || $host == \#* ]] && continue
    hosts+=("$host")
    slots+=("${count#slots=}")
done < "$1"
shift
[[ ${#hosts[@]} -gt 0 && $(printf '%s\n' "${slots[@]}" | sort -u) =~ ^[1-9][0-9]*$ ]] || usage

# Settings of the network go along; a key of W&B does not: log in on each host.
settings=(TERM=dumb PYTHONUNBUFFERED=1 TORCH_CPP_LOG_LEVEL=ERROR)
for setting in "${!NCCL_@}" "${!GLOO_@}" "${!OMP_@}"; do
    settings+=("$setting=${!setting}")
done

# A host that loses the connection waits for the others and goes on; see launch.wait_for_hosts.
clients=()
for number in "${!hosts[@]}"; do
    command=(env "${settings[@]}" "${PYTHON:-$(command -v python)}" -m momentum_gpt.train "$@"
        launch.nproc_per_node="${slots[0]}" launch.nnodes="${#hosts[@]}"
        launch.node_rank="$number" launch.master_addr="${hosts[0]}")
    # RSH is a command with its options.
    # shellcheck disable=SC2086
    ${RSH:-ssh -tt} "${hosts[number]}" "cd ${PWD@Q} && exec ${command[*]@Q}" < /dev/null &
    clients+=($!)
done

# ssh -tt gives a host SIGHUP when it ends here, which is a request to stop like any other.
asked=''
stop_all() { kill "${clients[@]}" 2> /dev/null || true; }
trap 'asked=yes; stop_all' INT TERM
code=0
left=${#hosts[@]}
while ((left > 0)); do
    status=0
    wait -n || status=$?
    [[ $asked && $status -gt 128 ]] && continue # the trap has ended the waiting
    left=$((left - 1))
    if [[ $status != 0 && $code == 0 ]]; then
        code=$status # the others follow from the first
        stop_all
    fi
done
exit "$code"
