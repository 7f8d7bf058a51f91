#!/bin/sh
# deb.sh FOLDER: build the Debian package of this clone there. Downloads wheels, then builds without a network.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p "$1"
out=$(cd "$1" && pwd)
for tool in dpkg-buildpackage dh git; do
  command -v $tool >/dev/null || { echo "$tool is missing: apt-get install build-essential debhelper git" >&2; exit 1; }
done
tree=$out/busbar
rm -rf "$tree" && mkdir "$tree"
git ls-files -z -- pyproject.toml setup.py README.md LICENSE CHANGELOG.md .src bus manager agent cli docs |
  tar -c --null -T - | tar -x -C "$tree"
mv "$tree/docs/packaging/debian" "$tree/debian"
sed -n '/^Permission/,$p' LICENSE | sed 's/^$/./; s/^/ /' > "$tree/license"
sed -i "s/@COPYRIGHT@/$(sed -n 's/^Copyright (c) //p' LICENSE)/" "$tree/debian/copyright"
sed -i -e "/@LICENSE@/{r $tree/license" -e 'd}' "$tree/debian/copyright"
maintainer=$(docs/packaging/maintainer.sh)
sed -i "s/^Maintainer: .*/Maintainer: $(printf '%s' "$maintainer" | sed 's/[\\/&]/\\&/g')/" "$tree/debian/control"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
commit=$(git describe --always --exclude='*' --abbrev=12 --dirty=-modified)
# Before the release of that number, and in the order of the commits.
full=$version~git$(git log -1 --format=%cd --date=format:%Y%m%d.%H%M%S).$(git rev-parse --short=12 HEAD)
cat > "$tree/debian/changelog" <<C
busbar ($full) unstable; urgency=medium

  * Built from the commit $commit.

 -- $maintainer  $(git log -1 --format=%cD)
C
/usr/bin/python3 -m venv "$tree/build-env"
echo "downloading the libraries ..."
BUSBAR_COMMIT=$commit "$tree/build-env/bin/pip" --disable-pip-version-check wheel --quiet \
  --wheel-dir "$tree/wheels" "$tree[metrics,web]"
rm -rf "$tree/build-env" "$tree/build" "$tree"/.src/*.egg-info
cd "$tree"
rm -f "$out"/*.deb "$out"/*.changes "$out"/*.buildinfo
dpkg-buildpackage -b -us -uc
if command -v lintian >/dev/null; then
  lintian --allow-root --fail-on error "$out"/*.deb
else
  echo "lintian is not installed: the package is unchecked"
fi
ls "$out"/*.deb
