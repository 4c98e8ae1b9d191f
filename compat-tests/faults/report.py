"""The result as tables, and in words what is not as it should be."""
from checker import COUNTS

KINDS = {"calm": "no fault", "failover": "kill -9", "restart": "SIGTERM"}


def _rows(head, rows):
    widths = [max(len(str(row[at])) for row in [head] + rows) for at in range(len(head))]
    for row in [head] + rows:
        print("  ".join(f"{str(cell):<{width}}" if at == 0 else f"{str(cell):>{width}}" for at, (cell, width) in enumerate(zip(row, widths))).rstrip())


def table(result):
    kinds = [fault["kind"] for fault in result["faults"]]
    print(f"{result['broker']}: {kinds.count('failover')} nodes killed and {kinds.count('restart')} restarted in {result['seconds']} s, "
          f"{result['rate']:g} records a second and client")
    clients = result["clients"]
    print()
    columns = ["acknowledged", *COUNTS, "delivered_again"]
    _rows(["client"] + [column.replace("_", " ") for column in columns],
          [[name] + [client[column] for column in columns] for name, client in clients.items()])
    for name, client in clients.items():
        if client["notes"]:
            told = ", ".join(f"{kind} {times}" for kind, times in client["notes"].items())
            print(f"{name} was told, by its documentation for information: {told}")
    print("\nlongest time without an acknowledgement, in ms: on the worst partition; in brackets, on all of the client's together")
    rows = []
    for name, client in clients.items():
        for kind, gaps in client["acknowledgement_gaps_ms"].items():
            rows.append([name, KINDS[kind], gaps["faults"]] + [f"{gaps[at]} ({gaps['together_' + at]})" for at in ("p50", "p99", "max")])
    if rows:
        _rows(["client", "fault", "times", "p50", "p99", "max"], rows)
    print()
    for problem in result["problems"]:
        print(f"FAIL {problem}")
    for name, client in clients.items():
        for count, words in client["findings"].items():
            print(f"FAIL {name}: {client[count]} {count} ({COUNTS[count]}):")
            for text in words:
                print(f"    {text}")
            if client[count] > len(words):
                print(f"    and {client[count] - len(words)} more")
    print("all as it should be" if result["good"] else "NOT as it should be", flush=True)
