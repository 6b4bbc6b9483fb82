# Sourced by the launchers: $root, the environment, and torchrun with the variables it is given.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where no environment is active, the one that `make setup` made.
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || PATH=$root/.venv/bin:$PATH
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# launch PROCESSES TOOL ARGUMENTS...
launch() {
    exec torchrun \
        --nnodes="${NNODES:-1}" \
        --node-rank="${NODE_RANK:-0}" \
        --master-addr="${MASTER_ADDR:-127.0.0.1}" \
        --master-port="${PORT:-29500}" \
        --nproc-per-node="$1" \
        "$root/tools/$2" --launcher pytorch "${@:3}"
}
