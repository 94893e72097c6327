# The programs that tests and `make cluster` run, PostgreSQL's, HAProxy and a browser: installed where root can,
# else named.
set -eu
PATH="$PATH:/usr/sbin"
missing=
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="postgresql"
command -v haproxy >/dev/null || missing="$missing haproxy"
[ -x /usr/bin/chromium ] || missing="$missing chromium"
[ -x /usr/bin/chromedriver ] || missing="$missing chromium-driver"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests need these programs; on Debian: sudo apt-get install $missing" >&2
    exit 1
fi
apt-get update -q
# shellcheck disable=SC2086 # names without blanks
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing
