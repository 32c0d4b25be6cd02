#!/bin/sh
# Installs what the build, the demonstration and the tests need, where it is missing: Debian and Ubuntu.
#
# With "all": what only the long tests run as well.
#
# Servers that come with the packages (nginx, redis) are not started: the tests run their own, in their own namespaces.
set -e

missing=
need() { # program package
    command -v "$1" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc
need make make
need python3 python3
# Tests run programs as other users too: a Python under somebody's home will not do.
[ -x /usr/bin/python3 ] || missing="$missing python3"
need curl curl
need wget wget
need wrk wrk
need ab apache2-utils
need nginx nginx-light
need redis-server redis-server
need redis-benchmark redis-tools
need haproxy haproxy
need socat socat
need iperf3 iperf3
need memcached memcached
need h2load nghttp2-client
need redis-cli redis-tools
need openssl openssl
need ip iproute2
need nft nftables
need ethtool ethtool
need sysctl procps
need tcpdump tcpdump
need setpriv util-linux
need setcap libcap2-bin
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
if [ "$1" = all ]; then
    need lighttpd lighttpd
    need apache2 apache2
    need gunicorn gunicorn
    need uvicorn "uvicorn python3-uvloop"
    need node nodejs
    need npm npm
    need javac default-jdk-headless
    need sshd openssh-server
    need ssh openssh-client
    need sockperf sockperf
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql postgresql-contrib"
fi
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
if [ -n "$missing" ]; then
    echo "installing:$missing"
    # Debian starts what it installs unless a policy forbids it. Ours is there for the time of the installation only.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
        $as_root chmod 755 $policy
        trap '$as_root rm -f $policy' EXIT
    fi
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
# CPython's own tests are a package that is named after the version.
tests_of_python() { /usr/bin/python3 -c "import test.test_socket" 2>/dev/null; }
if ! tests_of_python; then
    package=libpython$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')-testsuite
    echo "installing: $package"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
        echo "not to be had: $package (CPython's own tests will be skipped)"
fi
if [ "$1" = all ] && ! command -v autocannon >/dev/null 2>&1; then
    command -v npm >/dev/null 2>&1 && $as_root npm install --global --silent autocannon@8 >/dev/null ||
        echo "not to be had: autocannon, by npm (its test will be skipped)"
fi
# The oldest Rust that will do is said in Cargo.toml.
wanted=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' Cargo.toml)
PATH="$HOME/.cargo/bin:$PATH"
have=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
if [ "${have:-0}" -lt "$wanted" ] || ! command -v cargo >/dev/null 2>&1; then
    if ! command -v rustup >/dev/null 2>&1; then
        echo "Rust 1.$wanted or later is needed (rustc and cargo; see the site of the Rust project)" >&2
        exit 1
    fi
    echo "installing: Rust, by rustup"
    rustup toolchain install stable --profile minimal -c rustfmt -c clippy
fi
