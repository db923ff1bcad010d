#!/usr/bin/env bash
# Train with several processes, one a GPU (or a share of the CPU):
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT, and call it on each.
set -euo pipefail

config=$1
processes=$2
shift 2
set -- "$config" "$@"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node_rank "${NODE_RANK:-0}" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" \
    --master_port "${PORT:-29500}" \
    --nproc_per_node "$processes" \
    "$(dirname "$0")/train.py" "$@" --launcher pytorch
