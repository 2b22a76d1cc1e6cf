# Runs one PostgreSQL for the tests: sh supervisor.sh <bin> <folder>, with commands on standard input.
# The process of the tests keeps that input open. When the process ends for any reason, the input closes,
# and this shell stops the server and removes its folder. A test runner cannot do that when it is killed.
bin=$1 folder=$2 pid=

# Writing a response that is no longer read must not end this shell before the server.
trap '' PIPE

stop() {
    kill "-$1" "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
}

# Kills all processes at once, as in a power failure. The postmaster is stopped first, because a child that it
# starts after they were listed would keep the shared memory that the next server needs.
cut() {
    kill -STOP "$pid" 2>/dev/null
    children=$(ps -A -o pid= -o ppid= | while read -r child parent; do
        [ "$parent" = "$pid" ] && echo "$child"
    done)
    # shellcheck disable=SC2086 # one argument for each child
    kill -KILL "$pid" $children 2>/dev/null
    wait "$pid" 2>/dev/null
    for child in $children; do
        while kill -0 "$child" 2>/dev/null; do sleep 0.01; done
    done
}

start() {
    "$bin/postgres" -D "$folder/data" </dev/null >>"$folder/log" 2>&1 &
    pid=$!
    until [ "$(sed -n '1p;8p' "$folder/data/postmaster.pid" 2>/dev/null | tr -d ' \n')" = "${pid}ready" ]; do
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.01
    done
}

while read -r verb; do
    case $verb in
        start) if start; then verb="started $pid"; else verb=failed; fi ;;
        runs) if kill -0 "$pid" 2>/dev/null; then verb=yes; else verb=no; fi ;;
        fast) stop INT ;;
        immediate) stop QUIT ;;
        kill) cut ;;
    esac
    echo "$verb"
done

[ -n "$pid" ] && stop QUIT
# Retry, because an initdb or cp that is still running may write into it.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$folder" 2>/dev/null && break
    sleep 1
done
