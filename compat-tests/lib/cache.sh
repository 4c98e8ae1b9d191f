# Fetching and building what the suites need, from the package registries by their ordinary clients, into $CACHE.
# Every step leaves a stamp, so that a warm cache costs nothing; a changed version makes a new folder.

# once STAMP COMMAND...: runs the command unless an earlier run of it succeeded; its output goes to STAMP.log. The command's
# status decides, so a function's steps are joined by && (set -e has no effect below || and &&).
once() {
    local stamp=$1; shift
    [ -f "$stamp" ] && return 0
    mkdir -p "$(dirname "$stamp")"
    (
        flock 9
        [ -f "$stamp" ] && exit 0
        ( "$@" ) > "$stamp.log" 2>&1 < /dev/null && touch "$stamp"
    ) 9> "$stamp.lock" || {
        echo "$SUITE: could not be installed, see $stamp.log:" >&2
        tail -n 5 "$stamp.log" >&2
        return 1
    }
}

# debian PACKAGE...: installs what is missing.
debian() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    local sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    mkdir -p "$CACHE"
    (
        flock 9
        $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
    ) 9> "$CACHE/apt.lock" > "$CACHE/apt.log" 2>&1 < /dev/null || {
        echo "$SUITE: apt-get install ${missing[*]} failed, see $CACHE/apt.log:" >&2
        tail -n 3 "$CACHE/apt.log" >&2
        return 1
    }
}

# command_from COMMAND PACKAGE...: installs the packages unless the command is there (from whatever source).
command_from() {
    command -v "$1" > /dev/null || debian "${@:2}"
}

# python_venv FOLDER REQUIREMENTS_FILE: a virtual environment with these packages.
python_venv() {
    debian python3-venv || return 1
    # The checksum makes a change of the requirements build the environment anew.
    VENV=$1-$(cksum < "$2" | cut -d' ' -f1)
    build_venv() { rm -rf "$VENV" && python3 -m venv "$VENV" && "$VENV/bin/pip" install -q --disable-pip-version-check -r "$1"; }
    once "$VENV.ready" build_venv "$2"
}

# kafka_jars VERSION: Apache Kafka with its tools and what they depend on, in $JARS.
kafka_jars() {
    maven_jars "$CACHE/java/$1" org.apache.kafka:kafka_2.13:"$1" org.apache.kafka:kafka-tools:"$1" $(kafka_logging "$1")
}

# kafka_logging VERSION: the artifacts that make this version of Kafka log.
kafka_logging() {
    case $1 in
        2.*) ;; # brings its own
        3.*) echo org.slf4j:slf4j-reload4j:1.7.36 ;;
        *) echo org.apache.logging.log4j:log4j-{slf4j-impl,core}:2.24.3 ;;
    esac
}

# maven_jars FOLDER GROUP:ARTIFACT:VERSION...: the artifacts and what they depend on, in $JARS, which lies in the folder.
maven_jars() {
    JARS=$1/jars
    command_from javac default-jdk-headless && command_from mvn maven || return 1
    once "$1/ready" fetch_jars "$@"
}

fetch_jars() {
    local folder=$1 artifact; shift
    cd "$folder" || return 1
    {
        echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        echo '<groupId>klamm</groupId><artifactId>compat</artifactId><version>1</version><dependencies>'
        for artifact in "$@"; do
            # shellcheck disable=SC2086  # three words
            printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n' ${artifact//:/ }
        done
        echo '</dependencies></project>'
    } > pom.xml
    rm -rf jars && mvn -q -B -Dmaven.repo.local="$CACHE/m2" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=jars
}

# java_classes FOLDER CLASS_PATH SOURCE...: the compiled sources, in $CLASSES, which lies in the folder.
java_classes() {
    # The checksum makes a change of the sources compile them anew.
    CLASSES=$1/classes-$(cat "${@:3}" | cksum | cut -d' ' -f1)
    once "$CLASSES.ready" compile_java "$CLASSES" "${@:2}"
}

compile_java() {
    mkdir -p "$1" && javac -nowarn -Xlint:-deprecation -d "$1" -cp "$2" "${@:3}"
}
