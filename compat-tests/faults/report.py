"""The result as tables, and in words what is not as it should be; several results as one."""
import json
import sys

from checker import COUNTS, spread

KINDS = {"calm": "no fault", "kill": "kill -9", "restart": "SIGTERM"}
# Named of each kind when results are added up.
NAMED = 20
# Columns of their own in the table by kind.
BY_KIND = ("lost", "duplicated", "altered", "reordered", "lost_commits")


def _rows(head, rows):
    widths = [max(len(str(row[at])) for row in [head] + rows) for at in range(len(head))]
    for row in [head] + rows:
        print("  ".join(f"{str(cell):<{width}}" if at == 0 else f"{str(cell):>{width}}" for at, (cell, width) in enumerate(zip(row, widths))).rstrip())


def table(result):
    kinds = [fault["kind"] for fault in result["faults"] if fault["kind"] != "calm"]
    done = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "none"
    seed = "" if result["seed"] is None else f", seed {result['seed']}"
    print(f"{result['broker']}, nodes: {result['nodes']}; {len(kinds)} faults ({done}) in {result['seconds']} s, "
          f"{result['rate']:g} records a second and client{seed}")
    clients = result["clients"]
    print()
    columns = ["acknowledged", *COUNTS, "delivered_again"]
    _rows(["client"] + [column.replace("_", " ") for column in columns],
          [[name] + [client[column] for column in columns] for name, client in clients.items()])
    for name, client in clients.items():
        if client["notes"]:
            told = ", ".join(f"{kind} {times}" for kind, times in client["notes"].items())
            print(f"{name}, not counted as errors: {told}")
    if set(kinds) <= set(KINDS) and all("acknowledgement_gaps_ms" in client for client in clients.values()):
        _gaps(clients)
    else:
        _kinds(result)
    print()
    for problem in result["problems"]:
        print(f"FAIL {problem}")
    for name, client in clients.items():
        for count, words in client["findings"].items():
            print(f"FAIL {name}: {client[count]} {count.replace('_', ' ')} ({COUNTS[count]}):")
            for text in words:
                print(f"    {text}")
            if client[count] > len(words):
                print(f"    and {client[count] - len(words)} more")
    print("all as it should be" if result["good"] else "NOT as it should be", flush=True)


def _gaps(clients):
    print("\nlongest time without an acknowledgement, in ms: on the worst partition; in brackets, on all of the client's together")
    rows = []
    for name, client in clients.items():
        for kind, gaps in client["acknowledgement_gaps_ms"].items():
            rows.append([name, KINDS[kind], gaps["faults"]] + [f"{gaps[at]} ({gaps['together_' + at]})" for at in ("p50", "p99", "max")])
    if rows:
        _rows(["client", "fault", "times", "p50", "p99", "max"], rows)


def by_kind(result):
    """A row for each kind of fault and client: how often, the times as p50/p99/max in ms, and the counts of what was found after it."""
    rows = []
    for kind in sorted({fault["kind"] for fault in result["faults"]}):
        for name, client in result["clients"].items():
            # A client that ended has no times of later faults.
            times = [times for times, fault in zip(client["recoveries_ms"], result["faults"]) if fault["kind"] == kind]
            row = {"kind": kind, "client": name, "times": len(times)}
            for place in ("worst", "elsewhere", "after"):
                values = spread([each[place] for each in times if each[place] is not None])
                row[place] = "/".join("-" if value is None else str(value) for value in values.values())
            counts = [counts for at, counts in client["by_fault"].items() if result["faults"][int(at)]["kind"] == kind]
            row.update({count: sum(each.get(count, 0) for each in counts) for count in COUNTS})
            row["other"] = sum(row[count] for count in COUNTS if count not in BY_KIND)
            rows.append(row)
    return rows


def _kinds(result):
    print("\ntime from the fault to the acknowledgement that ends the longest silence begun before it was undone, in ms, p50/p99/max: on "
          "the worst partition; on the\nworst that the hurt nodes did not lead; and how long after the fault was undone the last partition "
          "was back. Then what was found after such a fault")
    columns = ["times", "worst", "elsewhere", "after", *BY_KIND, "other"]
    _rows(["fault", "client"] + [column.replace("_", " ") for column in columns],
          [[row["kind"], row["client"]] + [row[column] for column in columns] for row in by_kind(result)])


def added(results):
    """Several results as one."""
    total = {"broker": "+".join(dict.fromkeys(result["broker"] for result in results)),
             "nodes": "+".join(dict.fromkeys(str(result["nodes"]) for result in results)),
             "seed": "+".join(str(result["seed"]) for result in results), "seconds": sum(result["seconds"] for result in results),
             "rate": max(result["rate"] for result in results), "good": all(result["good"] for result in results),
             "faults": [], "problems": [], "clients": {}}
    for result in results:
        before = len(total["faults"])
        total["problems"] += [f"seed {result['seed']}: {problem}" for problem in result["problems"]]
        for name, client in result["clients"].items():
            sums = total["clients"].setdefault(name, {**dict.fromkeys(COUNTS, 0), "acknowledged": 0, "delivered_again": 0, "notes": {}, "findings": {},
                                                      "recoveries_ms": [], "by_fault": {}})
            for count in (*COUNTS, "acknowledged", "delivered_again"):
                sums[count] += client[count]
            for kind, times in client["notes"].items():
                sums["notes"][kind] = sums["notes"].get(kind, 0) + times
            for kind, words in client["findings"].items():
                sums["findings"][kind] = (sums["findings"].get(kind, []) + words)[:NAMED]
            sums["by_fault"].update({str(before + int(at)): counts for at, counts in client["by_fault"].items()})
            unknown = {"worst": None, "elsewhere": None, "after": None}
            # Times go by the number of the fault, also when an earlier run lacked this client or the client ended.
            sums["recoveries_ms"] += [unknown] * (before - len(sums["recoveries_ms"])) + client["recoveries_ms"]
        total["faults"] += result["faults"]
    return total


def main():
    arguments, output = sys.argv[1:], None
    if len(arguments) > 1 and arguments[0] == "-o":
        output, arguments = arguments[1], arguments[2:]
    results = []
    for path in arguments:
        with open(path, encoding="utf-8") as file:
            results.append(json.load(file))
    total = added(results)
    table(total)
    if output:
        with open(output, "w", encoding="utf-8") as file:
            json.dump(total, file, indent=1)
    sys.exit(0 if total["good"] else 1)


if __name__ == "__main__":
    main()
