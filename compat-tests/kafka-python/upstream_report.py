"""pytest plugin: reports kafka-python's own integration tests in the format of lib/report.sh, and skips what the file `skip` lists.

The lines go to file descriptor 3. The plugin also stands in for test.service, which the fixtures import but the source package
lacks: they only use it for a broker that they start themselves, or to hold the address of one that runs.
"""
import fnmatch
import os
import re
import sys
import time
import types

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
SUITE = os.environ["SUITE"]
ONLY = re.compile(os.environ.get("ONLY", "."))
OUT = os.fdopen(3, "w", buffering=1)


class ExternalService:
    def __init__(self, host, port):
        self.host, self.port = host, port

    def open(self):
        pass

    close = dump_logs = open


class SpawnedService:
    def __init__(self, *_args, **_kwargs):
        raise RuntimeError("these tests run against a broker that is there already")


service = types.ModuleType("test.service")
service.ExternalService, service.SpawnedService = ExternalService, SpawnedService
sys.modules["test.service"] = service


def later():
    off, reasons = os.environ.get("LATER", "").split(), {}
    for line in open(os.path.join(os.environ["COMPAT"], "later")):
        feature, _, reason = line.strip().partition(" ")
        if feature in off:
            reasons[feature] = reason.strip()
    return reasons


def skip_list():
    for line in open(os.path.join(HERE, "skip")):
        pattern, _, reason = line.strip().partition(" ")
        if not pattern or pattern.startswith("#"):
            continue
        reason = reason.strip()
        if reason.startswith("later:"):
            reason = next((later()[feature] for feature in reason[6:].split(",") if feature in later()), None)
        yield pattern, reason


def shown(nodeid):
    name = nodeid.replace("test/integration/", "").replace("_integration.py::", ".").replace(" ", "_")
    return f"{SUITE}/upstream.{name}"


def say(verdict, nodeid, text):
    text = " ".join(str(text).split())[:300]
    print(f"ok {shown(nodeid)} ({text})" if verdict == "ok" else f"{verdict} {shown(nodeid)}: {text}", file=OUT)


def pytest_collection_modifyitems(items):
    kept = []
    for item in items:
        if not ONLY.search(shown(item.nodeid)):
            continue
        for pattern, reason in skip_list():
            # Brackets in a pattern stand for themselves: they are parameters of a test.
            if fnmatch.fnmatchcase(item.nodeid.split("::")[-1], pattern.replace("[", "[[]")):
                if reason:
                    say("skip", item.nodeid, reason)
                else:
                    kept.append(item)
                break
        else:
            kept.append(item)
    items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        say("skip", item.nodeid, str(reason).removeprefix("Skipped: "))
        item.user_properties.append(("said", True))
    elif report.failed and ("said", True) not in item.user_properties:
        item.user_properties.append(("said", True))
        say("FAIL", item.nodeid, f"{call.excinfo.typename}: {call.excinfo.value} ({report.when})")
    elif report.when == "teardown" and ("said", True) not in item.user_properties:
        say("ok", item.nodeid, f"{call.stop - item.stash.get(STARTED, call.start):.1f} s")


STARTED = pytest.StashKey()


def pytest_runtest_setup(item):
    item.stash[STARTED] = time.time()


def pytest_sessionfinish():
    # The file says that no test took the whole process down.
    open(os.path.join(os.environ["LOGS"], "upstream.done"), "w").close()
