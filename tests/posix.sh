#!/usr/bin/env bash
# Runs pjdfstest and fsx on each frontend, in the modes that can be written to, and on a filesystem in memory: what POSIX says
# about names, permissions and times, and random reads and writes by every way there is. As root; `make posix` installs what
# it needs.
#
#   tests/posix.sh [ROUNDS [FRONTEND...]]      # rounds of fsx, 20000 operations each, default 1; frontends, default all
#
# In every second round, fsx works on the content of a file of the base, in the others it truncates that file first. It keeps
# its mappings, and each truncate looks at all of them: several short rounds find more than a long one.
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
trap 'exit 1' HUP INT TERM
mkdir "$mnt"
chmod 755 "$lab"
built=${CARGO_TARGET_DIR:-target}/debug

# A base with a file for fsx, as long as it can get there.
prepare() {
    cargo build --locked --quiet
    mkdir -p "$lab/tree" "$lab/stor"
    chmod 777 "$lab/tree"
    head -c 262144 /dev/urandom >"$lab/tree/file"
    "$built/aysfs" pack "$lab/tree" -o "$lab/flist" --stor "file://$lab/stor" >"$lab/log" || { cat "$lab/log"; exit 1; }
}

# Starts what serves a fresh filesystem: one in memory, or a mount without local changes.
start() { # filesystem, frontend
    case $1 in
    memory) "$built/examples/memfs-$2" "$mnt" & ;;
    OL | RW)
        rm -rf "$lab/backend"
        cat >"$lab/config.toml" <<EOF
[[mount]]
path = "$mnt"
backend = "main"
mode = "$1"
$([ "$1" = RW ] || echo "flist = \"$lab/flist\"")
suid = true
dev = true

[backend.main]
path = "$lab/backend"
lib = "$2"
stor = "local"
upload = false

[stor.local]
url = "file://$lab/stor"
EOF
        "$built/aysfs" -config "$lab/config.toml" --log-level 1 &
        ;;
    esac
    server=$!
}

fresh() { # filesystem, frontend
    start "$@"
    for _ in $(seq 200); do
        mountpoint -q "$mnt" && { chmod 777 "$mnt"; return; }
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    echo "posix: $1 was not mounted through $2" >&2
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

prepare
for frontend; do
    # Examples of the same name would overwrite each other.
    cargo build --locked --quiet -p "aysfs-frontend-$frontend" --example memfs
    cp "$built/examples/memfs" "$built/examples/memfs-$frontend"
    for filesystem in memory OL RW; do
        echo "$filesystem through $frontend"
        fresh "$filesystem" "$frontend"
        run pjdfstest pjdfstest -c tests/posix/pjdfstest.toml -p "$mnt" -s "$other"
        unmounted
        for seed in $(seq 7 $((6 + rounds))); do
            settings=fsx
            # A file of the base that is not truncated is one of fixed size.
            [ "$filesystem" != OL ] || [ $((seed % 2)) = 0 ] || settings=fsx-content
            fresh "$filesystem" "$frontend"
            run "$settings, seed $seed" fsx -f "tests/posix/$settings.toml" -N 20000 -S "$seed" -P "$lab" "$mnt/file"
            unmounted
        done
    done
done
exit $failed
