#!/bin/sh
# Installs what the build, the demonstration and the tests need, where it is missing: Debian and Ubuntu.
set -e

missing=
need() { # program package
    command -v "$1" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc
need python3 python3
need curl curl
need wrk wrk
need ip iproute2
need nft nftables
need ethtool ethtool
need setpriv util-linux
need setcap libcap2-bin
if [ -n "$missing" ]; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    echo "installing:$missing"
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing libc6-dev >/dev/null
fi
# The oldest Rust that will do is said in Cargo.toml.
wanted=$(sed -n 's/^rust-version = "1\.\(.*\)"/\1/p' Cargo.toml)
PATH="$HOME/.cargo/bin:$PATH"
have=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
if [ "${have:-0}" -lt "$wanted" ] || ! command -v cargo >/dev/null 2>&1; then
    echo "installing: Rust, by rustup into $HOME/.cargo"
    curl -sSf --proto '=https' https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c rustfmt -c clippy
fi
