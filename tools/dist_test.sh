#!/usr/bin/env bash
# Evaluate with several processes, one a GPU (or a share of the CPU):
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT, and call it on each.
set -euo pipefail

config=$1
checkpoint=$2
processes=$3
shift 3
set -- "$config" "$checkpoint" "$@"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node_rank "${NODE_RANK:-0}" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" \
    --master_port "${PORT:-29500}" \
    --nproc_per_node "$processes" \
    "$(dirname "$0")/test.py" "$@" --launcher pytorch
