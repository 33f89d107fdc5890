#!/usr/bin/env bash
# Packs a build with CUDA, the libraries that it needs beside glibc's and CUDA's own, and what gpu.sh measures with, into
# one archive for a GPU machine that has neither FFmpeg nor a network. There: tar xf OUT.tar.xz && benches/gpu.sh
#
# usage: benches/gpu_pack.sh BINARY OUT.tar.xz
set -euo pipefail
[ $# = 2 ] || { sed -n 's/^# //p' "$0"; exit 2; }
binary=$1 archive=$2 here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$work/libs" "$work/tests/golden" "$work/samples"
cp "$binary" "$work/vidense"; strip "$work/vidense"
cp -r "$here/tests/golden/checkpoints" "$work/tests/golden/"
cp "$here/samples/three_shapes.mp4" "$work/samples/"
mkdir "$work/benches"; cp "$here"/benches/gpu.sh "$here"/benches/gpu_peers.py "$work/benches/"

ldd "$binary" | awk '$3 ~ /^\// { print $1, $3 }' |
  grep -vE 'lib(c|m|pthread|dl|rt|gcc_s|stdc\+\+)\.so|ld-linux|lib(cublas|cublasLt|curand|cudart|nvrtc|cuda)\.so' |
  while read -r name path; do cp -L "$path" "$work/libs/$name"; done

# Encoders and renderers, which reading a video never calls, are large: libraries of the same functions, which do nothing,
# stand in for them.
symbols() { nm -D "$1" "$2" 2> /dev/null | awk '{ sub(/@.*/, "", $NF); print $NF }' | sort -u; }
for path in "$work"/libs/* "$binary"; do symbols --undefined-only "$path"; done | sort -u > "$work/wanted"
for prefix in libx265 librsvg-2 libSvtAv1Enc libcodec2 libicudata librav1e; do
  for path in "$work/libs/$prefix".so*; do
    [ -e "$path" ] || continue
    symbols --defined-only "$path" | comm -12 - "$work/wanted" |
      awk '/^icudt/ { print "void *" $1 "[4096] = {0};"; next } { print "void " $1 "(void) {}" }' |
      gcc -w -shared -fPIC -x c - -o "$path.new" -Wl,-soname,"$(basename "$path")"
    mv "$path.new" "$path"
  done
done
rm "$work/wanted"
tar -C "$work" -c vidense libs benches tests samples | xz -T0 -6 > "$archive"
ls -la "$archive"
