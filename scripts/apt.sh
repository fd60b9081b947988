#!/usr/bin/env bash
# Installs a package through apt, where that may be used:
#   scripts/apt.sh PACKAGE
# Tests run side by side and apt has one lock, so that here one waits for the other.
set -euo pipefail
package=$1
exec 9>"${TMPDIR:-/tmp}/tenantd-apt-$(id -u).lock"
flock 9
# Another may have installed it meanwhile.
if dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed"; then exit 0; fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then sudo="sudo -n"; fi
install="$sudo apt-get install -qq -y --no-install-recommends $package"
($install || { $sudo apt-get update -qq && $install; }) >/dev/null 2>&1 || {
  echo "apt could not install $package; what uses it will be skipped" >&2
  exit 1
}
