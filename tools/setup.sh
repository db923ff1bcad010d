#!/usr/bin/env bash
# Set up the virtual environment that every `make` target runs in: the pinned stack of requirements/, mmcv with
# its operators compiled once, and this project, editable.
#
# Environment variables: STACK, the family of the stack: onedl (the default, in .venv) or openmmlab (in
# .venv-openmmlab); PYTHON, the interpreter of the virtual environment; TORCH, a version of torch other than the
# pinned one; and those of tools/install_mmcv.sh.
#
# A step that succeeds leaves a stamp with the checksum of the files it depends on. A second call therefore takes no
# time, and a call after a failure continues with the step that failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME # packages from other places would shadow the pinned ones

main() {
  STACK=${STACK:-onedl}
  case $STACK in
    onedl) VENV=.venv ;;
    openmmlab) VENV=.venv-openmmlab ;;
    *) die "STACK=$STACK is unknown: use onedl or openmmlab" ;;
  esac
  readonly STACK VENV STATE=$VENV/.setup FAMILY=requirements/$STACK.txt
  exec 9>"$VENV.lock" # shared with the pip that a killed set-up may have left running
  flock -n 9 || { say "waiting for another set-up of $VENV" && flock 9; }
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
  suitable "$VENV/bin/python" || die "$VENV has $(version_of "$VENV/bin/python"), not 3.10 to 3.14: remove $VENV"
  choose_torch
  export PATH=$PWD/$VENV/bin:$PATH # for ninja, without which torch compiles one file after the other
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
  chain="$STACK $PWD" # a clone that was moved has to be installed again
  step torch 'torch and the build tools' "$STATE/build.txt"
  step mmcv 'mmcv (from a wheel, or compiled)' "$FAMILY" tools/install_mmcv.sh
  step toolboxes 'the toolboxes' requirements/common.txt requirements/test.txt
  step project 'the project' setup.py pyproject.toml crossformer_mm/version.py
  [[ -z ${installed-} ]] || say "all done in $(minutes $SECONDS)"
}

say() { echo "setup: $*"; }
die() { say "$*" >&2 && exit 1; }
minutes() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }
version_of() { "$1" --version 2>/dev/null || echo 'no Python'; }
suitable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }

make_venv() { # after every check that can fail before anything is downloaded
  local candidates=${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python3.14} python include free
  for python in $candidates none; do
    ! suitable "$python" || break
  done
  [[ $python != none ]] || die "no Python 3.10 to 3.14 (${candidates%% *} is $(version_of "${candidates%% *}")):" \
    "install one (Debian/Ubuntu: apt-get install python3 python3-venv python3-dev) or name one in PYTHON"
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  # shellcheck disable=SC2086 # CXX may hold options or a launcher, such as "ccache g++"
  printf '#include <filesystem>\n#include <Python.h>\n' |
    ${CXX:-c++} -std=c++17 -shared -fPIC "-I$include" -o "$VENV.check" -x c++ - 2>/dev/null ||
    die "${CXX:-c++} does not compile C++17 with the headers of $python: install them (Debian/Ubuntu: apt-get" \
      "install build-essential python3-dev) or name another compiler in CXX"
  rm -f "$VENV.check"
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 2 ^ 20) }') # a CPU build takes 2 GB, a CUDA build with its download 8
  ((free >= 8)) || die "$free GB free in $PWD, 8 are needed: free some or clone to another disk"
  say "making $VENV with $(version_of "$python")"
  rm -rf "$VENV"
  "$python" -m venv "$VENV" || die "$python cannot make a virtual environment (Debian/Ubuntu: apt-get install python3-venv)"
}

choose_torch() { # the one in TORCH, or of an earlier call, or the pinned one
  TORCH=${TORCH:-$(cat "$STATE/version" 2>/dev/null || true)}
  [[ -z $TORCH || $TORCH =~ ^[0-9]+\.[0-9a-z.+]+$ ]] || die "TORCH=$TORCH is not a version: use one such as 2.12.0"
  mkdir -p "$STATE"
  sed "${TORCH:+s/^torch==.*/torch==$TORCH/}" requirements/build.txt >"$STATE/build.txt"
}

step() { # NAME DESCRIPTION FILE...: call install_NAME unless it succeeded with these files and earlier steps
  local name=$1 description=$2 started=$SECONDS
  chain=$({ echo "$chain $name" && cat "${@:3}"; } | sha256sum)
  [[ ! -f $STATE/$name || $(<"$STATE/$name") != "$chain" ]] || return 0
  rm -f "$STATE/$name"
  say "installing $description ..."
  trap "say 'installing $description failed; call again to continue from here' >&2" EXIT
  "install_$name"
  trap - EXIT
  say "installed $description in $(minutes $((SECONDS - started)))"
  installed=yes
  echo "$chain" >"$STATE/$name"
}

install_torch() {
  python -m pip install -qq -r "$STATE/build.txt"
  echo "$TORCH" >"$STATE/version"
}

install_mmcv() {
  tools/install_mmcv.sh "$(grep -E '^(onedl-)?mmcv==' "$FAMILY")" \
    -c "$STATE/build.txt" -c requirements/common.txt -c "$FAMILY"
}

install_toolboxes() {
  python -m pip install -qq --no-build-isolation -c "$STATE/build.txt" -r "$FAMILY" -r requirements/common.txt \
    -r requirements/test.txt
}

install_project() {
  python -m pip install -qq --no-deps --no-build-isolation -e .
  python -c 'import cv2, mmcv._ext, mmdet, mmengine, mmpretrain, mmseg, pycocotools.mask'
}

main
