#!/usr/bin/env bash
# Train with several processes, one a GPU (or a share of the CPU):
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT, and call it on each.
exec "${PYTHON:-python}" "$(dirname "$0")/dist_run.py" train "$@"
