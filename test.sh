#!/usr/bin/env bash
# Every check, on any Debian (12 or later) that has cargo: installs what the tests need and the machine lacks, then
# formats, lints and tests. Needs root or sudo only to install, and the network only when something is missing.
#
#   ./test.sh            everything
#   ./test.sh NAME…      only the tests whose path contains a NAME
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    printf 'test.sh: %s\n' "$*" >&2
    exit 1
}

run() {
    printf '==> %s\n' "$*" >&2
    "$@" </dev/null || fail "failed: $*"
}

has() { command -v "$1" >/dev/null; }

# PostgreSQL 15 or later, which Debian keeps out of PATH.
has_postgres() {
    local server
    for server in /usr/lib/postgresql/*/bin/postgres "$(command -v postgres)"; do
        [[ -x $server && $("$server" --version) =~ \)\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= 15)) && return
    done
    return 1
}

has_venv() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

# Debian starts a daemon as soon as its package is configured, and again at every boot. The tests start their own, so
# the policy file says no while we install, and what we installed is disabled.
install_packages() {
    has apt-get || fail "please install: $* (only Debian is done automatically)"
    ((EUID == 0)) || has sudo || fail "please install as root: apt-get install $*"

    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap "as_root rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    printf '==> apt-get install %s\n' "$*" >&2
    apt_get install --no-install-recommends "$@" </dev/null || {
        run apt_get update
        run apt_get install --no-install-recommends "$@"
    }
    local service
    for service in postgresql pgbouncer redis-server; do
        if [[ " $* " == *" $service "* ]] && has systemctl; then
            as_root systemctl --quiet disable "$service" || fail "could not disable $service at boot"
        fi
    done
}

has cargo || fail "please install Rust first: https://rustup.rs"
has cargo-fmt && has cargo-clippy || fail "please run: rustup component add rustfmt clippy"

missing=()
has cc || missing+=(gcc libc6-dev)
has openssl || missing+=(openssl)
has_postgres || missing+=(postgresql)
has pgbouncer || [[ -x /usr/sbin/pgbouncer ]] || missing+=(pgbouncer)
has redis-server || missing+=(redis-server)
has_venv || missing+=(python3 python3-venv)
((${#missing[@]} == 0)) || install_packages "${missing[@]}"
has_postgres || fail "the tests need PostgreSQL 15 or later, and this Debian has only an older one"

# The copy of the list inside the environment is written last: an interrupted installation is started over.
venv=target/test-venv
wanted=tests/support/requirements.txt
if ! cmp -s "$wanted" "$venv/requirements.txt"; then
    run python3 -m venv --clear "$venv"
    run "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    run cp "$wanted" "$venv/requirements.txt"
fi

# The release profile throughout, so that every dependency is built once. Our own crate takes the compiler longer to
# optimise than the tests take to run, so for them it is not, and is compiled in pieces side by side.
reseal=profile.release.package.reseal
tested=(--config "$reseal.opt-level=0" --config "$reseal.codegen-units=16")
run cargo fmt --check
run cargo clippy --release --locked "${tested[@]}" --all-targets -- -D warnings
# Most tests wait for servers most of the time: three times as many at once as a small machine has cores.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-6}
run cargo test --release --locked "${tested[@]}" -- "$@"
