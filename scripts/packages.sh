#!/bin/sh
# Installs the Debian packages of packages.txt that are missing. Says what and why; without root
# it prints the command instead and fails.
set -eu
cd "$(dirname "$0")"
missing=
while read -r package why; do
	case $package in '' | '#'*) continue ;; esac
	case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
	*' installed') ;;
	*)
		missing="$missing $package"
		echo "packages: $package is missing: $why"
		;;
	esac
done <packages.txt
[ -n "$missing" ] || exit 0

apt="apt-get -o DPkg::Lock::Timeout=300"
if [ "$(id -u)" != 0 ]; then
	echo "packages: not root, so nothing was installed. Run:" >&2
	echo "  sudo $apt update && sudo $apt install -y --no-install-recommends$missing" >&2
	exit 1
fi

# No service may start by being installed: tests start their own on loopback. A policy that is
# already there is somebody's and stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
echo "packages: installing$missing"
$apt update -q
# shellcheck disable=SC2086
$apt install -y -q --no-install-recommends $missing
