package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

func values(name string, count int) []string {
	list := make([]string, count)
	for i := range list {
		list[i] = fmt.Sprintf("%s %d %s", name, i, strings.Repeat("x", i%200))
	}
	return list
}

func (r *rig) clientChecks() []check {
	checks := []check{{"ping", "", true, r.ping}}
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for _, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		checks = append(checks, check{"codec-" + name, "", true, func(ctx context.Context) error {
			topic, err := r.topic(ctx, "codec-"+name, 1, nil)
			if err != nil {
				return err
			}
			return r.roundTrip(ctx, topic, values(name, 3000), []kgo.Opt{kgo.ProducerBatchCompression(codecs[name])}, nil)
		}})
	}
	for name, acks := range map[string]kgo.Acks{"none": kgo.NoAck(), "leader": kgo.LeaderAck()} {
		checks = append(checks, check{"acks-" + name, "", false, func(ctx context.Context) error {
			topic, err := r.topic(ctx, "acks-"+name, 1, nil)
			if err != nil {
				return err
			}
			return r.roundTrip(ctx, topic, values(name, 500), []kgo.Opt{kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite()}, nil)
		}})
	}
	return append(checks,
		check{"idempotent-many-partitions", "", true, r.idempotentManyPartitions},
		check{"read-committed", "", false, r.readCommitted},
		check{"headers-and-nulls", "", true, r.headersAndNulls},
		check{"timestamps", "", false, r.timestamps},
		check{"offsets", "", true, r.offsets},
		check{"small-fetches", "", false, r.smallFetches},
		check{"without-fetch-sessions", "", false, r.withoutFetchSessions},
		check{"woken-fetch", "", false, r.wokenFetch},
		check{"out-of-range", "", false, r.outOfRange},
		check{"record-too-large", "", false, r.recordTooLarge},
		check{"missing-topic", "", false, r.missingTopic},
		check{"auto-create", "", false, r.autoCreate},
		check{"older-versions", "", false, r.olderVersions},
		check{"group", "groups", false, r.group},
		check{"transaction", "transactions", false, r.transaction},
	)
}

func (r *rig) ping(ctx context.Context) error {
	client, err := r.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ping(ctx)
}

func (r *rig) idempotentManyPartitions(ctx context.Context) error {
	const partitions, each = 20, 500
	topic, err := r.topic(ctx, "many", partitions, nil)
	if err != nil {
		return err
	}
	client, err := r.client(kgo.ProducerBatchMaxBytes(2000), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer client.Close()
	var mu sync.Mutex
	var failed error
	for i := range each {
		for p := range int32(partitions) {
			record := &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d-%d %s", p, i, strings.Repeat("y", i%300))}
			client.Produce(ctx, record, func(_ *kgo.Record, err error) {
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			})
		}
	}
	if err := client.Flush(ctx); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	for p := range int32(partitions) {
		records, err := r.consume(ctx, topic, p, kgo.NewOffset().AtStart(), each)
		if err != nil {
			return err
		}
		for i, record := range records {
			if want := fmt.Sprintf("%d-%d ", p, i); !strings.HasPrefix(string(record.Value), want) || record.Offset != int64(i) {
				return fmt.Errorf("partition %d, offset %d: got %.40q, expected %q", p, record.Offset, record.Value, want)
			}
		}
	}
	return nil
}

func (r *rig) readCommitted(ctx context.Context) error {
	topic, err := r.topic(ctx, "committed", 1, nil)
	if err != nil {
		return err
	}
	return r.roundTrip(ctx, topic, values("c", 500), nil, []kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted())})
}

func (r *rig) headersAndNulls(ctx context.Context) error {
	topic, err := r.topic(ctx, "headers", 1, nil)
	if err != nil {
		return err
	}
	client, err := r.client()
	if err != nil {
		return err
	}
	defer client.Close()
	headers := []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "null"}, {Key: "", Value: []byte{}}}
	err = client.ProduceSync(ctx, &kgo.Record{Topic: topic, Headers: headers}, &kgo.Record{Topic: topic, Key: []byte{}, Value: []byte{}}).FirstErr()
	if err != nil {
		return err
	}
	got, err := r.consume(ctx, topic, 0, kgo.NewOffset().AtStart(), 2)
	if err != nil {
		return err
	}
	if got[0].Key != nil || got[0].Value != nil || got[1].Key == nil || got[1].Value == nil {
		return fmt.Errorf("null and empty came back mixed up: %v, %v", got[0], got[1])
	}
	if fmt.Sprint(got[0].Headers) != fmt.Sprint(headers) || got[0].Headers[2].Value != nil {
		return fmt.Errorf("headers %v came back as %v", headers, got[0].Headers)
	}
	return nil
}

func (r *rig) timestamps(ctx context.Context) error {
	kind := "LogAppendTime"
	appendTime, err := r.topic(ctx, "append-time", 1, map[string]*string{"message.timestamp.type": &kind})
	if err != nil {
		return err
	}
	createTime, err := r.topic(ctx, "create-time", 1, nil)
	if err != nil {
		return err
	}
	client, err := r.client()
	if err != nil {
		return err
	}
	defer client.Close()
	then := time.UnixMilli(time.Now().UnixMilli() - 77_777)
	for _, topic := range []string{appendTime, createTime} {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("v"), Timestamp: then}).FirstErr(); err != nil {
			return err
		}
		got, err := r.consume(ctx, topic, 0, kgo.NewOffset().AtStart(), 1)
		if err != nil {
			return err
		}
		age := time.Since(got[0].Timestamp)
		if topic == appendTime && (got[0].Attrs.TimestampType() != 1 || age > 30*time.Second) {
			return fmt.Errorf("append time: type %d, %s old", got[0].Attrs.TimestampType(), age)
		}
		if topic == createTime && (got[0].Attrs.TimestampType() != 0 || !got[0].Timestamp.Equal(then)) {
			return fmt.Errorf("create time: type %d, %s instead of %s", got[0].Attrs.TimestampType(), got[0].Timestamp, then)
		}
	}
	return nil
}

func (r *rig) offsets(ctx context.Context) error {
	topic, err := r.topic(ctx, "offsets", 1, nil)
	if err != nil {
		return err
	}
	client, err := r.client()
	if err != nil {
		return err
	}
	defer client.Close()
	base := time.Now().UnixMilli() - 100_000
	for i := range int64(30) {
		record := &kgo.Record{Topic: topic, Value: []byte("v"), Timestamp: time.UnixMilli(base + i*1000)}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			return err
		}
	}
	first, err := r.consume(ctx, topic, 0, kgo.NewOffset().AtStart(), 1)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		from kgo.Offset
		want int64
	}{
		{"start", kgo.NewOffset().AtStart(), 0},
		{"exact", kgo.NewOffset().At(17), 17},
		{"relative to the end", kgo.NewOffset().AtEnd().Relative(-4), 26},
		{"after a time", kgo.NewOffset().AfterMilli(base + 9_500), 10},
		{"with an epoch", kgo.NewOffset().At(5).WithEpoch(first[0].LeaderEpoch), 5},
	} {
		got, err := r.consume(ctx, topic, 0, c.from, 1)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if got[0].Offset != c.want {
			return fmt.Errorf("%s: offset %d, expected %d", c.name, got[0].Offset, c.want)
		}
	}
	return nil
}

func (r *rig) smallFetches(ctx context.Context) error {
	topic, err := r.topic(ctx, "small-fetches", 1, nil)
	if err != nil {
		return err
	}
	list := values("s", 400)
	list[100], list[300] = strings.Repeat("z", 200_000), strings.Repeat("z", 300_000)
	return r.roundTrip(ctx, topic, list, []kgo.Opt{kgo.ProducerBatchCompression(kgo.NoCompression())},
		[]kgo.Opt{kgo.FetchMaxBytes(5000), kgo.FetchMaxPartitionBytes(1000)})
}

func (r *rig) withoutFetchSessions(ctx context.Context) error {
	topic, err := r.topic(ctx, "no-sessions", 1, nil)
	if err != nil {
		return err
	}
	return r.roundTrip(ctx, topic, values("n", 500), nil, []kgo.Opt{kgo.DisableFetchSessions()})
}

func (r *rig) wokenFetch(ctx context.Context) error {
	topic, err := r.topic(ctx, "woken", 2, nil)
	if err != nil {
		return err
	}
	start := kgo.NewOffset().AtStart()
	// A record in each partition first, so that every later fetch surely asks for both.
	for p := range int32(2) {
		if err := r.produce(ctx, topic, p, []string{"first"}); err != nil {
			return err
		}
	}
	start = kgo.NewOffset().AtStart()
	client, err := r.client(kgo.FetchMaxWait(15*time.Second), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: start, 1: start}}))
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := poll(ctx, client, 2); err != nil {
		return err
	}
	for i := range int32(10) {
		if err := r.produce(ctx, topic, i%2, []string{"v"}); err != nil {
			return err
		}
		started := time.Now()
		if _, err := poll(ctx, client, 1); err != nil {
			return err
		}
		if waited := time.Since(started); waited > 5*time.Second {
			return fmt.Errorf("a parked fetch got the record after %s", waited)
		}
	}
	return nil
}

func (r *rig) outOfRange(ctx context.Context) error {
	topic, err := r.topic(ctx, "range", 1, nil)
	if err != nil {
		return err
	}
	if err := r.produce(ctx, topic, 0, values("r", 10)); err != nil {
		return err
	}
	_, err = r.consume(ctx, topic, 0, kgo.NewOffset().At(1000), 1, kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	if !errors.Is(err, kerr.OffsetOutOfRange) {
		return fmt.Errorf("expected OFFSET_OUT_OF_RANGE, got %v", err)
	}
	return nil
}

func (r *rig) recordTooLarge(ctx context.Context) error {
	limit := "2000"
	topic, err := r.topic(ctx, "too-large", 1, map[string]*string{"max.message.bytes": &limit})
	if err != nil {
		return err
	}
	uncompressed := kgo.ProducerBatchCompression(kgo.NoCompression())
	err = r.produce(ctx, topic, 0, []string{strings.Repeat("z", 5000)}, uncompressed)
	if !errors.Is(err, kerr.MessageTooLarge) {
		return fmt.Errorf("expected MESSAGE_TOO_LARGE, got %v", err)
	}
	return r.produce(ctx, topic, 0, []string{strings.Repeat("z", 100)}, uncompressed)
}

func (r *rig) missingTopic(ctx context.Context) error {
	err := r.produce(ctx, r.prefix+"-missing", 0, []string{"v"}, kgo.UnknownTopicRetries(1))
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("expected UNKNOWN_TOPIC_OR_PARTITION, got %v", err)
	}
	return nil
}

func (r *rig) autoCreate(ctx context.Context) error {
	topic := r.prefix + "-auto"
	return r.roundTrip(ctx, topic, values("a", 10), []kgo.Opt{kgo.AllowAutoTopicCreation()}, nil)
}

// olderVersions speaks as a client of Kafka 2.1 would: record batches v2, no flexible versions.
func (r *rig) olderVersions(ctx context.Context) error {
	topic, err := r.topic(ctx, "older", 1, nil)
	if err != nil {
		return err
	}
	older := []kgo.Opt{kgo.MaxVersions(kversion.V2_1_0())}
	return r.roundTrip(ctx, topic, values("o", 500), older, older)
}

func (r *rig) group(ctx context.Context) error {
	topic, err := r.topic(ctx, "group", 3, nil)
	if err != nil {
		return err
	}
	for p := range int32(3) {
		if err := r.produce(ctx, topic, p, values("g", 20)); err != nil {
			return err
		}
	}
	for _, want := range []int{60, 5} {
		client, err := r.client(kgo.ConsumerGroup(r.prefix), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
		if err != nil {
			return err
		}
		got, err := poll(ctx, client, want)
		if err == nil && len(got) != want {
			err = fmt.Errorf("%d records, expected %d", len(got), want)
		}
		if err == nil {
			err = client.CommitUncommittedOffsets(ctx)
		}
		client.Close()
		if err != nil {
			return err
		}
		if err := r.produce(ctx, topic, 1, values("more", 5)); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) transaction(ctx context.Context) error {
	topic, err := r.topic(ctx, "transaction", 1, nil)
	if err != nil {
		return err
	}
	client, err := r.client(kgo.TransactionalID(r.prefix))
	if err != nil {
		return err
	}
	defer client.Close()
	for value, commit := range map[string]kgo.TransactionEndTry{"aborted": kgo.TryAbort, "committed": kgo.TryCommit} {
		if err := client.BeginTransaction(); err != nil {
			return err
		}
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr(); err != nil {
			return err
		}
		if err := client.EndTransaction(ctx, commit); err != nil {
			return err
		}
	}
	got, err := r.consume(ctx, topic, 0, kgo.NewOffset().AtStart(), 1, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	if string(got[0].Value) != "committed" {
		return fmt.Errorf("a read-committed consumer got %q", got[0].Value)
	}
	return nil
}
