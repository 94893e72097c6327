# Installs the programs that the tests and `make cluster` need: PostgreSQL, HAProxy, a browser, and those that
# check deploy/. If it cannot install them, it prints the command that does.
set -eu
PATH="$PATH:/usr/sbin"
missing=
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="postgresql"
command -v haproxy >/dev/null || missing="$missing haproxy"
[ -x /usr/bin/chromium ] || missing="$missing chromium"
[ -x /usr/bin/chromedriver ] || missing="$missing chromium-driver"
command -v systemd-analyze >/dev/null || missing="$missing systemd"
command -v promtool >/dev/null || missing="$missing prometheus"
command -v cc >/dev/null || missing="$missing gcc libc6-dev"  # a clock that is moved
[ -n "$missing" ] || exit 0
as_root=
[ "$(id -u)" -eq 0 ] || as_root="sudo --non-interactive"
if ! command -v apt-get >/dev/null || ! $as_root true 2>/dev/null; then
    echo "The tests need these programs. On Debian, run: sudo apt-get install $missing" >&2
    exit 1
fi
$as_root apt-get update -q
# shellcheck disable=SC2086 # the names contain no spaces
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing
