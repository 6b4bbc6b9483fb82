#!/usr/bin/env bash
# Evaluate on several GPUs, or in several CPU processes, on one or more machines.
#
# Example:
#   tools/dist_test.sh configs/maskrcnn_care_s1_coco.py work_dirs/maskrcnn_s1/epoch_12.pth 8
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG CHECKPOINT GPUS [test.py's options]" >&2
    exit 2
fi
source "$(dirname "$0")/launch.sh"
launch "$3" test.py "$1" "$2" "${@:4}"
