#!/usr/bin/env bash
# Train on several GPUs, or in several CPU processes, on one or more machines.
#
# Example:
#   tools/dist_train.sh configs/maskrcnn_care_s1_coco.py 8 --amp
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG 8   # NODE_RANK=1 on the other
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG GPUS [train.py's options]" >&2
    exit 2
fi
source "$(dirname "$0")/launch.sh"
launch "$2" train.py "$1" "${@:3}"
