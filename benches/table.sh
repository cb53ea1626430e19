#!/usr/bin/env bash
# Writes the table of README.md ("Speed"): reseal, a plain UPDATE, the script that a skilled operator would write, and
# pgcrypto, all measured in one run. Takes some minutes; the machine should do nothing else meanwhile.
#
#   benches/table.sh [--rows N] [--rounds N]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=target/bench-venv
if [[ ! -x $venv/bin/python ]]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'psycopg[binary]==3.*' cryptography
fi
measured=$(cargo bench --bench rekey -- --only-postgres --peers "$PWD/$venv/bin/python" "$@")
table=$(grep '^|' <<<"$measured")

begin='<!-- written by benches/table.sh -->' end='<!-- until here -->'
grep -qxF "$begin" README.md && grep -qxF "$end" README.md || {
    echo "table.sh: README.md has no place for the table" >&2
    exit 1
}
awk -v begin="$begin" -v end="$end" -v table="$table" '
    $0 == end { inside = 0 }
    !inside
    $0 == begin { inside = 1; print "\n" table "\n" }
' README.md >README.md.new
mv README.md.new README.md
printf '%s\n' "$measured"
