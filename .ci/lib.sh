# Shared by the scripts here; source it.

# What compiling needs: a C++ compiler for RocksDB, libclang for its bindings.
BUILD_PACKAGES="clang g++ libclang-dev make"
# What the tests need besides: file systems whose power can be cut, networks that can be cut, clients.
TEST_PACKAGES="default-jdk-headless e2fsprogs faketime iproute2 kcat maven mount nftables python3 python3-venv"

# install_packages NAME...: those that are not there yet, by apt-get.
install_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2> /dev/null | grep -q 'install ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    echo "installing ${missing[*]}" >&2
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# Compiled dependencies outlive the clone where a cache folder is there (RocksDB takes minutes).
use_cache() {
    if [ -z "${CARGO_TARGET_DIR:-}" ] && [ -d "$HOME/.cache/klamm" ]; then
        export CARGO_TARGET_DIR="$HOME/.cache/klamm/target"
    fi
}
