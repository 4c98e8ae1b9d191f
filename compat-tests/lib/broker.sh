# Starting and stopping the broker under test: NODES nodes. After start_broker: BROKER (host:port of the first node) and
# BROKER_PIDS (empty for one that was already running).
BROKER='' BROKER_PIDS=() BROKER_DIR=''
NODES=${NODES:-1}

# settings FILE: the key=value lines.
settings() { grep -Ev '^[[:space:]]*(#|$)' "$1"; }

# shared_settings: what every node gets, Klamm's or Apache Kafka's.
shared_settings() {
    settings "$COMPAT/broker/settings.properties"
    [ "$NODES" -lt 3 ] || settings "$COMPAT/broker/three-nodes.properties"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# lasting_port: a free port, another one each time, that no outgoing connection takes while who listens there is away; in PORT.
PORTS=' '
lasting_port() {
    local first
    first=$(cut -f1 /proc/sys/net/ipv4/ip_local_port_range)
    while PORT=$((first - 1 - (RANDOM % 12000))); [[ $PORTS == *" $PORT "* ]] || (exec 3<> "/dev/tcp/127.0.0.1/$PORT") 2> /dev/null; do :; done
    PORTS="$PORTS$PORT "
}

# wait_for SECONDS COMMAND...: until the command succeeds; fails at once when the broker has ended.
wait_for() {
    local deadline=$((SECONDS + $1)); shift
    until "$@"; do
        broker_runs || return 1
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

# klamm_binary: the release binary, or the one that KLAMM names, in KLAMM_BINARY.
klamm_binary() {
    KLAMM_BINARY=${KLAMM:-${CARGO_TARGET_DIR:-$COMPAT/../target}/release/klamm}
    [ -x "$KLAMM_BINARY" ] || { echo "no executable $KLAMM_BINARY: run 'cargo build --release' first, or name the binary in KLAMM" >&2; return 1; }
}

# On free ports, over KLAMM_DATA or a folder of its own that goes with it; the address is read from what it prints before `ready`.
start_klamm() {
    local args=(--ephemeral --nodes "$NODES") line
    klamm_binary || return 1
    [ -z "${KLAMM_DATA:-}" ] || args=(--nodes "$NODES" --data "$KLAMM_DATA")
    while read -r line; do args+=(--set "$line"); done < <(shared_settings)
    # Emptied here: the line waited for below may stand in what an earlier run left.
    : > "$BROKER_LOG"
    "$KLAMM_BINARY" dev --listen 127.0.0.1:0 --http 127.0.0.1:0 "${args[@]}" > "$BROKER_LOG" 2>&1 < /dev/null 8>&- &
    BROKER_PIDS=($!)
    if ! wait_for 30 grep -qE '^ready\b' "$BROKER_LOG"; then
        echo "klamm dev did not get ready within 30 s, see $BROKER_LOG:" >&2
        tail -n 5 "$BROKER_LOG" >&2
        return 1
    fi
    # With several nodes there is one such line for each.
    BROKER=$(grep -aE '^ *Kafka ' "$BROKER_LOG" | grep -aoE '127\.0\.0\.1:[1-9][0-9]*' | head -n 1)
    [ -n "$BROKER" ] || { echo "klamm dev printed no address, see $BROKER_LOG" >&2; return 1; }
    # Each node is a process of its own: one that ends is noticed by broker_runs.
    # shellcheck disable=SC2207  # process ids
    [ "$NODES" = 1 ] || BROKER_PIDS+=($(pgrep -P "$!"))
}

# Apache Kafka in KRaft mode, every node both broker and controller, from Maven's jars.
start_kafka() {
    local version=${KAFKA_BROKER_VERSION:-4.3.1} id kafka=() controller=() voters=''
    SUITE=kafka kafka_jars "$version" || return 1
    BROKER_DIR=$(mktemp -d "${TMPDIR:-/tmp}/compat-kafka.XXXXXX")
    for ((id = 0; id < NODES; id++)); do
        kafka+=("$(free_port)") controller+=("$(free_port)")
        voters=$voters,$id@127.0.0.1:${controller[id]}
    done
    : > "$BROKER_LOG"
    for ((id = 0; id < NODES; id++)); do
        kafka_properties "$id" "${kafka[id]}" "${controller[id]}" "${voters#,}" > "$BROKER_DIR/$id.properties"
        start_kafka_node "$BROKER_DIR/$id.properties" || return 1
    done
    BROKER=127.0.0.1:${kafka[0]}
    if ! wait_for 120 kafka_started; then
        echo "Apache Kafka did not start within 120 s, see $BROKER_LOG:" >&2
        tail -n 5 "$BROKER_LOG" >&2
        return 1
    fi
}

# kafka_properties ID PORT CONTROLLER_PORT VOTERS: of two lines for one key, the last one counts.
kafka_properties() {
    shared_settings | sed "s/{id}/$1/"
    settings "$COMPAT/broker/kafka.properties"
    echo "node.id=$1"
    echo "listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3"
    echo "advertised.listeners=PLAINTEXT://127.0.0.1:$2"
    echo "controller.quorum.voters=$4"
    echo "log.dirs=$BROKER_DIR/data-$1"
    [ "$NODES" -lt 3 ] || settings "$COMPAT/broker/kafka-three.properties"
}

# kafka_command FILE: formats the folder of the node with this configuration; what starts it, in KAFKA_COMMAND.
kafka_command() {
    local java=(java -Dlog4j2.configurationFile="$COMPAT/broker/log4j2.xml" -cp "$JARS/*") heap=1g
    [ "$NODES" = 1 ] || heap=512m
    # The cluster id is any 16 bytes in base64.
    "${java[@]}" kafka.tools.StorageTool format -t S2xhbW0tY29tcGF0LXRlcw -c "$1" >> "$BROKER_LOG" 2>&1 ||
        { echo "formatting failed, see $BROKER_LOG" >&2; return 1; }
    KAFKA_COMMAND=("${java[@]}" -Xmx$heap -Xms$heap kafka.Kafka "$1")
}

start_kafka_node() {
    kafka_command "$1" || return 1
    "${KAFKA_COMMAND[@]}" >> "$BROKER_LOG" 2>&1 < /dev/null 8>&- &
    BROKER_PIDS+=($!)
}

kafka_started() { [ "$(grep -c 'Kafka Server started' "$BROKER_LOG")" -eq "$NODES" ]; }

# Whether every process of the broker is there.
broker_runs() {
    local pid
    for pid in "${BROKER_PIDS[@]}"; do kill -0 "$pid" 2> /dev/null || return 1; done
}

stop_broker() {
    local n pid
    # Klamm's first process stops the others, one after the other.
    [ ${#BROKER_PIDS[@]} -eq 0 ] || kill "${BROKER_PIDS[0]}" 2> /dev/null
    for pid in "${BROKER_PIDS[@]}"; do
        [ -z "$BROKER_DIR" ] || kill "$pid" 2> /dev/null
        for ((n = 0; n < 200; n++)); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2> /dev/null
        wait "$pid" 2> /dev/null
    done
    BROKER_PIDS=()
    [ -z "$BROKER_DIR" ] || rm -rf "$BROKER_DIR"
    BROKER_DIR=''
}
