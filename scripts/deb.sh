#!/bin/sh
# Makes a Debian package of what `make build` left in a directory: scripts/deb.sh [BIN [OUT]].
# Prints the name of the package. Needs dpkg-deb and no root.
set -eu
umask 022
cd "$(dirname "$0")/.."
bin=${1:-bin}
out=${2:-build}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
version=${VERSION:-0.$(git log -1 --date=format-local:%Y%m%d.%H%M%S --format=%cd).$(git rev-parse --short HEAD)}
architecture=$(dpkg --print-architecture)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
install -D -m 755 -t "$root/usr/bin" "$bin/ingot" "$bin/ingot-agent"
install -D -m 644 dist/ingot.service "$root/lib/systemd/system/ingot.service"
install -D -m 644 dist/sysusers.conf "$root/usr/lib/sysusers.d/ingot.conf"
install -D -m 640 internal/config/reference.toml "$root/etc/ingot/ingot.toml"
install -D -m 644 LICENSE "$root/usr/share/doc/ingot/copyright"
install -D -m 644 -t "$root/usr/share/doc/ingot" README.md
cp -r --no-preserve=mode doc "$root/usr/share/doc/ingot/doc"
mkdir "$root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" dist/debian/control \
	>"$root/DEBIAN/control"
install -m 644 dist/debian/conffiles "$root/DEBIAN"
install -m 755 dist/debian/postinst dist/debian/prerm dist/debian/postrm "$root/DEBIAN"
mkdir -p "$out"
package=$out/ingot_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
