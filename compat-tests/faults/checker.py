"""Judges what a client did during faults: what it was told, what the log holds, what its consumer got. No I/O but reading
the files a client writes, a line a record, times in milliseconds since 1970:

    acks        TIME NUMBER PARTITION OFFSET          the producer was told that the record is there
    deliveries  TIME NUMBER PARTITION OFFSET CRC      the group's consumer was given the record
    commits     TIME PARTITION OFFSET ACKNOWLEDGED    the consumer asked to commit this; 1 if it was told that it is, else 0
    errors      TIME KIND TEXT                        what the application was told that it cannot ignore
    notes       TIME KIND TEXT                        what it was told and may ignore; shown, not counted

A producer numbers its records from 0 in the order it sends them; key and value follow from the number (`content`), and CRC is the
CRC-32 of both. Numbers that were sent and neither acknowledged nor reported as failed are errors of the kind `unsettled`, which the
client writes itself. Records are held in columns of machine numbers: millions of them are usual.
"""
import bisect
import math
import os
import time
import zlib
from array import array
from collections import defaultdict

# What has to be 0, in the order of the table.
COUNTS = {
    "errors": "errors the application was told of",
    "lost": "acknowledged, and not in the log",
    "duplicated": "in the log more than once",
    "reordered": "in the log behind a record of its producer that was sent later",
    "altered": "read with another key or value than what was sent",
    "misplaced": "acknowledged with the offset of something else",
    "undelivered": "acknowledged, and never given to the group's consumer",
    "phantom": "given to the group's consumer, and not what the log holds there",
    "holes": "offsets between first and last of a partition that hold nothing",
    "lost_commits": "commits that were acknowledged, and then the group was behind them",
    "phantom_commits": "commits of the group that nobody asked for",
}
# So many of each are named, all are counted.
NAMED = 20
KEYS, REPEATS = 96, 11
# The number of what is not a record of the producer, and a time nobody knows.
NOBODYS, UNKNOWN = -1, -1


def content(number):
    """Key and value of a record. Values differ in every byte's reach, so that a mixed one cannot pass."""
    return b"k%d" % (number % KEYS), b"%d %s" % (number, (b"%08x" % (number * 2654435761 & 0xFFFFFFFF)) * REPEATS)


def checksum(key, value):
    return zlib.crc32(value or b"", zlib.crc32(key or b""))


def number_of(value):
    """The number at the head of a value, or NOBODYS."""
    head = (value or b"")[:11].split(b" ", 1)[0]
    return int(head) if head.isdigit() and int(head) < 1 << 31 else NOBODYS


class Rows:
    """Rows of whole numbers, held in one array a column."""

    def __init__(self, types, rows=()):
        self.columns = [array(kind) for kind in types]
        for row in rows:
            self.append(*row)

    def append(self, *row):
        for column, value in zip(self.columns, row):
            column.append(value)

    def __len__(self):
        return len(self.columns[0])

    def __iter__(self):
        return zip(*self.columns)


def ack_rows(rows=()):
    """(time, number, partition, offset)"""
    return Rows("qihq", rows)


def delivery_rows(rows=()):
    """(time, number, partition, offset, CRC)"""
    return Rows("qihqI", rows)


def commit_rows(rows=()):
    """(time, partition, offset, acknowledged)"""
    return Rows("qhqb", rows)


def log_rows(rows=()):
    """(offset, number, CRC) of one partition in the order read from the beginning; number is NOBODYS for what is no record of ours."""
    return Rows("qiI", rows)


def read_rows(path, rows):
    """Adds the rows of a file; a torn last line is left out."""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    rows.append(*map(int, line.split()))
    return rows


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
    """A thing done to the cluster: its kind, when it began, words that name it; when it was undone, and the partitions that the hurt
    nodes led when it began, as (topic, partition)."""

    def __init__(self, kind, begin, words, undone=None, led=frozenset()):
        self.kind, self.begin, self.words, self.undone, self.led = kind, begin, words, undone or begin, led


def following(faults, when):
    """The number of the fault that a time follows; None before any."""
    before = bisect.bisect_right([fault.begin for fault in faults], when)
    return before - 1 if before and when >= 0 else None


def during(faults, when):
    """Which fault a time follows, in words."""
    at = following(faults, when)
    if at is None:
        return "at a time that is not known" if when < 0 else "before any fault"
    return f"{(when - faults[at].begin) / 1000:.1f} s after {faults[at].words} began"


class Verdict:
    """The counts of one client, by fault as well, and its first findings of each kind in words."""

    def __init__(self, faults=()):
        self.faults = faults
        self.counts = dict.fromkeys(COUNTS, 0)
        self.findings = defaultdict(list)
        # {number of the fault: {what: how often}}
        self.by_fault = defaultdict(lambda: defaultdict(int))

    def found(self, kind, when, words):
        self.counts[kind] += 1
        at = following(self.faults, when)
        if at is not None:
            self.by_fault[at][kind] += 1
        if len(self.findings[kind]) < NAMED:
            self.findings[kind].append(words)

    @property
    def good(self):
        return not any(self.counts.values())


class History:
    """All there is of one client: its rows, {partition: log_rows} as read back, what was asked of the group's offsets in between as
    [(time asked, partition, offset or -1)], and whether its consumer went on to the end: else nothing is undelivered."""

    def __init__(self, acks, deliveries, errors, log, commits=(), fetched=(), consumed=True):
        self.acks, self.deliveries, self.errors, self.log = acks, deliveries, errors, log
        self.commits, self.fetched, self.consumed = commits, fetched, consumed


def judge(history, faults=()):
    verdict = Verdict(faults)
    for when, kind, text in history.errors:
        verdict.found("errors", when, f"{kind}: {text} at {clock(when)}, {during(faults, when)}")
    log = _Log(history, verdict)
    delivered = _judge_deliveries(history, log, verdict)
    for when, number, partition, offset in history.acks:
        places = log.places(number)
        if places and (offset < 0 or (partition, offset) in places) and (not history.consumed or delivered[number]):
            continue
        told = f"record {number}, acknowledged for partition {partition} offset {offset} at {clock(when)}, {during(faults, when)}"
        if not places:
            verdict.found("lost", when, f"{told}; the log holds {log.words(partition, offset)} there")
        # A producer is told no offset of what the broker had already.
        elif offset >= 0 and (partition, offset) not in places:
            verdict.found("misplaced", when, f"{told}; it is at {places}")
        if history.consumed and not delivered[number]:
            verdict.found("undelivered", when, told)
    _judge_commits(history, verdict)
    return verdict


def _judge_deliveries(history, log, verdict):
    """Compares them with the log; which numbers there are, a byte for each."""
    delivered = bytearray(log.limit)
    for when, number, partition, offset, crc in history.deliveries:
        if 0 <= number < log.limit:
            delivered[number] = 1
        if log.at(partition, offset) == number and crc == checksum(*content(number)):
            continue
        told = f"record {number} came from partition {partition} offset {offset} at {clock(when)}, {during(verdict.faults, when)}"
        if log.at(partition, offset) != number:
            verdict.found("phantom", when, f"{told}; the log holds {log.words(partition, offset)} there")
        else:
            verdict.found("altered", when, f"{told} with CRC {crc:08x}; {checksum(*content(number)):08x} was sent")
    return delivered


class _Log:
    """What the log holds: where each record is, and what is where. Making it finds what the log alone shows."""

    def __init__(self, history, verdict):
        self.rows, self.acks, self.verdict = history.log, history.acks, verdict
        self.sorted = {partition: all(a < b for a, b in zip(rows.columns[0], rows.columns[0][1:])) for partition, rows in self.rows.items()}
        self.unsorted = {partition: {offset: number for offset, number, _ in rows} for partition, rows in self.rows.items() if not self.sorted[partition]}
        # Numbers below which there are records: those of altered ones are worth nothing.
        self.limit = 1 + max(max((number for _, number, _, _ in history.acks), default=-1), max((number for rows in self.rows.values() for number in self._intact(rows)), default=-1))
        # Where each number is first, and the further places of those in the log more than once.
        self.partitions, self.offsets, self.further = array("h", [-1]) * self.limit, array("q", [-1]) * self.limit, {}
        self.times = None
        for partition in sorted(self.rows):
            self._judge(partition)

    @staticmethod
    def _intact(rows):
        # The checksum is only worth its time where it can matter: at a number greater than all before.
        greatest = -1
        for _, number, crc in rows:
            if number > greatest and crc == checksum(*content(number)):
                greatest = number
                yield number

    def at(self, partition, offset):
        """The number of what is there; None where there is nothing."""
        rows = self.rows.get(partition)
        if rows is None:
            return None
        if partition in self.unsorted:
            return self.unsorted[partition].get(offset)
        offsets, numbers, _ = rows.columns
        index = offset - offsets[0] if offsets else 0
        if not 0 <= index < len(offsets) or offsets[index] != offset:
            index = bisect.bisect_left(offsets, offset)
        return numbers[index] if index < len(offsets) and offsets[index] == offset else None

    def words(self, partition, offset):
        number = self.at(partition, offset)
        return "nothing" if number is None else "what was not sent" if number == NOBODYS else f"record {number}"

    def places(self, number):
        """[(partition, offset)]"""
        if not 0 <= number < self.limit or self.partitions[number] < 0:
            return []
        return [(self.partitions[number], self.offsets[number])] + self.further.get(number, [])

    def acknowledged_at(self, number):
        """When the record was acknowledged: the only time there is for what is in the log."""
        if self.times is None:
            self.times = array("q", [UNKNOWN]) * self.limit
            for when, acknowledged, _, _ in self.acks:
                self.times[acknowledged] = when
        return self.times[number] if 0 <= number < self.limit else UNKNOWN

    def _judge(self, partition):
        found, expected, newest = self.verdict.found, 0, (-1, -1)
        for offset, number, crc in self.rows[partition]:
            if offset != expected:
                found("holes", self.acknowledged_at(number), f"partition {partition}: offset {offset} follows offset {expected - 1}")
            expected = offset + 1
            if number == NOBODYS:
                found("phantom", UNKNOWN, f"partition {partition} offset {offset} holds what was not sent")
                continue
            if crc != checksum(*content(number)):
                found("altered", self.acknowledged_at(number), f"record {number} at partition {partition} offset {offset} has CRC {crc:08x}; "
                                                               f"{checksum(*content(number)):08x} was sent")
                if number >= self.limit:
                    continue
            if self.partitions[number] >= 0:
                self.further.setdefault(number, []).append((partition, offset))
                self._tell("duplicated", number, f"record {number} is at (partition, offset) {self.places(number)}")
            else:
                self.partitions[number], self.offsets[number] = partition, offset
                if number < newest[0]:
                    self._tell("reordered", number, f"record {number} is at partition {partition} offset {offset}, behind record {newest[0]} "
                                                    f"at offset {newest[1]}")
            if number > newest[0]:
                newest = number, offset

    def _tell(self, kind, number, words):
        when = self.acknowledged_at(number)
        told = "never acknowledged" if when == UNKNOWN else f"acknowledged at {clock(when)}, {during(self.verdict.faults, when)}"
        self.verdict.found(kind, when, f"{words}; {told}")


def delivered_again(deliveries):
    """How many of them were of a place that had been delivered."""
    seen, again = defaultdict(bytearray), 0
    for _, _, partition, offset, _ in deliveries:
        places = seen[partition]
        if offset >= len(places):
            places.extend(bytes(offset + 1 - len(places)))
        again += places[offset]
        places[offset] = 1
    return again


def _judge_commits(history, verdict):
    """The group's offset may not be behind the last acknowledged commit: not where it is asked for, and not where the consumer goes on
    when it has to start anew. Nor may it be what nobody could ask for: more than was delivered. The last, not the greatest: a client
    may commit while an older commit waits for its answer, send that one again, and so go back by itself."""
    asked, beyond, behind = defaultdict(lambda: -1), defaultdict(lambda: -1), {}
    for _, _, partition, offset, _ in history.deliveries:
        asked[partition] = max(asked[partition], offset + 1)
    commits = sorted(history.commits)
    late = defaultdict(dict)
    for when, partition, offset, _ in commits:
        asked[partition] = max(asked[partition], offset)
        # When this offset was answered last, however.
        late[partition][offset] = when
    for when, partition, offset, (committed, acknowledged) in _against(commits, sorted(history.fetched), key=lambda fetch: fetch):
        told = f"partition {partition}: the group's offset was {offset} at {clock(when)}, {during(verdict.faults, when)}"
        # An older commit that is answered after this one may have come after it.
        if offset < committed and late[partition].get(offset, -1) < acknowledged and behind.get(partition) != committed:
            behind[partition] = committed
            verdict.found("lost_commits", when, f"{told}; {committed} was acknowledged at {clock(acknowledged)}")
        if history.consumed and offset > max(asked[partition], beyond[partition]):
            beyond[partition] = offset
            verdict.found("phantom_commits", when, f"{told}; no more than {asked[partition]} was asked for")
    before = {}
    for when, partition, offset, (committed, acknowledged) in _against(commits, history.deliveries, key=lambda row: (row[0], row[2], row[3])):
        # Only a step back is a start anew.
        if offset < committed and offset <= before.get(partition, -1) and late[partition].get(offset, -1) < acknowledged:
            verdict.found("lost_commits", when, f"partition {partition}: offset {offset} was delivered once more at {clock(when)}, "
                          f"{during(verdict.faults, when)}; {committed} had been committed, as acknowledged at {clock(acknowledged)}")
        before[partition] = offset


def _against(commits, rows, key):
    """Beside each (time, partition, offset): the last commit of the partition acknowledged before that time, and when. Of several in
    the same millisecond, the least."""
    at, last = 0, defaultdict(lambda: (-1, UNKNOWN))
    for row in rows:
        when, partition, offset = key(row)
        while at < len(commits) and commits[at][0] < when:
            acknowledged, of, committed, good = commits[at]
            if good and acknowledged > last[of][1]:
                last[of] = committed, acknowledged
            at += 1
        yield when, partition, offset, last[partition]


def _times(records, end):
    """{partition: times of its records before `end`, in order}; of all together under None."""
    times = defaultdict(lambda: array("q"))
    for record in records:
        if record[0] < end:
            times[record[2]].append(record[0])
            times[None].append(record[0])
    return {place: array("q", sorted(column)) for place, column in times.items()}


def longest_gaps(records, faults, end):
    """For each fault the longest time without a record, in ms: (on the worst partition, on all partitions together). A gap belongs to
    the fault in whose time it ends, which goes until the next fault begins; one that is open at `end` ends there."""
    if not faults:
        return []
    begins, times = [fault.begin for fault in faults], _times(records, end)
    together = _longest(times.pop(None, array("q")), begins, end)
    each = [_longest(column, begins, end) for column in times.values()] or [_longest([], begins, end)]
    return list(zip(map(max, zip(*each)), together))


def _longest(times, begins, end):
    """The longest gap that ends after each of these begins and before the next."""
    first = bisect.bisect_right(times, begins[0])
    earlier, longest = times[first - 1] if first else begins[0], [0] * len(begins)
    for at in range(first, len(times) + 1):
        later = times[at] if at < len(times) else end
        where = bisect.bisect_right(begins, later) - 1
        longest[where] = max(longest[where], later - earlier)
        earlier = later
    return longest


def recoveries(records, topic, faults, end):
    """For each fault, in ms, {"worst", "elsewhere", "after"}: from the fault to the first record after the longest silence that began
    before it was undone, on the worst partition, and on the worst one that the hurt nodes did not lead (None if there is none); and
    how long after it was undone the last partition's first record came."""
    times = _times(records, end)
    times.pop(None, None)
    found = []
    for fault in faults:
        row = {"worst": None, "elsewhere": None, "after": None}
        for partition, column in times.items():
            silence, until = _silence(column, fault, end)
            row["worst"] = max(silence, row["worst"] or 0)
            row["after"] = max(until - fault.undone, row["after"] or 0)
            if (topic, partition) not in fault.led:
                row["elsewhere"] = max(silence, row["elsewhere"] or 0)
        found.append(row)
    return found


def _silence(times, fault, end):
    """The longest silence that begins before the fault is undone, counted from the fault on; and its end."""
    at = max(0, bisect.bisect_right(times, fault.begin) - 1)
    longest = (0, fault.begin)
    while at < len(times) and times[at] < max(fault.undone, fault.begin + 1):
        later = times[at + 1] if at + 1 < len(times) else end
        longest = max(longest, (later - max(times[at], fault.begin), later))
        at += 1
    return longest


def percentile(values, percent):
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def spread(values):
    return {"p50": percentile(values, 50), "p99": percentile(values, 99), "max": max(values, default=None)}


def gap_table(records, faults, end):
    """{kind of fault: {faults, p50, p99, max, and the same `together` for all partitions}} in ms."""
    gaps = longest_gaps(records, faults, end)
    table = {}
    for kind in dict.fromkeys(fault.kind for fault in faults):
        of_kind = [gap for gap, fault in zip(gaps, faults) if fault.kind == kind]
        row = {"faults": len(of_kind)}
        for place, prefix in ((0, ""), (1, "together_")):
            row.update({prefix + name: value for name, value in spread([gap[place] for gap in of_kind]).items()})
        table[kind] = row
    return table
