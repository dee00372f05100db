#!/usr/bin/env bash
# Inline functions of one name are merged by the linker: what a level compiles must carry the level's
# namespace, or AVX-512 code could run where there is none. Looks at the objects of a fresh build.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
check() {
  local level=$1 source=$2 flags=-march=x86-64-$1
  local object=$build/$level-$(basename "$source").o
  [ "$level" = portable ] && flags=
  # Without optimisation nothing is inlined away, and every function shows.
  ${CXX:-g++} -std=c++17 -O0 -w -Wno-psabi -fno-exceptions $flags -DPYSTN_LEVEL="$level" -Isrc/core -Isrc/cpu -c "$source" -o "$object"
  if nm -C "$object" | awk '$2 ~ /[WVu]/' | grep -v "pystn::$level::"; then
    echo "$level: weak symbols outside pystn::$level in $source" >&2
    return 1
  fi
}
levels=portable
[ "$(uname -m)" = x86_64 ] && levels="portable v2 v3 v4"
export -f check
export build
for level in $levels; do
  for source in src/cpu/levels/*.cpp; do
    [ "$source" = src/cpu/levels/levels.cpp ] || echo "$level $source"
  done
done | xargs -P "$(nproc)" -L 1 bash -euo pipefail -c 'check "$@"' check
