# The line format every suite reports in, and the two reasons a check is not run: a feature listed in `later`, and --only.
# Sourced by suite scripts. Reads SUITE, LATER (space-separated features), ONLY (extended regex) and COMPAT (this folder's parent).

ok()   { printf 'ok %s/%s%s\n' "$SUITE" "$1" "${2:+ ($2)}"; }
fail() { printf 'FAIL %s/%s: %s\n' "$SUITE" "$1" "${2:-no message}"; }
skip() { printf 'skip %s/%s: %s\n' "$SUITE" "$1" "${2:-no reason}"; }

# selected NAME: whether --only lets this check run.
selected() { [[ "$SUITE/$1" =~ ${ONLY:-.} ]]; }

# later_reason FEATURE,...: prints why a check that needs these features is skipped; fails when none of them is switched off.
later_reason() {
    local feature
    for feature in ${1//,/ }; do
        if [[ " $LATER " == *" $feature "* ]]; then
            sed -n "s/^$feature  *//p" "$COMPAT/later" | head -n 1
            return 0
        fi
    done
    return 1
}

# skip_reason FILE NAME: the reason a skip file gives for leaving NAME out; fails when it is to run. A line of the file is a
# shell pattern over names, then either later:FEATURE[,FEATURE...] or the reason in words. The first matching line decides.
skip_reason() {
    local pattern reason
    while read -r pattern reason; do
        [[ -z $pattern || $pattern == \#* ]] && continue
        # shellcheck disable=SC2053  # the right side is a pattern on purpose
        [[ $2 == $pattern ]] || continue
        case $reason in
            later:*) later_reason "${reason#later:}" ; return ;;
            *) printf '%s\n' "$reason"; return 0 ;;
        esac
    done < "$1"
    return 1
}
