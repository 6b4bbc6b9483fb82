# Sourced by the launch scripts: sets $root and the environment, and defines launch().

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Without an active environment, use the one that `make setup` created.
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || PATH=$root/.venv/bin:$PATH
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# launch PROCESSES TOOL ARGUMENTS... runs a tool in several processes with torchrun.
launch() {
    exec torchrun \
        --nnodes="${NNODES:-1}" \
        --node-rank="${NODE_RANK:-0}" \
        --master-addr="${MASTER_ADDR:-127.0.0.1}" \
        --master-port="${PORT:-29500}" \
        --nproc-per-node="$1" \
        "$root/tools/$2" --launcher pytorch "${@:3}"
}
