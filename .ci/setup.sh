#!/bin/sh
# Makes sure the build finds FFmpeg's libraries, libclang (bindgen reads FFmpeg's headers with it) and
# the C tools. Installs through apt-get where it can, says what to install by hand where it cannot,
# and prints nothing when nothing is missing. Never installs Rust: that choice is the user's.
set -eu

debian_packages="ffmpeg libavcodec-dev libavformat-dev libavutil-dev libavfilter-dev libavdevice-dev \
libswscale-dev libswresample-dev libclang-dev clang pkg-config build-essential"
root=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "setup: $*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

# True when bindgen would find libclang: named by hand, next to a clang, or known to the loader.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    have clang && return 0
    have ldconfig && ldconfig -p 2>/dev/null | grep -q 'libclang[-.]' && return 0
    return 1
}

# Everything the build needs and does not find, one line.
missing_parts() {
    for tool in ffmpeg cc c++ pkg-config; do
        have "$tool" || printf '%s ' "$tool"
    done
    have_libclang || printf 'libclang '
    for library in libavcodec libavformat libavutil libswscale; do
        # Without pkg-config nothing can be said about the libraries: report them all.
        { have pkg-config && pkg-config --exists "$library"; } || printf '%s ' "$library"
    done
}

# `1.89` or `1.89.0` as one number, to compare; a suffix such as -nightly is dropped.
version_number() {
    echo "$1" | sed 's/-.*//' | awk -F. '{ print $1 * 1000000 + $2 * 1000 + $3 }'
}

check_cargo() {
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if ! have cargo; then
        say "cargo is missing; install Rust $wanted or newer from https://rustup.rs"
        return 1
    fi
    # A rustup shim without a toolchain is there, and fails.
    found=$(cargo --version 2>/dev/null | awk '{ print $2 }')
    if [ -z "$found" ]; then
        say "cargo does not run; \`rustup default stable\` gives it a toolchain (https://rustup.rs)"
        return 1
    fi
    if [ "$(version_number "$found")" -lt "$(version_number "$wanted")" ]; then
        say "cargo $found is too old, $wanted or newer is needed: \`rustup update stable\` (https://rustup.rs)"
        return 1
    fi
}

# Tells about cargo as well before stopping, so that one run names everything there is to do.
give_up() {
    check_cargo || :
    exit 1
}

by_hand() {
    say "install by hand, then run this again:"
    say "  Debian, Ubuntu: apt-get install $debian_packages"
    say "  Fedora:         dnf install ffmpeg-free ffmpeg-free-devel clang clang-devel pkgconf-pkg-config gcc gcc-c++"
    say "  Arch:           pacman -S --needed ffmpeg clang pkgconf base-devel"
    give_up
}

install_debian() {
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif have sudo; then
        as_root=sudo
    else
        say "neither root nor sudo here, so nothing can be installed"
        by_hand
    fi
    say "installing with ${as_root:+$as_root }apt-get, to link FFmpeg and read its headers:"
    say "  $debian_packages"
    # Words, not one string: $as_root may be empty and the packages are a list.
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || by_hand
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $debian_packages >&2 || by_hand
    left=$(missing_parts)
    if [ -n "$left" ]; then
        say "still missing after the installation: $left"
        by_hand
    fi
}

missing=$(missing_parts)
if [ -n "$missing" ]; then
    say "missing: $missing"
    if [ "$(uname -s)" = Darwin ]; then
        say "run: brew install ffmpeg pkg-config llvm (and xcode-select --install for the compiler)"
        give_up
    elif have apt-get; then
        install_debian
    else
        by_hand
    fi
fi
check_cargo
