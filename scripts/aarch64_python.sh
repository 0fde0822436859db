#!/usr/bin/env bash
# Builds an aarch64 Python with the packages a flight computer needs, and runs it here under qemu-user: no chroot, no root,
# nothing of it is installed on this machine. Prints the command to start it.
#
#   scripts/aarch64_python.sh [FOLDER]      default build/aarch64; about 200 MB, made once
#
# Debian's aarch64 packages are unpacked, not installed; qemu finds their libraries and an aarch64 /proc/cpuinfo below
# FOLDER/root (without that file onnxruntime takes x86's for its own and dies).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-build/aarch64}")
PYTHON=${PYTHON:-.venv/bin/python}
release="${out}/.complete-$(cat "$0" constraints.txt | sha256sum | cut -c1-16)"

[ -e "$release" ] && { echo "$out/python3"; exit 0; }
fail() { echo "aarch64_python.sh: $1" >&2; exit 2; }
command -v qemu-aarch64 >/dev/null || fail "qemu-aarch64 is missing: scripts/system_packages.sh installs it"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "needs Debian's or Ubuntu's apt-get and dpkg-deb"

work=$(mktemp -d "${TMPDIR:-/tmp}/aarch64-python.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,root/proc,wheels}

# A package database of our own, so that this machine's stays as it is.
cat >"$work/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State "$work/state";
Dir::State::status "/dev/null";
Dir::Cache "$work/cache";
CONF
export APT_CONFIG="$work/apt.conf"
apt-get -q=2 update >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "no package list for arm64"; }
apt-get -q=2 -y --download-only install python3 libstdc++6 >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "no Python for arm64"; }
for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done

python=$(basename "$(ls "$work"/root/usr/bin/python3.[0-9]* | head -n 1)")
"$PYTHON" -m pip download --quiet --disable-pip-version-check --dest "$work/wheels" --only-binary=:all: --python-version "${python#python}" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
  -c constraints.txt numpy onnxruntime pymavlink h5py
for wheel in "$work"/wheels/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$work/root/usr/lib/python3/dist-packages"; done
printf 'processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n' \
  >"$work/root/proc/cpuinfo"

# Whatever starts a child by sys.executable starts it under qemu, too.
echo "import sys; sys.executable = '$out/python3'" >"$work/root/usr/lib/python3/dist-packages/emulated.py"
echo 'import emulated' >"$work/root/usr/lib/python3/dist-packages/emulated.pth"

cat >"$work/python3" <<RUN
#!/bin/sh
# Cortex-A72 is the Raspberry Pi 4's processor.
exec qemu-aarch64 -cpu cortex-a72 -L "$out/root" "$out/root/usr/bin/$python" "\$@"
RUN
chmod +x "$work/python3"

rm -rf "$out"
mkdir -p "$out"
cp -a "$work/root" "$work/python3" "$out"
"$out/python3" -c 'import platform; assert platform.machine() == "aarch64"' || fail "the Python in $out does not start"
# The largest module by far; its bytecode is the same on every processor.
"$out/python3" -m compileall -q "$out/root/usr/lib/python3/dist-packages/pymavlink/dialects/v20/common.py"
touch "$release"
echo "$out/python3"
