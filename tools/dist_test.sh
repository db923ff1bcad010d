#!/usr/bin/env bash
# Evaluate with several processes, one a GPU (or a share of the CPU):
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT, and call it on each.
exec "${PYTHON:-python}" "$(dirname "$0")/dist_run.py" test "$@"
