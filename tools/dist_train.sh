#!/usr/bin/env bash
# Train with several processes, one per GPU (without GPUs, they share the CPU):
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT, and call it on each of them.
exec "$(dirname "$0")/dist_run.sh" train CONFIG "$@"
