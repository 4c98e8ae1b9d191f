"""Runs the functions marked with @check and prints a line each, in the format of lib/report.sh.

A check fails by raising. Each is bounded in time: one that does not come back is reported with where it hangs, and the process
ends there, because a thread inside a C library cannot be stopped.
"""
import os
import re
import sys
import threading
import time
import traceback

SUITE = os.environ["SUITE"]
QUICK = os.environ.get("QUICK") == "1"
ONLY = re.compile(os.environ.get("ONLY", "."))
LATER = {}
for _line in open(os.path.join(os.environ["COMPAT"], "later")):
    _parts = _line.strip().split(None, 1)
    if len(_parts) == 2 and _parts[0] in os.environ.get("LATER", "").split():
        LATER[_parts[0]] = _parts[1]

_checks = []


def check(name, needs="", quick=False, seconds=60, args=()):
    """Marks a function as a check; the decorator may be repeated with other names and args."""
    def mark(function):
        _checks.append((function.__code__.co_firstlineno, len(_checks), name, needs, quick, seconds, function, args))
        return function
    return mark


def _say(verdict, name, rest):
    rest = " ".join(rest.split())[:300]
    print(f"{verdict} {SUITE}/{name}" + (f" ({rest})" if verdict == "ok" else f": {rest}"), flush=True)


def _where(error):
    frames = [f for f in traceback.extract_tb(error.__traceback__) if os.path.basename(f.filename) == os.path.basename(sys.argv[0])]
    return f" at line {frames[-1].lineno}" if frames else ""


def run():
    for _, _, name, needs, quick, seconds, function, args in sorted(_checks, key=lambda c: (c[0], c[1])):
        if not ONLY.search(f"{SUITE}/{name}") or (QUICK and not quick):
            continue
        missing = [LATER[feature] for feature in needs.split(",") if feature in LATER]
        if missing:
            _say("skip", name, missing[0])
            continue
        caught = []

        def body():
            try:
                function(*args)
            except Exception as error:  # pylint: disable=broad-except
                caught.append(error)

        started = time.monotonic()
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            stack = traceback.extract_stack(sys._current_frames()[thread.ident])
            _say("FAIL", name, f"did not end within {seconds} s; it is in {stack[-1].name}, line {stack[-1].lineno}; the checks after it were not run")
            os._exit(1)
        if caught:
            traceback.print_exception(caught[0], file=sys.stderr)
            _say("FAIL", name, f"{type(caught[0]).__name__}: {caught[0]}{_where(caught[0])}")
        else:
            _say("ok", name, f"{time.monotonic() - started:.1f} s")
    sys.exit(0)


def eventually(condition, what, seconds=15):
    """Waits until condition() is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def settles(expected, look, seconds=15):
    """Repeats a look at the cluster until it finds what is expected: a change is answered before every broker knows it."""
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline
        try:
            got = look()
            if late or got == expected:
                break
        except Exception:  # pylint: disable=broad-except
            if late:
                raise
        time.sleep(0.1)
    same(expected, got)


def raises(kind, function, *args, **kwargs):
    """The exception of this kind that the call raises."""
    try:
        function(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"expected {kind}, nothing was raised")


def same(expected, got):
    if expected != got:
        raise AssertionError(f"expected {expected!r:.120}, got {got!r:.120}")
