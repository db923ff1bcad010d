#!/usr/bin/env bash
# Install mmcv for the python on the PATH, with operators that work with its torch:
# tools/install_mmcv.sh NAME==VERSION [OPTION_OF_PIP_INSTALL...]
#
# A working wheel is used if there is one: in MMCV_FIND_LINKS, where pip is configured to look, or from an earlier call
# in pip's cache. Otherwise mmcv is compiled. Compilers spend nearly all their time reading torch's headers for each
# of mmcv's eighty C++ files, so these are joined into one; pybind.cpp, which takes as long as all the others
# together, is compiled at the same time.
set -euo pipefail
readonly MMCV=$1 NAME=${1%==*} OPTIONS=("${@:2}")

main() {
  local wheels
  wheels=$(wheel_folder)
  mkdir -p "$wheels"
  install "$MMCV" --find-links "$wheels" ${MMCV_FIND_LINKS:+--find-links "$MMCV_FIND_LINKS"} 2>/dev/null &&
    works && return
  [[ -z ${MMCV_FIND_LINKS:-} ]] || say "no wheel of $MMCV in $MMCV_FIND_LINKS works with this torch: compiling one"
  export MAX_JOBS=${MAX_JOBS:-$(compilers_at_a_time)}
  if compile_joined "$wheels"; then
    install "$wheels"/*.whl
    works && return
  fi
  say "$MMCV does not work compiled as one file: compiling file by file, 8 to 27 minutes on two cores"
  # Not from pip's cache, which offers a wheel whichever torch it was compiled with.
  python -m pip wheel -qq --no-cache-dir --no-build-isolation --no-deps -w "$wheels" "$MMCV"
  install "$wheels"/*.whl
  works
}

say() { echo "setup: $*"; }

wheel_folder() { # in pip's cache, shared by all clones; the name lists everything that a compiled mmcv depends on
  local cache compiler python
  cache=$(python -m pip cache dir) || cache=$(mktemp -d)
  compiler=$(${CXX:-c++} --version)
  python=$(python -c 'import platform, sys, torch
print(torch.__version__, sys.implementation.cache_tag, platform.machine(),
      torch.cuda.get_device_capability() if torch.cuda.is_available() else "")')
  set -- "$MMCV torch $python ${compiler%%$'\n'*} ${FORCE_CUDA:-} ${TORCH_CUDA_ARCH_LIST:-}"
  echo "$cache/mmcv/${1//[^[:alnum:].=+-]/_}"
}

install() { # REQUIREMENT OPTION...: replaces an installed mmcv, which may be for another torch
  python -m pip uninstall -qq -y "$NAME"
  python -m pip install -qq --only-binary "$NAME" "${OPTIONS[@]}" "$@"
}

works() {
  python -c 'import torch, mmcv.ops
_, kept = mmcv.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), torch.ones(2), 0.5)
assert len(kept) == 1, "nms does not compute"'
}

compilers_at_a_time() { # as many as there are cores, and 2.5 GB of memory for each
  awk -v jobs="$(nproc)" '/^MemAvailable/ && $2 / 2.5e6 < jobs { jobs = int($2 / 2.5e6) }
    END { print jobs < 1 ? 1 : jobs }' /proc/meminfo
}

compile_joined() { # FOLDER: leave the wheel there
  local work
  work=$(mktemp -d)
  python -m pip download -qq --no-build-isolation --no-deps --no-binary "$NAME" -d "$work" "$MMCV" || exit
  mkdir "$work/source" &&
    tar -xzf "$work"/*.tar.gz --strip-components 1 -C "$work/source" &&
    (cd "$work/source/mmcv/ops/csrc/pytorch" && join) &&
    CFLAGS="${CFLAGS:-} -g0" python -m pip wheel -qq --no-build-isolation --no-deps -w "$1" "$work/source" &&
    rm -rf "$work"
}

join() { # all files that setup.py compiles without a GPU; those for GPUs have other suffixes or folders
  local file name opens_std='^using namespace std'
  local same='add|PreCalc|pre_calc_for_bilinear_interpolate|bilinear_interpolate(_gradient)?'
  mv pybind.cpp pybind || return
  # The file with "using namespace std" comes last: after it, cos(x) would be std's, which rounds differently.
  # Several files have functions of the same names, and psamask.cpp has two macros.
  for file in $(grep -L "$opens_std" *.cpp cpu/*.cpp) $(grep -l "$opens_std" *.cpp cpu/*.cpp); do
    name=$(basename "$file" .cpp)
    sed -E "s/\<($same)\>/${name}_\1/g" "$file" && printf '#undef min\n#undef max\n' || return
  done >joined
  rm ./*.cpp cpu/*.cpp
  mv joined joined.cpp
  mv pybind pybind.cpp
}

main
