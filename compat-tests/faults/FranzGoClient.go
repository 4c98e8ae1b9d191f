// Command FranzGoClient is a producer and a group's consumer of franz-go. Arguments and files: see README.md, "Clients during faults".
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	keys    = 96
	repeats = 11
	// franz-go tries for ever by default.
	settled = 330 * time.Second
)

// content is the key and the value of a record, as faults/checker.py has it.
func content(number int64) ([]byte, []byte) {
	filler := strings.Repeat(fmt.Sprintf("%08x", uint32(number*2654435761)), repeats)
	return fmt.Appendf(nil, "k%d", number%keys), fmt.Appendf(nil, "%d %s", number, filler)
}

// numberOf is the number at the head of a value, or -1.
func numberOf(value []byte) int64 {
	head, _, _ := strings.Cut(string(value), " ")
	number, err := strconv.ParseUint(head, 10, 31)
	if err != nil {
		return -1
	}
	return int64(number)
}

// file takes lines, which reach the disk at least every 200 ms of use.
type file struct {
	mutex   sync.Mutex
	writer  *bufio.Writer
	flushed time.Time
}

func open(folder, name string) *file {
	opened, err := os.Create(filepath.Join(folder, name))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return &file{writer: bufio.NewWriter(opened)}
}

func (f *file) line(format string, values ...any) {
	now := time.Now()
	f.mutex.Lock()
	defer f.mutex.Unlock()
	words := strings.ReplaceAll(fmt.Sprintf(format, values...), "\n", " ")
	fmt.Fprintf(f.writer, "%d %s\n", now.UnixMilli(), words)
	if now.Sub(f.flushed) > 200*time.Millisecond {
		f.writer.Flush()
		f.flushed = now
	}
}

func (f *file) flush() {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.writer.Flush()
}

type member struct {
	topic                           string
	rate                            float64
	acks, deliveries, failed, notes *file
	commits                         *file
	sent, answered                  atomic.Int64
	stop                            atomic.Bool
	ends                            atomic.Pointer[map[int32]int64]
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: FranzGoClient BOOTSTRAP TOPIC GROUP RATE FOLDER")
		os.Exit(2)
	}
	rate, err := strconv.ParseFloat(os.Args[4], 64)
	check(err)
	folder := os.Args[5]
	m := &member{topic: os.Args[2], rate: rate, acks: open(folder, "acks"), deliveries: open(folder, "deliveries"),
		commits: open(folder, "commits"), failed: open(folder, "errors"), notes: open(folder, "notes")}
	seeds := kgo.SeedBrokers(strings.Split(os.Args[1], ",")...)
	logger := kgo.WithLogger(kgo.BasicLogger(os.Stderr, kgo.LogLevelInfo, func() string { return time.Now().Format("15:04:05.000 ") }))
	producer, err := kgo.NewClient(seeds, logger)
	check(err)
	consumer, err := kgo.NewClient(seeds, logger, kgo.ConsumeTopics(m.topic), kgo.ConsumerGroup(os.Args[3]),
		kgo.AutoCommitCallback(m.committed))
	check(err)
	sent, read := make(chan struct{}), make(chan struct{})
	go func() { m.send(producer); close(sent) }()
	go func() { m.read(consumer); close(read) }()
	commands := bufio.NewScanner(os.Stdin)
	commands.Buffer(nil, 1<<20)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		switch words[0] {
		case "stop":
			m.stop.Store(true)
			<-sent
			m.settle(producer)
			fmt.Println("produced", m.sent.Load())
		case "drain":
			ends := map[int32]int64{}
			for _, pair := range words[1:] {
				var partition int32
				var end int64
				_, err := fmt.Sscanf(pair, "%d:%d", &partition, &end)
				check(err)
				ends[partition] = end
			}
			m.ends.Store(&ends)
			<-read
			m.commits.flush()
			m.failed.flush()
			m.notes.flush()
			fmt.Println("consumed")
			return
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// send sends numbered records at a steady rate until told to stop.
func (m *member) send(client *kgo.Client) {
	began := time.Now()
	for !m.stop.Load() {
		number := m.sent.Load()
		time.Sleep(time.Until(began.Add(time.Duration(float64(number) / m.rate * float64(time.Second)))))
		m.sent.Add(1)
		key, value := content(number)
		record := &kgo.Record{Topic: m.topic, Key: key, Value: value}
		client.Produce(context.Background(), record, func(record *kgo.Record, err error) {
			m.answered.Add(1)
			if err != nil {
				m.failed.line("delivery record %d: %v", number, err)
				return
			}
			m.acks.line("%d %d %d", number, record.Partition, record.Offset)
		})
	}
}

func (m *member) settle(client *kgo.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), settled)
	defer cancel()
	if err := client.Flush(ctx); err != nil {
		m.notes.line("flush %v", err)
	}
	if open := m.sent.Load() - m.answered.Load(); open != 0 {
		m.failed.line("unsettled %d records had neither an acknowledgement nor an error", open)
	}
	m.acks.flush()
}

// read reads as a member of the group, committing as it comes by default.
func (m *member) read(client *kgo.Client) {
	next := map[int32]int64{}
	for !m.done(next) {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		fetches := client.PollFetches(ctx)
		cancel()
		fetches.EachError(func(topic string, partition int32, err error) {
			var session *kgo.ErrGroupSession
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				// The end of the wait is reported as an error, too.
			case errors.As(err, &session):
				// Informational, says the documentation of Fetches.EachError: the client joins again by itself.
				m.notes.line("group-session %v", err)
			default:
				m.failed.line("consumer %s-%d: %v", topic, partition, err)
			}
		})
		fetches.EachRecord(func(record *kgo.Record) {
			crc := crc32.Update(crc32.ChecksumIEEE(record.Key), crc32.IEEETable, record.Value)
			m.deliveries.line("%d %d %d %d", numberOf(record.Value), record.Partition, record.Offset, crc)
			next[record.Partition] = record.Offset + 1
		})
	}
	client.Close()
	m.deliveries.flush()
}

// committed is told of each commit that the client made by itself: what it asked for, and what it was answered.
func (m *member) committed(_ *kgo.Client, asked *kmsg.OffsetCommitRequest, answered *kmsg.OffsetCommitResponse, err error) {
	good := map[int32]bool{}
	if err != nil {
		m.notes.line("commit %v", err)
	} else {
		for _, topic := range answered.Topics {
			for _, partition := range topic.Partitions {
				good[partition.Partition] = partition.ErrorCode == 0
			}
		}
	}
	if asked == nil {
		return
	}
	for _, topic := range asked.Topics {
		for _, partition := range topic.Partitions {
			acknowledged := 0
			if good[partition.Partition] {
				acknowledged = 1
			}
			m.commits.line("%d %d %d", partition.Partition, partition.Offset, acknowledged)
		}
	}
}

func (m *member) done(next map[int32]int64) bool {
	ends := m.ends.Load()
	if ends == nil {
		return false
	}
	for partition, end := range *ends {
		if next[partition] < end {
			return false
		}
	}
	return true
}
