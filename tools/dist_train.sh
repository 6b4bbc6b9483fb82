#!/usr/bin/env bash
# Train on several GPUs, or processes, of one or more machines.
#
# Example:
#   tools/dist_train.sh configs/maskrcnn_care_s1_coco.py 8 --amp
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG 8   # rank 1 on the other
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG GPUS [train.py's options]" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2

root=$(cd "$(dirname "$0")/.." && pwd)
# Where no environment is active, the one that `make setup` made.
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || PATH=$root/.venv/bin:$PATH
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

exec torchrun \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$gpus" \
    "$root/tools/train.py" "$config" --launcher pytorch "$@"
