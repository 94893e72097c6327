# PostgreSQL's server programs, which the tests run as a server of their own: installed where root can, else named.
set -eu
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests need PostgreSQL's server programs; on Debian: sudo apt-get install postgresql" >&2
    exit 1
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends postgresql
