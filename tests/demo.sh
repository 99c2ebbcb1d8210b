#!/usr/bin/env bash
# A newcomer's first minute: packs a real tree into a stor, mounts it, runs a program from the mount, and shows what
# was fetched and what was cached. Leaves nothing behind. Run it with `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' green='' plain=''; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$green" "$*" "$plain"; }
now() { date +%s%N; }
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f s", (b - a) / 1e9 }'; }

step "Building aysfs"
note "(a few minutes the first time)"
cargo build --locked --release --quiet
aysfs=${CARGO_TARGET_DIR:-target}/release/aysfs

lab=$(mktemp -d "${TMPDIR:-/tmp}/aysfs-demo-XXXXXX")
mnt=$lab/mnt elsewhere=$lab/elsewhere
stor_pid='' mount_pid='' there_pid=''
cleanup() {
    [ -z "$mount_pid" ] || { kill "$mount_pid" && wait "$mount_pid"; } 2>/dev/null || true
    [ -z "$there_pid" ] || { kill "$there_pid" && wait "$there_pid"; } 2>/dev/null || true
    [ -z "$stor_pid" ] || { kill "$stor_pid" && wait "$stor_pid"; } 2>/dev/null || true
    for point in "$mnt" "$elsewhere"; do
        mountpoint -q "$point" 2>/dev/null && { umount -l "$point" || fusermount3 -uz "$point"; } 2>/dev/null || true
    done
    rm -rf "$lab"
}
trap cleanup EXIT

# Waits until a line appears in a log; shows the log if the process ends instead.
await() { # pid, log, text
    for _ in $(seq 600); do
        grep -q "$3" "$2" && return
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    cat "$2" >&2
    exit 1
}

python=$(command -v python3 || true)
if [ -n "$python" ]; then
    tree=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    what="Python's standard library"
else
    tree=/usr/share/doc
    what="the documentation of this machine's packages"
fi
[ -d "$tree" ] || tree=/usr/share
# Only what every such machine has: no installed packages, no bytecode that a running Python may be writing.
leave_out=(site-packages dist-packages test tests __pycache__)
in_tree() { # the regular files that are packed
    local name skip=()
    for name in "${leave_out[@]}"; do skip+=(-name "$name" -o); done
    find "$tree" \( "${skip[@]}" -false \) -prune -o -type f "$@"
}
files=$(in_tree -print | wc -l)
size=$(in_tree -printf '%s\n' | awk '{ s += $1 } END { printf "%.0f MB", s / 1e6 }')

step "1. A stor: the place that keeps content"
show "aysfs stor --listen 127.0.0.1:0 --root stor"
"$aysfs" stor --listen 127.0.0.1:0 --root "$lab/stor" 2>"$lab/stor.log" &
stor_pid=$!
await "$stor_pid" "$lab/stor.log" 'serving '
url=$(grep -o 'http://[0-9.:]*' "$lab/stor.log" | head -n 1)
echo "It serves a directory over HTTP, at $url"

step "2. Packing $what: $files files, $size"
show "aysfs pack $tree -o app.flist --stor $url --exclude site-packages ..."
"$aysfs" pack "$tree" -o "$lab/app.flist" --stor "$url" --namespace demo "${leave_out[@]/#/--exclude=}"
echo "The flist names each file and the hash of its content:"
awk -F'|' '$7 == 2 && n++ < 2 { print "    " substr($0, 1, 100) "..." }' "$lab/app.flist"

step "3. Mounting it, from a config file"
mkdir "$mnt"
sed -e "s|\"/opt/app\"|\"$mnt\"|" -e "s|\"[^\"]*app\.flist\"|\"$lab/app.flist\"|" -e "s|\"/var/[^\"]*\"|\"$lab/backend\"|" \
    -e "s|\"https*://[^\"]*\"|\"$url/\"|" -e 's|^namespace = .*|namespace = "demo"|' -e '/^cache_size/d' \
    config/examples/ro.toml | sed -E 's/ +# .*//' >"$lab/config.toml"
show "aysfs -config config.toml"
grep -vE '^ *(#|$)' "$lab/config.toml" | sed "s|$lab/||; s/^/    /"
begin=$(now)
"$aysfs" -config "$lab/config.toml" 2>"$lab/mount.log" &
mount_pid=$!
await "$mount_pid" "$lab/mount.log" 'all mounts are up'

fetched() { # what the mount has fetched so far
    "$aysfs" status "$mnt" | sed -n 's/.* \([0-9]*\) fetches of \([0-9]*\) bytes.*/\1 \2/p' |
        awk '{ printf "%d requests have brought %.1f MB", $1, $2 / 1e6 }'
}
echo "Mounted after $(seconds "$begin" "$(now)"): all $files files are there, and $(fetched)."

step "4. Running something real from the mount"
if [ -n "$python" ]; then
    program='import sys
sys.path[:] = [sys.argv[1], sys.argv[1] + "/lib-dynload"]
import decimal, email.message, json
print("    json comes from", json.__file__.replace(sys.argv[1], "mnt"))
print("    1/7 =", decimal.Decimal(1) / 7)'
    command=("$python" -B -I -S -c "$program" "$mnt")
    show "python3 -c 'import decimal, email.message, json; ...'    # with the mount as its library"
else
    command=(sh -c "find '$mnt' -name copyright | sort | head -n 200 | xargs cat | sha256sum | sed 's/^/    /'")
    show "cat the first 200 copyright files | sha256sum"
fi
begin=$(now)
"${command[@]}"
echo "The first run took $(seconds "$begin" "$(now)"): $(fetched) (files that lie together come together)."
begin=$(now)
"${command[@]}" >/dev/null
echo "The second run took $(seconds "$begin" "$(now)"), and asked the stor for nothing."

step "5. Is it really the same tree?"
show "diff -r $tree mnt"
begin=$(now)
diff -r --no-dereference "${leave_out[@]/#/--exclude=}" "$tree" "$mnt"
echo "Every byte of every file was compared with its source in $(seconds "$begin" "$(now)"): no difference."
echo "Now $(fetched)."

unmounted() {
    kill "$mount_pid"
    wait "$mount_pid"
    mount_pid=''
    mountpoint -q "$mnt" && { echo "still mounted" >&2; exit 1; }
    return 0
}

step "6. Starting fast where nothing is cached"
show "aysfs profile record mnt -o app.profile -- python3 ..."
"$aysfs" profile record "$mnt" -o "$lab/app.profile" -- "${command[@]}" 2>&1 >/dev/null | sed "s|$lab/||; s/^/    /"
show "aysfs pack $tree -o app.flist --stor $url --profile app.profile ..."
"$aysfs" pack "$tree" -o "$lab/app.flist" --stor "$url" --namespace demo --profile "$lab/app.profile" "${leave_out[@]/#/--exclude=}" |
    sed "s|$lab/||; s/^/    /"
unmounted
show "aysfs mount app.flist mnt --stor $url --cache empty"
"$aysfs" mount "$lab/app.flist" "$mnt" --stor "$url" --namespace demo --cache "$lab/empty" 2>"$lab/mount.log" &
mount_pid=$!
await "$mount_pid" "$lab/mount.log" 'all mounts are up'
begin=$(now)
"${command[@]}" >/dev/null
echo "What is read first lies together now, and is fetched at once: the run took $(seconds "$begin" "$(now)"), and $(fetched)."

step "7. Changing it"
unmounted
show "aysfs mount app.flist mnt --stor $url --mode OL"
"$aysfs" mount "$lab/app.flist" "$mnt" --stor "$url" --namespace demo --mode OL --cache "$lab/backend" 2>"$lab/mount.log" &
mount_pid=$!
await "$mount_pid" "$lab/mount.log" 'all mounts are up'
file=$(cd "$mnt" && find . -maxdepth 2 -type f -size +0 | sort | sed -n 1p)
gone=$(cd "$mnt" && find . -mindepth 1 -maxdepth 1 -type d | sort | sed -n 1p)
show "echo '# changed here' >> mnt/${file#./};  rm -r mnt/${gone#./};  mkdir mnt/new;  date > mnt/new/file"
chmod u+w "$mnt/$file"
echo '# changed here' >>"$mnt/$file"
rm -r "${mnt:?}/${gone#./}"
mkdir "$mnt/new"
date >"$mnt/new/file"
show "aysfs diff mnt"
"$aysfs" diff "$mnt" | sed 's/^/    /'
show "aysfs commit mnt -o app-2.flist"
"$aysfs" commit "$mnt" -o "$lab/app-2.flist" | sed "s|$lab/||; s/^/    /"
echo "The changes are in a directory of their own, and what was mounted is as it was: $(cd "$lab/backend/upper" && find . -type f -size +0 ! -name '*%lock' | wc -l) files there."

step "8. Writing here, reading there, encrypted on the way"
unmounted
"$aysfs" keygen "$lab/user.pem" >/dev/null
cat >"$lab/rw.toml" <<CONFIG
[[mount]]
path = "$mnt"
backend = "here"
mode = "RW"

[backend.here]
path = "$lab/here"
stor = "demo"
namespace = "notes"
upload = true
publish = true
encrypted = true
user_rsa = "$lab/user.pem.pub"

[stor.demo]
url = "$url/"
CONFIG
show "aysfs keygen user.pem;  aysfs -config rw.toml"
grep -E 'mode|upload|publish|encrypted|user_rsa' "$lab/rw.toml" | sed "s|$lab/||; s/^/    /"
"$aysfs" -config "$lab/rw.toml" 2>"$lab/mount.log" &
mount_pid=$!
await "$mount_pid" "$lab/mount.log" 'all mounts are up'
show "echo 'meet me at nine' > mnt/plan;  aysfs push mnt"
echo 'meet me at nine' >"$mnt/plan"
"$aysfs" push "$mnt" | sed 's/^/    /'
show "aysfs mount $url/static/notes.flist elsewhere --key user.pem ..."
mkdir "$elsewhere"
"$aysfs" mount "$url/static/notes.flist" "$elsewhere" --stor "$url" --namespace notes --key "$lab/user.pem" --cache "$lab/there" 2>"$lab/there.log" &
there_pid=$!
await "$there_pid" "$lab/there.log" 'all mounts are up'
show "cat elsewhere/plan"
sed 's/^/    /' "$elsewhere/plan"
show "echo 'meet me at ten' > mnt/plan;  aysfs push mnt;  aysfs reload elsewhere;  cat elsewhere/plan"
echo 'meet me at ten' >"$mnt/plan"
"$aysfs" push "$mnt" >/dev/null
"$aysfs" reload "$elsewhere" | sed "s|$lab/||; s/^/    /"
sed 's/^/    /' "$elsewhere/plan"
show "grep -r 'meet me' stor;  find stor -name '*plan*'"
if grep -rq 'meet me' "$lab/stor" || [ -n "$(find "$lab/stor" -name '*plan*')" ]; then
    echo "the stor can read it" >&2
    exit 1
fi
echo "Nothing: the stor has neither the content nor the names, and the writer has only the public key."
kill "$there_pid" && wait "$there_pid"
there_pid=''

step "9. Unmounting"
show "kill -TERM \$aysfs"
unmounted
echo "Unmounted. The cache and the changes stay for the next mount; this demo removes them."
echo
note "Next: README.md, and config/examples/ for your own mounts."
