# What a suite's `run` script starts with. It defines install (fetch and build, idempotent) and checks (report every check),
# then calls `suite "$@"`. compat-tests/run sets the environment; a suite script also runs by itself:
#     SUITE/run HOST:PORT          run the checks against this broker, of NODES nodes and with topics of REPLICAS replicas (1 and 1)
#     SUITE/run --install          only fetch and build
set -u
COMPAT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${KLAMM_COMPAT_CACHE:-$HOME/.cache/klamm-compat}
SUITE=${SUITE:-$(basename "$(cd "$(dirname "$0")" && pwd)")}
LOGS=${LOGS:-$CACHE/logs/by-hand/$SUITE}
LATER=${LATER-$(sed 's/#.*//' "$COMPAT/later" | awk '{ print $1 }' | tr -s '\n' ' ')}
QUICK=${QUICK:-0}
ONLY=${ONLY:-.}
NODES=${NODES:-1} REPLICAS=${REPLICAS:-1}
[ "$NODES" -lt 3 ] || LATER=${LATER/three-nodes/}
export COMPAT CACHE SUITE LOGS LATER QUICK ONLY NODES REPLICAS
. "$COMPAT/lib/report.sh"
. "$COMPAT/lib/cache.sh"

suite() {
    case ${1:-} in
        --install) install ;;
        *:*) export BROKER=$1
             install || exit 2
             rm -rf "$LOGS"; mkdir -p "$LOGS"
             checks ;;
        *) echo "usage: $0 --install | HOST:PORT" >&2; exit 2 ;;
    esac
}
