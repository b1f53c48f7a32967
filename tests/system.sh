#!/bin/sh
# Installs what the tests need from the system: a PostgreSQL server and Chromium. Says nothing where all is there.
# Where it can't, it says what is missing: those tests are skipped then, and fail where CI=true.
set -u

has_postgres() {
    command -v postgres >/dev/null 2>&1 && command -v initdb >/dev/null 2>&1 && return 0
    for found in /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$found" ] && return 0
    done
    return 1
}

has_chromium() {
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

missing() {
    has_postgres || printf ' postgresql'
    has_chromium || printf ' chromium'
}

give_up() {
    echo "== some tests need$packages: $1; on Debian: apt-get install$packages"
    exit 0
}

packages=$(missing)
[ -n "$packages" ] || exit 0

command -v apt-get >/dev/null 2>&1 || give_up "there is no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
    root=""
elif sudo -n true >/dev/null 2>&1; then
    root="sudo -n"
else
    give_up "only root can install them"
fi

echo "== installing$packages, which some tests need, with apt-get"
# PostgreSQL's package would start a server that nobody needs. Who has said what may start keeps their say.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] && printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null 2>&1; then
    $root chmod 755 "$policy"
    trap '$root rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
fi
apt() {
    # Bounded, for there may be no network.
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=1 \
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" </dev/null >>"$log" 2>&1
}
log=$(mktemp)
apt update
# shellcheck disable=SC2086 # several words
apt install --no-install-recommends $packages || tail -n 5 "$log"
rm -f "$log"

packages=$(missing)
[ -z "$packages" ] || give_up "they could not be installed"
