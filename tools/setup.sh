#!/usr/bin/env bash
# Set up the virtual environment that every `make` target runs in: the pinned stack of requirements/,
# mmcv's operators compiled once, and this project, editable.
#
# From the environment: STACK, the family of the stack, onedl (the default, into .venv) or openmmlab
# (into .venv-openmmlab); PYTHON, the interpreter to make the virtual environment with; TORCH, a version of
# torch instead of the pinned one; and what tools/install_mmcv.sh reads.
#
# Every step leaves a stamp made of what it depends on, after it has succeeded. So a second call takes no
# time, and a failed or interrupted set-up goes on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME # packages from elsewhere would hide or replace the pinned ones

readonly STACK=${STACK:-onedl}
case $STACK in
  onedl) VENV=.venv other_family='mmcv mmcv_full mmcv_lite mmengine mmengine_lite mmdet mmsegmentation' ;;
  openmmlab) VENV=.venv-openmmlab other_family='onedl_mmcv onedl_mmengine onedl_mmdetection onedl_mmsegmentation' ;;
  *) echo "setup: STACK=$STACK is unknown: use onedl or openmmlab" >&2 && exit 1 ;;
esac
readonly VENV other_family
readonly STATE=$VENV/.setup             # the stamps, the log, and the build folder
readonly NEEDED_KB=$((8 * 1024 * 1024)) # torch's CUDA build takes 5 GB and its download 3; a CPU build 2
readonly FAMILY=requirements/$STACK.txt
readonly BUILD=$STATE/torch.txt # requirements/build.txt with the torch that was asked for

main() {
  lock
  refuse_other_family
  prepare_venv
  choose_torch
  export PATH=$PWD/$VENV/bin:$PATH # for ninja, without which torch compiles one file after the other
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
  chain="$STACK $PWD" # a clone that was moved has to be installed again
  step build 'Installing torch and what compiling needs' install_build "$BUILD"
  step operators 'Installing mmcv, compiled here unless there is a wheel of it' install_operators "$FAMILY"
  step toolboxes 'Installing the toolboxes' install_toolboxes requirements/common.txt requirements/test.txt
  step project 'Installing the project, editable' install_project setup.py pyproject.toml crossformer_mm/version.py
  step imports 'Importing all of it once' import_stack
  [[ -z ${worked-} ]] || say "all done in $(minutes $SECONDS)"
}

# ---- what is said ----------------------------------------------------------------------------------

die() {
  echo "setup: $*" >&2
  exit 1
}

say() { echo "setup: $*"; }

minutes() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# ---- checks before anything is downloaded ----------------------------------------------------------

python_is_suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

version_of() { "$1" --version 2>/dev/null || echo 'no Python'; }

find_python() { # the machine's own first, then those with wheels for everything, newest first
  local candidates=${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python3.14} candidate
  for candidate in $candidates; do
    if python_is_suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  die "no Python 3.10 to 3.14 (${candidates%% *} is $(version_of "${candidates%% *}")): install one" \
    "(Debian/Ubuntu: apt-get install python3 python3-venv python3-dev) or name one: PYTHON=/path/to/python3 make setup"
}

check_venv_module() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$1 cannot make virtual environments: install its venv module" \
      "(Debian/Ubuntu: apt-get install $(debian_name "$1")-venv)"
}

debian_name() { "$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'; }

check_compiler_and_disk() { # the compiler that torch will call: $CXX, or c++
  local cxx=${CXX:-c++} include free_kb
  command -v "${cxx%% *}" >/dev/null ||
    die "no C++ compiler ($cxx): install one (Debian/Ubuntu: apt-get install build-essential) or name one in CXX"
  compiles "#include <filesystem>" ||
    die "$cxx does not compile C++17: install a newer compiler (Debian/Ubuntu: apt-get install build-essential)"
  include=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  compiles "#include <Python.h>" "-I$include" ||
    die "no Python.h in $include: install Python's headers (Debian/Ubuntu: apt-get install $(debian_name "$1")-dev)"
  free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
  ((free_kb >= NEEDED_KB)) ||
    die "$((free_kb / 1024)) MB free in $PWD, this needs $((NEEDED_KB / 1024)): free some or clone to another disk"
}

compiles() { # SOURCE OPTION...: into a library, so that a missing assembler or linker shows too
  local status=0
  # shellcheck disable=SC2086 # CXX may hold options or a launcher, such as "ccache g++"
  echo "$1" | ${CXX:-c++} -std=c++17 -shared -fPIC "${@:2}" -o "$VENV.check" -x c++ - 2>/dev/null || status=$?
  rm -f "$VENV.check"
  return $status
}

refuse_other_family() { # both write mmcv/, mmengine/, mmdet/ and mmseg/: each would overwrite half of the other
  local name
  for name in $other_family; do
    if compgen -G "$VENV/lib/python*/site-packages/$name-*.dist-info" >/dev/null; then
      die "$VENV already holds $name, which must not be beside the $STACK family: remove $VENV and call again"
    fi
  done
}

# ---- the steps -------------------------------------------------------------------------------------

lock() { # held by whatever this starts, too: the pip of a set-up that was killed may still be at work
  exec 9>"$VENV.lock"
  flock -n 9 && return
  until say "waiting for another set-up of $VENV" && flock -w 30 9; do :; done
}

venv_works() { # false for a half-made one, and for one whose Python has left the machine
  [[ -x $VENV/bin/python ]] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1
}

prepare_venv() { # with every check that can fail before anything is downloaded
  local python=$VENV/bin/python
  if venv_works; then
    python_is_suitable "$python" ||
      die "$VENV was made with $(version_of "$python"), this needs 3.10 to 3.14: remove $VENV and call again"
    [[ -f $STATE/operators ]] || check_compiler_and_disk "$python"
  else
    python=$(find_python)
    check_venv_module "$python"
    check_compiler_and_disk "$python"
    make_venv "$python"
  fi
}

make_venv() {
  [[ ! -e $VENV ]] || say "$VENV has no working pip: making it anew"
  rm -rf "$VENV"
  say "Making $VENV with $(version_of "$1")"
  "$1" -m venv "$VENV"
}

choose_torch() { # the one in TORCH, or that was installed so in an earlier call, or the pinned one
  TORCH=${TORCH:-$(cat "$STATE/TORCH" 2>/dev/null || true)}
  [[ -z $TORCH || $TORCH =~ ^[0-9]+\.[0-9a-z.+]+$ ]] || die "TORCH=$TORCH is no version: use one such as 2.12.0"
  mkdir -p "$STATE"
  sed "${TORCH:+s/^torch==.*/torch==$TORCH/}" requirements/build.txt >"$BUILD"
}

step() { # NAME MESSAGE COMMAND FILE...: run COMMAND unless it was done already with these files and steps
  local name=$1 message=$2 command=$3
  shift 3
  chain=$({ echo "$chain $name" && cat /dev/null "$@"; } | sha256sum)
  [[ ! -f $STATE/$name || $(<"$STATE/$name") != "$chain" ]] || return 0
  rm -f "$STATE/$name"
  watch_over "$message" "$command"
  worked=yes
  echo "$chain" >"$STATE/$name"
}

watch_over() { # MESSAGE COMMAND: run COMMAND with its output in the log, and show that it is alive
  local started=$SECONDS job log=$STATE/log next=15
  rm -rf "$STATE"/build.* || true # the compilers of a killed set-up may still be writing there
  TMPDIR=$PWD/$(mktemp -d "$STATE/build.XXXXXX")
  export TMPDIR
  say "$1 ..."
  set -m # a process group of its own, so that an interrupt reaches all of it
  "$2" 3>&1 >"$log" 2>&1 &
  job=$!
  set +m
  trap 'kill -- -$job 2>/dev/null; exit 130' INT TERM HUP PIPE
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.1
    ((SECONDS - started >= next)) || continue
    say "  $(minutes $((SECONDS - started)))  $(tail -n 1 "$log" | cut -c 1-90)"
    next=$((next + 15))
  done
  wait "$job" || fail "$1" "$log"
  trap - INT TERM HUP PIPE
  rm -rf "$TMPDIR"
  say "$1: done in $(minutes $((SECONDS - started)))"
}

fail() { # MESSAGE LOG
  tail -n 15 "$2" >&2
  die "$1: failed; the whole output is in $2. Call again to go on from here"
}

install_build() {
  python -m pip install -r "$BUILD"
  echo "$TORCH" >"$STATE/TORCH"
}

install_operators() {
  tools/install_mmcv.sh "$(grep -E '^(onedl-)?mmcv==' "$FAMILY")" -c "$BUILD" -c requirements/common.txt -c "$FAMILY"
}

install_toolboxes() {
  python -m pip install --no-build-isolation -c "$BUILD" -r "$FAMILY" -r requirements/common.txt \
    -r requirements/test.txt
}

install_project() { python -m pip install --no-deps --no-build-isolation -e .; }

import_stack() { python -c 'import cv2, mmcv._ext, mmdet, mmengine, mmseg, pycocotools.mask'; }

main
