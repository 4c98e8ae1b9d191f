// Command franz-go checks produce, consume and administration through franz-go's kgo and kadm. Argument: bootstrap server.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// rig is what the checks share: the broker's address, a prefix that makes topic names new for every run, and how many
// replicas a topic has.
type rig struct {
	broker   string
	prefix   string
	replicas int16
	admin    *kadm.Client
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: franz-go HOST:PORT")
		os.Exit(2)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Args[1]), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer client.Close()
	replicas, err := strconv.ParseInt(os.Getenv("REPLICAS"), 10, 16)
	if err != nil {
		fmt.Fprintln(os.Stderr, "REPLICAS:", err)
		os.Exit(2)
	}
	r := &rig{os.Args[1], fmt.Sprintf("fg-%d", time.Now().UnixMilli()), int16(replicas), kadm.NewClient(client)}
	if err := runChecks(append(r.clientChecks(), r.adminChecks()...)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// eventually repeats a look at the cluster until it finds what it should: a change is answered before every broker knows it.
func eventually(look func() error) error {
	err := look()
	for range 100 {
		if err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
		err = look()
	}
	return err
}

// topic makes a topic of this name and waits until metadata shows it: Kafka answers before every request sees the topic.
func (r *rig) topic(ctx context.Context, name string, partitions int32, configs map[string]*string) (string, error) {
	topic := r.prefix + "-" + name
	if _, err := r.admin.CreateTopic(ctx, partitions, r.replicas, configs, topic); err != nil {
		return topic, fmt.Errorf("creating %s: %w", topic, err)
	}
	return topic, eventually(func() error {
		listed, err := r.admin.ListTopics(ctx)
		if err == nil && !listed.Has(topic) {
			err = fmt.Errorf("the new topic %s is not listed", topic)
		}
		return err
	})
}

func (r *rig) client(options ...kgo.Opt) (*kgo.Client, error) {
	base := []kgo.Opt{kgo.SeedBrokers(r.broker), kgo.MetadataMinAge(10 * time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner())}
	return kgo.NewClient(append(base, options...)...)
}

// produce sends the values to one partition and checks the offsets they got to be consecutive.
func (r *rig) produce(ctx context.Context, topic string, partition int32, values []string, options ...kgo.Opt) error {
	client, err := r.client(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	records := make([]*kgo.Record, len(values))
	for i, value := range values {
		records[i] = &kgo.Record{Topic: topic, Partition: partition, Key: []byte("key"), Value: []byte(value)}
	}
	results := client.ProduceSync(ctx, records...)
	if err := results.FirstErr(); err != nil {
		return fmt.Errorf("producing: %w", err)
	}
	for i, record := range records {
		if i > 0 && record.Offset >= 0 && records[0].Offset >= 0 && record.Offset != records[0].Offset+int64(i) {
			return fmt.Errorf("record %d got offset %d after a first offset of %d", i, record.Offset, records[0].Offset)
		}
	}
	return nil
}

// consume reads count records of one partition from an offset.
func (r *rig) consume(ctx context.Context, topic string, partition int32, from kgo.Offset, count int, options ...kgo.Opt) ([]*kgo.Record, error) {
	client, err := r.client(append(options, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: from}}))...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return poll(ctx, client, count)
}

func poll(ctx context.Context, client *kgo.Client, count int) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < count {
		fetches := client.PollFetches(ctx)
		records = append(records, fetches.Records()...)
		if err := fetches.Err(); err != nil {
			return records, fmt.Errorf("fetching after %d of %d records: %w", len(records), count, err)
		}
	}
	return records, nil
}

// roundTrip produces the values and expects them back in order, from offset 0.
func (r *rig) roundTrip(ctx context.Context, topic string, values []string, produce, consume []kgo.Opt) error {
	if err := r.produce(ctx, topic, 0, values, produce...); err != nil {
		return err
	}
	records, err := r.consume(ctx, topic, 0, kgo.NewOffset().AtStart(), len(values), consume...)
	if err != nil {
		return err
	}
	for i, value := range values {
		if string(records[i].Value) != value || records[i].Offset != int64(i) {
			return fmt.Errorf("record %d is %.60q at offset %d, expected %.60q", i, records[i].Value, records[i].Offset, value)
		}
	}
	if len(records) != len(values) {
		return fmt.Errorf("%d records came back of %d", len(records), len(values))
	}
	return nil
}
