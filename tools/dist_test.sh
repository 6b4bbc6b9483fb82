#!/usr/bin/env bash
# Evaluate on several GPUs, or processes, of one or more machines.
#
# Example:
#   tools/dist_test.sh configs/maskrcnn_care_s1_coco.py work_dirs/maskrcnn_s1/epoch_12.pth 8
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG CHECKPOINT GPUS [test.py's options]" >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3

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
    "$root/tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
