# Starting and stopping the broker under test. After start_broker: BROKER (host:port) and BROKER_PID (empty for one that was
# already running).
BROKER='' BROKER_PID='' BROKER_DIR=''

# settings FILE: the key=value lines.
settings() { grep -Ev '^[[:space:]]*(#|$)' "$1"; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# wait_for SECONDS COMMAND...: until the command succeeds; fails at once when the broker has ended.
wait_for() {
    local deadline=$((SECONDS + $1)); shift
    until "$@"; do
        kill -0 "$BROKER_PID" 2> /dev/null || return 1
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}

# start_broker klamm|kafka|HOST:PORT LOG
start_broker() {
    BROKER_LOG=$2
    mkdir -p "$(dirname "$BROKER_LOG")"
    case $1 in
        klamm) start_klamm ;;
        kafka) start_kafka ;;
        *:*) BROKER=$1
             (exec 3<> "/dev/tcp/${1%:*}/${1##*:}") 2> /dev/null || { echo "nothing listens on $1" >&2; return 1; } ;;
        *) echo "--broker wants klamm, kafka or HOST:PORT, not '$1'" >&2; return 1 ;;
    esac
}

# The release binary, on free ports, over KLAMM_DATA or a folder of its own that goes with it; the address is read from what it prints before `ready`.
start_klamm() {
    local binary=${KLAMM:-${CARGO_TARGET_DIR:-$COMPAT/../target}/release/klamm} args=(--ephemeral) line
    if [ ! -x "$binary" ]; then
        echo "no executable $binary: run 'cargo build --release' first, or name the binary in KLAMM" >&2
        return 1
    fi
    [ -z "${KLAMM_DATA:-}" ] || args=(--data "$KLAMM_DATA")
    while read -r line; do args+=(--set "$line"); done < <(settings "$COMPAT/broker/settings.properties")
    # Emptied here: the line waited for below may stand in what an earlier run left.
    : > "$BROKER_LOG"
    "$binary" dev --listen 127.0.0.1:0 --http 127.0.0.1:0 "${args[@]}" > "$BROKER_LOG" 2>&1 < /dev/null 8>&- &
    BROKER_PID=$!
    if ! wait_for 30 grep -qE '^ready\b' "$BROKER_LOG"; then
        echo "klamm dev did not get ready within 30 s, see $BROKER_LOG:" >&2
        tail -n 5 "$BROKER_LOG" >&2
        return 1
    fi
    # The Kafka address is the one on a line that speaks of Kafka, else the first that is not the HTTP one.
    BROKER=$( { grep -ai kafka "$BROKER_LOG"; grep -aviE 'https?' "$BROKER_LOG"; } | grep -aoE '127\.0\.0\.1:[1-9][0-9]*' | head -n 1)
    [ -n "$BROKER" ] || { echo "klamm dev printed no address, see $BROKER_LOG" >&2; return 1; }
}

# Apache Kafka in KRaft mode, one node, from Maven's jars.
start_kafka() {
    local version=${KAFKA_BROKER_VERSION:-4.3.1} port controller
    SUITE=kafka kafka_jars "$version" || return 1
    BROKER_DIR=$(mktemp -d "${TMPDIR:-/tmp}/compat-kafka.XXXXXX")
    port=$(free_port) controller=$(free_port)
    {
        settings "$COMPAT/broker/settings.properties"
        settings "$COMPAT/broker/kafka.properties"
        echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller"
        echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
        echo "controller.quorum.voters=0@127.0.0.1:$controller"
        echo "log.dirs=$BROKER_DIR/data"
    } > "$BROKER_DIR/server.properties"
    local java=(java -Dlog4j2.configurationFile="$COMPAT/broker/log4j2.xml" -cp "$JARS/*")
    # The cluster id is any 16 bytes in base64.
    "${java[@]}" kafka.tools.StorageTool format -t S2xhbW0tY29tcGF0LXRlcw \
        -c "$BROKER_DIR/server.properties" > "$BROKER_LOG" 2>&1 || { echo "formatting failed, see $BROKER_LOG" >&2; return 1; }
    "${java[@]}" -Xmx1g -Xms1g kafka.Kafka "$BROKER_DIR/server.properties" >> "$BROKER_LOG" 2>&1 < /dev/null 8>&- &
    BROKER_PID=$!
    BROKER=127.0.0.1:$port
    if ! wait_for 90 grep -q 'Kafka Server started' "$BROKER_LOG"; then
        echo "Apache Kafka did not start within 90 s, see $BROKER_LOG:" >&2
        tail -n 5 "$BROKER_LOG" >&2
        return 1
    fi
}

broker_runs() { [ -z "$BROKER_PID" ] || kill -0 "$BROKER_PID" 2> /dev/null; }

stop_broker() {
    if [ -n "$BROKER_PID" ]; then
        kill "$BROKER_PID" 2> /dev/null
        local n
        for ((n = 0; n < 150; n++)); do kill -0 "$BROKER_PID" 2> /dev/null || break; sleep 0.1; done
        kill -9 "$BROKER_PID" 2> /dev/null
        wait "$BROKER_PID" 2> /dev/null
        BROKER_PID=''
    fi
    [ -z "$BROKER_DIR" ] || rm -rf "$BROKER_DIR"
    BROKER_DIR=''
}
