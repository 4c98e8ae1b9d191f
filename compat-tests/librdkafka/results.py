"""What librdkafka's test-runner has and what it said.

    results.py list TEST_C                                  name TAB local|broker for every test run by default
    results.py verdict SUITE NAME SUBTEST STATUS LOG        one line of the report for one run of one test
"""
import re
import sys


def listed(source):
    table = source[source.index("struct test tests[] = {"):]
    for entry in table[:table.index("\n};")].split("_TEST(")[1:]:
        name = re.match(r"\w+", entry)[0]
        scenario = re.search(r'\.scenario\s*=\s*"([^"]*)"', entry)
        if name.startswith("8") or "TEST_F_MANUAL" in entry or (scenario and "default" not in scenario[1]):
            continue
        yield name, "local" if re.search(r"TEST_F_LOCAL\b", entry) else "broker"


def last_words(name, lines):
    """The line that says best why the test failed: the runner prints it just before it aborts."""
    for number, line in enumerate(lines):
        if f'### Test "{name}' in line:
            said = " ".join(lines[number:number + 2])
            return said.split("failed at", 1)[-1].strip("# ")
    own = [line for line in lines if f"[{name}" in line]
    return (own or lines or ["no output"])[-1]


def verdict(suite, name, subtest, status, log):
    text = re.sub(r"\x1b\[[0-9;]*m", "", open(log, errors="replace").read())
    lines = [line for line in text.splitlines() if line.strip()]
    shown = f"{suite}/{name}" + (f".{subtest.rstrip(':')}" if subtest else "")
    row = re.search(rf"^\|\s*{name}\s+\|\s+([A-Z_ ]+?)\s+\|\s+([\d.]+)s\s*\| ?(.*)$", text, re.M)
    state = row[1] if row else "RUNNING"
    if state == "RUNNING":
        end = "did not end in time" if status in (124, 137) else f"ended with status {status}"
        return f"FAIL {shown}: {end}: {last_words(name, lines)}"
    if state == "SKIPPED":
        why = row[3].strip(" |") or "skipped by itself"
        return f"skip {shown}: {why.replace('Filtered due to negative test flags', 'marked by librdkafka as a known issue')}"
    if state != "PASSED":
        return f"FAIL {shown}: {row[3].strip(' |') or state}: {last_words(name, lines)}"
    # The runner prints the name of every subtest it starts; none means that the name is wrong.
    if subtest and not re.search(rf"^.*\[ .*{re.escape(subtest)}.* \]", text, re.M):
        return f"FAIL {shown}: no subtest has this name"
    return f"ok {shown} ({row[2]} s)"


if sys.argv[1] == "list":
    for test in listed(open(sys.argv[2]).read()):
        print(*test, sep="\t")
else:
    print(" ".join(verdict(*sys.argv[2:5], int(sys.argv[5]), sys.argv[6]).split())[:300])
