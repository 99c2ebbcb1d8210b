#!/usr/bin/env bash
# Runs pjdfstest and fsx on each frontend: what POSIX says about names, permissions and times, and random reads and writes
# by every way there is. As root; `make posix` installs what it needs.
#
#   tests/posix.sh [ROUNDS [FRONTEND...]]      # rounds of fsx, 20000 operations each, default 1; frontends, default all
#
# fsx keeps its mappings, and each truncate looks at all of them: several short rounds find more than a long one.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-1}
shift || true
[ $# -gt 0 ] || set -- $(for example in frontends/*/examples/memfs.rs; do cut -d/ -f2 <<<"$example"; done)
[ "$(id -u)" = 0 ] || { echo "posix: only root can run these tests: users are changed, devices are made" >&2; exit 1; }

lab=$(mktemp -d "${TMPDIR:-/tmp}/aysfs-posix-XXXXXX")
mnt=$lab/mnt
other=$(mktemp -d /dev/shm/aysfs-posix-XXXXXX) # another filesystem, for EXDEV
server=''
cleanup() {
    mountpoint -q "$mnt" 2>/dev/null && umount -l "$mnt"
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
    rm -rf "$lab" "$other"
}
trap cleanup EXIT
mkdir "$mnt"
chmod 755 "$lab"

# Serves a fresh filesystem in memory through a frontend.
memfs() { # frontend
    "${CARGO_TARGET_DIR:-target}/debug/examples/memfs-$1" "$mnt" &
    server=$!
    for _ in $(seq 200); do
        mountpoint -q "$mnt" && { chmod 777 "$mnt"; return; }
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    echo "posix: memfs was not mounted through $1" >&2
    return 1
}

unmounted() {
    umount "$mnt"
    wait "$server"
    server=''
}

failed=0
run() { # what, command: shows its output only if it fails
    local what=$1 log=$lab/log
    shift
    if timeout 1200 "$@" >"$log" 2>&1; then
        printf '  %-12s %s\n' "$what" "$(grep -E '^Summary|completed' "$log" | tail -n 1)"
    else
        grep -E 'FAILED|Summary' -A 3 "$log" || tail -n 40 "$log"
        printf '  %-12s failed\n' "$what"
        failed=1
    fi
}

for frontend; do
    # Examples of the same name would overwrite each other.
    cargo build --locked --quiet -p "aysfs-frontend-$frontend" --example memfs
    target=${CARGO_TARGET_DIR:-target}/debug/examples
    cp "$target/memfs" "$target/memfs-$frontend"
    echo "memfs through $frontend"
    memfs "$frontend"
    run pjdfstest pjdfstest -c tests/posix/pjdfstest.toml -p "$mnt" -s "$other"
    unmounted
    for seed in $(seq 7 $((6 + rounds))); do
        memfs "$frontend"
        run "fsx, seed $seed" fsx -f tests/posix/fsx.toml -N 20000 -S "$seed" -P "$lab" "$mnt/file"
        unmounted
    done
done
exit $failed
