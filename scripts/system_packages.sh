#!/usr/bin/env bash
# Installs the system packages that the tests need and that pip cannot bring; does nothing where they are there already.
set -euo pipefail

# package, and a program or a file of it by which it is recognised
NEEDED="
openssh-server  sshd
openssh-client  ssh-keygen
qemu-user       qemu-aarch64
chromium        chromium
gcc             gcc
clang           clang
qemu-system-arm qemu-system-arm
gcc-arm-none-eabi        arm-none-eabi-gcc
libnewlib-arm-none-eabi  /usr/lib/arm-none-eabi/newlib/libc.a
gcc-aarch64-linux-gnu    aarch64-linux-gnu-gcc
libc6-dev-arm64-cross    /usr/aarch64-linux-gnu/lib/libc.so.6
"

PATH=$PATH:/usr/sbin:/sbin
missing=$(while read -r package program; do
  [ -z "$package" ] || command -v "$program" >/dev/null || [ -e "$program" ] || echo "$package"
done <<<"$NEEDED")
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2206 - one word is one package
missing=($missing)

if ! command -v apt-get >/dev/null; then
  echo "the tests need ${missing[*]}: install them with this system's package manager, then run this again" >&2
  exit 2
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
    echo "the tests need ${missing[*]}, and installing them needs root: sudo apt-get install ${missing[*]}" >&2
    exit 2
  fi
  as_root=(sudo -n)
fi

echo "installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A Debian package may start its service: ours are started by the tests alone, on loopback.
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q=2 -y --no-install-recommends install)
"${install[@]}" "${missing[@]}" >"$log" 2>&1 ||
  { "${as_root[@]}" apt-get -q=2 update >"$log" 2>&1 && "${install[@]}" "${missing[@]}" >"$log" 2>&1; } ||
  { tail -n 20 "$log" >&2; echo "could not install ${missing[*]}" >&2; exit 1; }
