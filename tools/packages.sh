#!/usr/bin/env bash
# Makes sure that the tools outside Python are there, and installs the Debian packages of those
# that are not. Does nothing, and needs no rights, where all is present.
# usage: tools/packages.sh [analysis] [firmware] [make] [peers] [sounds] [venv]   (default: firmware)
set -euo pipefail

fail() {
    echo "microddsp: $1" >&2
    exit 1
}

have_newlib() {
    local libc
    libc=$(arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -print-file-name=libc.a 2>/dev/null) || return 1
    [ -f "$libc" ]
}

packages=()
need() { # need PACKAGE CHECK...: asks for PACKAGE unless CHECK succeeds
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}

for what in "${@:-firmware}"; do
    case "$what" in
        analysis) need cppcheck command -v cppcheck ;;
        firmware)
            need qemu-system-arm command -v qemu-system-arm
            need gcc-arm-none-eabi command -v arm-none-eabi-gcc
            need libnewlib-arm-none-eabi have_newlib
            need gcc command -v gcc
            need libc6-dev test -f /usr/include/stdio.h
            need make command -v make
            ;;
        make) need make command -v make ;;
        peers) need faust command -v faust ;;
        sounds) need sonic-pi-samples test -f /usr/share/sonic-pi/samples/elec_pop.flac ;;
        venv) packages+=(python3-venv) ;;
        *) fail "tools/packages.sh does not know '$what'" ;;
    esac
done
[ ${#packages[@]} -gt 0 ] || exit 0

missing="missing: ${packages[*]}"
command -v apt-get >/dev/null || fail "$missing; this is no Debian, install them with your own package manager"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "$missing; no root rights and no sudo, ask for: apt-get install ${packages[*]}"
    as_root=(sudo -n)
    if ! sudo -n true 2>/dev/null; then
        [ -t 0 ] || fail "$missing; sudo wants a password, run: sudo apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
fi

echo "installing Debian packages: ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >"$log" 2>&1 </dev/null
}
# Package lists that are a little old usually still do; they are renewed only when they do not.
if ! apt install -y --no-install-recommends "${packages[@]}"; then
    apt update || { tail -n 5 "$log" >&2; fail "apt-get update failed, so these are still missing: ${packages[*]}"; }
    apt install -y --no-install-recommends "${packages[@]}" ||
        { tail -n 5 "$log" >&2; fail "apt-get could not install: ${packages[*]}"; }
fi
