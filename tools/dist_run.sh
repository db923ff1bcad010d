#!/usr/bin/env bash
# Run `crossformer train` or `crossformer test` in several processes: dist_train.sh and dist_test.sh call it.
set -euo pipefail
readonly COMMAND=$1 FILES=(${2//,/ }) # the words before the number of processes
shift 2
readonly PROCESSES=${*:${#FILES[@]}+1:1}

die() { # STATUS MESSAGE
  echo "error: $2" >&2
  exit "$1"
}
number() { # VARIABLE LEAST MOST
  [[ ${!1} =~ ^(0|[1-9][0-9]{0,5})$ ]] && ((${!1} >= $2 && ${!1} <= $3)) ||
    die 1 "$1=${!1}: must be an integer from $2 to $3"
}

[[ $PROCESSES =~ ^[1-9][0-9]{0,2}$ ]] ||
  die 2 "'$PROCESSES' is not a number of processes;`
    ` usage: tools/dist_$COMMAND.sh ${FILES[*]} PROCESSES [options of tools/$COMMAND.py]"
PYTHON=${PYTHON:-python}
type -P "$PYTHON" >/dev/null || die 1 "$PYTHON: no such program; activate the environment, or name one in PYTHON"

if [[ ${NNODES:-1} == 1 && -z ${PORT:-} ]]; then
  rendezvous=(--standalone --local_addr 127.0.0.1) # at a free port, so that runs do not collide
else
  NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0} MASTER_ADDR=${MASTER_ADDR:-127.0.0.1} PORT=${PORT:-29500}
  number NNODES 1 9999
  number NODE_RANK 0 $((NNODES - 1))
  number PORT 1024 65535
  getent ahosts "$MASTER_ADDR" >/dev/null || die 1 "MASTER_ADDR=$MASTER_ADDR: no such host"
  if ((NODE_RANK == 0)) && (: <"/dev/tcp/$MASTER_ADDR/$PORT") 2>/dev/null; then
    die 1 "PORT=$PORT is in use on $MASTER_ADDR; choose another one, the same on all machines"
  fi
  rendezvous=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$PORT")
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun's own default, which it announces in five lines
export CROSSFORMER_LAUNCHER_PID=$$                   # exec keeps it; the processes end when it ends
# After --, our options are not taken for its own: --log could be its --log-dir.
exec "$PYTHON" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node "$PROCESSES" \
  -m -- crossformer_mm_command "$COMMAND" "${@:1:${#FILES[@]}}" "${@:${#FILES[@]}+2}" --launcher pytorch
