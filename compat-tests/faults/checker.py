"""Judges what a client did during faults: what it was told, what the log holds, what its consumer got. No I/O but reading
the files a client writes, a line a record, times in milliseconds since 1970:

    acks        TIME NUMBER PARTITION OFFSET    the producer was told that the record is there
    deliveries  TIME NUMBER PARTITION OFFSET    the group's consumer was given the record
    errors      TIME KIND TEXT                  what the application was told that it cannot ignore
    notes       TIME KIND TEXT                  what it was told and may ignore; shown, not counted

A producer numbers its records from 0 in the order it sends them. Numbers that were sent and neither acknowledged nor reported as
failed are errors of the kind `unsettled`, which the client writes itself.
"""
import bisect
import math
import os
import time
from collections import defaultdict

# What has to be 0, in the order of the table.
COUNTS = {
    "errors": "errors the application was told of",
    "lost": "acknowledged, and not in the log",
    "duplicated": "in the log more than once",
    "reordered": "in the log behind a record of its producer that was sent later",
    "misplaced": "acknowledged with the offset of something else",
    "undelivered": "acknowledged, and never given to the group's consumer",
    "phantom": "given to the group's consumer, and not what the log holds there",
    "holes": "offsets between first and last of a partition that hold nothing",
}
# So many of each are named, all are counted.
NAMED = 20


def read_records(path):
    """[(time, number, partition, offset)] of a file of acks or deliveries; a torn last line is left out."""
    records = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                when, number, partition, offset = line.split()
                records.append((int(when), int(number), int(partition), int(offset)))
    return records


def read_words(path):
    """[(time, kind, text)] of a file of errors or notes."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as lines:
        split = (line.strip().split(" ", 2) for line in lines)
        return [(int(words[0]), words[1], " ".join(words[2:])) for words in split if len(words) > 1]


def clock(when):
    """Local time of day with milliseconds."""
    return time.strftime("%H:%M:%S", time.localtime(when / 1000)) + f".{when % 1000:03d}"


class Fault:
    """A thing done to the cluster: its kind, when it began, words that name it."""

    def __init__(self, kind, begin, words):
        self.kind, self.begin, self.words = kind, begin, words


def during(faults, when):
    """Which fault a time follows, in words."""
    before = [fault for fault in faults if fault.begin <= when]
    if not before:
        return "before any fault"
    return f"{(when - before[-1].begin) / 1000:.1f} s after {before[-1].words} began"


class Verdict:
    """The counts of one client, and its first findings of each kind in words."""

    def __init__(self):
        self.counts = dict.fromkeys(COUNTS, 0)
        self.findings = defaultdict(list)

    def found(self, kind, words):
        self.counts[kind] += 1
        if len(self.findings[kind]) < NAMED:
            self.findings[kind].append(words)

    @property
    def good(self):
        return not any(self.counts.values())


def judge(acks, deliveries, errors, log, faults=(), consumed=True):
    """`log` is {partition: [(offset, number)]} in the order read from the beginning; number is None for what is not a record of this
    producer. `consumed` says whether the group's consumer went on to the end: else nothing is undelivered. The rest is as the files
    have it."""
    verdict = Verdict()
    for when, kind, text in errors:
        verdict.found("errors", f"{kind}: {text} at {clock(when)}, {during(faults, when)}")
    places, at = _judge_log(log, verdict)
    delivered = set()
    for when, number, partition, offset in deliveries:
        delivered.add(number)
        if at.get((partition, offset)) != number:
            verdict.found("phantom", f"record {number} came from partition {partition} offset {offset} at {clock(when)}, "
                                     f"{during(faults, when)}; the log holds {_held(at, partition, offset)} there")
    for when, number, partition, offset in acks:
        told = f"record {number}, acknowledged for partition {partition} offset {offset} at {clock(when)}, {during(faults, when)}"
        if number not in places:
            verdict.found("lost", f"{told}; the log holds {_held(at, partition, offset)} there")
        # A producer is told no offset of what the broker had already.
        elif offset >= 0 and (partition, offset) not in places[number]:
            verdict.found("misplaced", f"{told}; it is at {places[number]}")
        if consumed and number not in delivered:
            verdict.found("undelivered", told)
    return verdict


def _held(at, partition, offset):
    return f"record {at[partition, offset]}" if (partition, offset) in at else "nothing"


def _judge_log(log, verdict):
    """Finds what the log alone shows; where each record is, and what is where."""
    places, at = defaultdict(list), {}
    for partition, records in sorted(log.items()):
        expected, newest = 0, (-1, -1)
        for offset, number in records:
            if offset != expected:
                verdict.found("holes", f"partition {partition}: offset {offset} follows offset {expected - 1}")
            expected = offset + 1
            at[partition, offset] = number
            if number is None:
                verdict.found("phantom", f"partition {partition} offset {offset} holds what was not sent")
                continue
            places[number].append((partition, offset))
            if len(places[number]) > 1:
                verdict.found("duplicated", f"record {number} is at (partition, offset) {places[number]}")
            elif number < newest[0]:
                verdict.found("reordered", f"record {number} is at partition {partition} offset {offset}, behind record {newest[0]} "
                                           f"at offset {newest[1]}")
            newest = max(newest, (number, offset))
    return dict(places), at


def longest_gaps(records, faults, end):
    """For each fault the longest time without a record, in ms: (on the worst partition, on all partitions together). A gap belongs to
    the fault in whose time it ends, which goes until the next fault begins; one that is open at `end` ends there."""
    if not faults:
        return []
    begins, by_partition = [fault.begin for fault in faults], defaultdict(list)
    for when, _, partition, _ in records:
        by_partition[partition].append(when)
    each = [_longest(times, begins, end) for times in by_partition.values()] or [_longest([], begins, end)]
    together = _longest([record[0] for record in records], begins, end)
    return list(zip(map(max, zip(*each)), together))


def _longest(times, begins, end):
    """The longest gap that ends after each of these begins and before the next."""
    times = sorted(when for when in times if when < end) + [end]
    first = bisect.bisect_right(times, begins[0])
    earlier, longest = times[first - 1] if first else begins[0], [0] * len(begins)
    for later in times[first:]:
        at = bisect.bisect_right(begins, later) - 1
        longest[at] = max(longest[at], later - earlier)
        earlier = later
    return longest


def percentile(values, percent):
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def gap_table(records, faults, end):
    """{kind of fault: {faults, p50, p99, max, and the same `together` for all partitions}} in ms."""
    gaps = longest_gaps(records, faults, end)
    table = {}
    for kind in dict.fromkeys(fault.kind for fault in faults):
        of_kind = [gap for gap, fault in zip(gaps, faults) if fault.kind == kind]
        row = {"faults": len(of_kind)}
        for place, prefix in ((0, ""), (1, "together_")):
            values = [gap[place] for gap in of_kind]
            row.update({f"{prefix}p50": percentile(values, 50), f"{prefix}p99": percentile(values, 99), f"{prefix}max": max(values)})
        table[kind] = row
    return table
