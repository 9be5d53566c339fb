#!/usr/bin/env bash
# Sets up .venv with microddsp and everything that its tests and examples need.
# A stamp keyed on what is to be installed makes the second run free.
# PYTHON names the interpreter to build on; without it the first of 3.11 or newer is taken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "microddsp: $1" >&2
    exit 1
}

tools/packages.sh firmware

key=$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
stamp=.venv/.installed-$key
if [ -f "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python=
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if new_enough "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is missing (tried: ${PYTHON:-python3.11 python3.12 python3.13 python3}); install it or set PYTHON"

if ! new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    # Debian ships Python without ensurepip until python3-venv is installed.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || tools/packages.sh venv
    "$python" -m venv .venv || fail "$python cannot make a virtual environment; install its venv package"
fi

echo "installing Python packages into .venv (several hundred megabytes the first time)"
.venv/bin/python -m pip install -qq --disable-pip-version-check \
    -c constraints.txt -e '.[dev,examples]' </dev/null ||
    fail "pip could not install the packages; the lines above say why"
# examples/rowing reads a recording out of gaitpy, whose own requirements are versions of 2017.
.venv/bin/python -m pip install -qq --disable-pip-version-check \
    -c constraints.txt --no-deps gaitpy </dev/null ||
    fail "pip could not install gaitpy; the lines above say why"
rm -f .venv/.installed-*
touch "$stamp"
