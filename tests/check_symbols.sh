#!/usr/bin/env bash
# Inline functions of one name are merged by the linker: what a level compiles must carry the level's
# namespace, or AVX-512 code could run where there is none. Looks at the two highest levels: the lower ones
# are of the same sources but for few lines, and reach fewer processors that lack theirs.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
check() {
  local level=$1
  # All files of a level as one, for the time. Without optimisation nothing is inlined away, and every function shows.
  ls src/cpu/levels/*.cpp | grep -v /levels.cpp | sed 's/.*/#include "&"/' > "$build/$level.cpp"
  ${CXX:-g++} -std=c++17 -O0 -w -Wno-psabi -fno-exceptions -march=x86-64-$level -DPYSTN_LEVEL="$level" -I. -Isrc/core -Isrc/cpu -c "$build/$level.cpp" -o "$build/$level.o"
  if nm -C "$build/$level.o" | awk '$2 ~ /[WVu]/' | grep -v "pystn::$level::"; then
    echo "$level: weak symbols outside pystn::$level" >&2
    return 1
  fi
}
[ "$(uname -m)" = x86_64 ] || exit 0
export -f check
export build
printf '%s\n' v4 v3 | xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'check {}'
