#!/usr/bin/env bash
# Run `crossformer train` or `crossformer test` in several processes: dist_train.sh and dist_test.sh call it.
set -euo pipefail
readonly COMMAND=$1 FILES=(${2//,/ }) # the words before the number of processes
shift 2
readonly PROCESSES=${*:${#FILES[@]}+1:1}
if [[ ! $PROCESSES =~ ^[1-9][0-9]*$ ]]; then
  echo "error: '$PROCESSES' is not a number of processes;" \
    "usage: tools/dist_$COMMAND.sh ${FILES[*]} PROCESSES [options of tools/$COMMAND.py]" >&2
  exit 2
fi

if [[ ${NNODES:-1} == 1 && -z ${PORT:-} ]]; then
  rendezvous=(--standalone --local_addr 127.0.0.1) # at a free port, so that runs do not collide
else
  rendezvous=(--nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun's own default, which it announces in five lines
exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node "$PROCESSES" \
  -m crossformer_mm_command "$COMMAND" "${@:1:${#FILES[@]}}" "${@:${#FILES[@]}+2}" --launcher pytorch
