#!/usr/bin/env bash
# Evaluate with several processes, one per GPU (without GPUs, they share the CPU):
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT, and call it on each of them.
exec "$(dirname "$0")/dist_run.sh" test CONFIG,CHECKPOINT "$@"
