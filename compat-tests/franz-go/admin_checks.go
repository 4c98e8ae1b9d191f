package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (r *rig) adminChecks() []check {
	return []check{
		{"admin-api-versions", "", false, r.apiVersions},
		{"admin-metadata", "", true, r.metadata},
		{"admin-topics", "", true, r.topics},
		{"admin-validate-topics", "", false, r.validateTopics},
		{"admin-partitions", "", false, r.partitions},
		{"admin-topic-configs", "", true, r.topicConfigs},
		{"admin-broker-configs", "", false, r.brokerConfigs},
		{"admin-config-resources", "", false, r.configResources},
		{"admin-list-offsets", "", true, r.listOffsets},
		{"admin-delete-records", "", true, r.deleteRecords},
		{"admin-log-dirs", "", false, r.logDirs},
		{"admin-leader-epoch", "", false, r.leaderEpoch},
		{"admin-elect-leaders", "", false, r.electLeaders},
		{"admin-reassignments", "", false, r.reassignments},
		{"admin-describe-producers", "", false, r.describeProducers},
		{"admin-acls-without-authorizer", "", false, r.acls},
		{"admin-client-quotas", "", false, r.quotas},
	}
}

func (r *rig) apiVersions(ctx context.Context) error {
	found, err := r.admin.ApiVersions(ctx)
	if err != nil {
		return err
	}
	for _, broker := range found.Sorted() {
		if broker.Err != nil {
			return broker.Err
		}
		if max, ok := broker.KeyMaxVersion(0); !ok || max < 3 {
			return fmt.Errorf("Produce goes to version %d", max)
		}
	}
	return nil
}

func (r *rig) metadata(ctx context.Context) error {
	m, err := r.admin.BrokerMetadata(ctx)
	if err != nil {
		return err
	}
	if m.Cluster == "" || len(m.Brokers) == 0 || m.Controller < 0 {
		return fmt.Errorf("cluster %q, controller %d, %d brokers", m.Cluster, m.Controller, len(m.Brokers))
	}
	return nil
}

func (r *rig) topics(ctx context.Context) error {
	retention := "100000"
	topic, err := r.topic(ctx, "topics", 3, map[string]*string{"retention.ms": &retention})
	if err != nil {
		return err
	}
	err = eventually(func() error {
		listed, err := r.admin.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		detail := listed[topic]
		if detail.Err != nil || len(detail.Partitions) != 3 || detail.ID == (kadm.TopicID{}) {
			err = fmt.Errorf("topic %s: id %s, %d partitions, %v", topic, detail.ID, len(detail.Partitions), detail.Err)
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, err := r.topic(ctx, "topics", 3, nil); !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("expected TOPIC_ALREADY_EXISTS, got %v", err)
	}
	if _, err := r.topic(ctx, "bad/name", 1, nil); !errors.Is(err, kerr.InvalidTopicException) {
		return fmt.Errorf("expected INVALID_TOPIC_EXCEPTION, got %v", err)
	}
	if _, err := r.admin.DeleteTopic(ctx, topic); err != nil {
		return err
	}
	err = eventually(func() error {
		listed, err := r.admin.ListTopics(ctx)
		if err == nil && listed.Has(topic) {
			err = errors.New("a deleted topic is still listed")
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, err := r.admin.DeleteTopic(ctx, topic); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("deleting it again: expected UNKNOWN_TOPIC_OR_PARTITION, got %v", err)
	}
	return nil
}

func (r *rig) validateTopics(ctx context.Context) error {
	topic := r.prefix + "-validate"
	if _, err := r.admin.ValidateCreateTopics(ctx, 1, r.replicas, nil, topic); err != nil {
		return err
	}
	never := "never"
	bad, err := r.admin.ValidateCreateTopics(ctx, 1, r.replicas, map[string]*string{"retention.ms": &never}, topic)
	if err != nil {
		return err
	}
	if !errors.Is(bad[topic].Err, kerr.InvalidConfig) {
		return fmt.Errorf("expected INVALID_CONFIG, got %v", bad[topic].Err)
	}
	listed, err := r.admin.ListTopics(ctx)
	if err == nil && listed.Has(topic) {
		err = errors.New("validating made the topic")
	}
	return err
}

func (r *rig) partitions(ctx context.Context) error {
	topic, err := r.topic(ctx, "partitions", 1, nil)
	if err != nil {
		return err
	}
	grown, err := r.admin.UpdatePartitions(ctx, 4, topic)
	if err != nil || grown.Error() != nil {
		return errors.Join(err, grown.Error())
	}
	if err := r.produce(ctx, topic, 3, []string{"v"}); err != nil {
		return err
	}
	fewer, err := r.admin.UpdatePartitions(ctx, 2, topic)
	if err != nil {
		return err
	}
	if !errors.Is(fewer[topic].Err, kerr.InvalidPartitions) {
		return fmt.Errorf("expected INVALID_PARTITIONS, got %v", fewer[topic].Err)
	}
	return nil
}

func configValue(configs kadm.ResourceConfigs, name, key string) (string, error) {
	config, err := configs.On(name, nil)
	if err != nil {
		return "", err
	}
	for _, entry := range config.Configs {
		if entry.Key == key {
			return entry.MaybeValue(), config.Err
		}
	}
	return "", fmt.Errorf("%s has no config %s", name, key)
}

func (r *rig) topicConfigs(ctx context.Context) error {
	topic, err := r.topic(ctx, "configs", 1, nil)
	if err != nil {
		return err
	}
	expect := func(key, want string) error {
		return eventually(func() error {
			configs, err := r.admin.DescribeTopicConfigs(ctx, topic)
			if err != nil {
				return err
			}
			got, err := configValue(configs, topic, key)
			if err == nil && got != want {
				err = fmt.Errorf("%s is %q, expected %q", key, got, want)
			}
			return err
		})
	}
	set := func(value string) (kadm.AlterConfigsResponses, error) {
		return r.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic)
	}
	steps := []func() error{
		func() error { return expect("retention.ms", "604800000") },
		func() error { _, err := set("123456"); return err },
		func() error { return expect("retention.ms", "123456") },
		func() error {
			_, err := r.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.DeleteConfig, Name: "retention.ms"}}, topic)
			return err
		},
		func() error { return expect("retention.ms", "604800000") },
		func() error {
			answer, err := set("never")
			if err == nil && !errors.Is(answer[0].Err, kerr.InvalidConfig) {
				err = fmt.Errorf("expected INVALID_CONFIG, got %v", answer[0].Err)
			}
			return err
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) brokerConfigs(ctx context.Context) error {
	brokers, err := r.admin.ListBrokers(ctx)
	if err != nil {
		return err
	}
	id := brokers[0].NodeID
	configs, err := r.admin.DescribeBrokerConfigs(ctx, id)
	if err != nil {
		return err
	}
	got, err := configValue(configs, fmt.Sprint(id), "num.partitions")
	if err == nil && got != "4" {
		err = fmt.Errorf("num.partitions is %q", got)
	}
	return err
}

func (r *rig) configResources(ctx context.Context) error {
	_, err := r.admin.ListConfigResources(ctx)
	return err
}

func (r *rig) listOffsets(ctx context.Context) error {
	topic, err := r.topic(ctx, "list-offsets", 2, nil)
	if err != nil {
		return err
	}
	if err := r.produce(ctx, topic, 1, values("l", 10)); err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		list func() (kadm.ListedOffsets, error)
		want int64
	}{
		{"start", func() (kadm.ListedOffsets, error) { return r.admin.ListStartOffsets(ctx, topic) }, 0},
		{"end", func() (kadm.ListedOffsets, error) { return r.admin.ListEndOffsets(ctx, topic) }, 10},
		{"committed", func() (kadm.ListedOffsets, error) { return r.admin.ListCommittedOffsets(ctx, topic) }, 10},
		{"after 1 ms", func() (kadm.ListedOffsets, error) { return r.admin.ListOffsetsAfterMilli(ctx, 1, topic) }, 0},
		{"local start", func() (kadm.ListedOffsets, error) { return r.admin.ListLocalLogStartOffsets(ctx, topic) }, 0},
	} {
		listed, err := c.list()
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if got, _ := listed.Lookup(topic, 1); got.Offset != c.want || got.Err != nil {
			return fmt.Errorf("%s: offset %d, expected %d (%v)", c.name, got.Offset, c.want, got.Err)
		}
	}
	listed, err := r.admin.ListMaxTimestampOffsets(ctx, topic)
	if got, _ := listed.Lookup(topic, 1); err == nil && (got.Offset < 0 || got.Timestamp <= 0) {
		err = fmt.Errorf("max timestamp: offset %d, timestamp %d", got.Offset, got.Timestamp)
	}
	return err
}

func (r *rig) deleteRecords(ctx context.Context) error {
	topic, err := r.topic(ctx, "delete-records", 1, nil)
	if err != nil {
		return err
	}
	if err := r.produce(ctx, topic, 0, values("d", 20)); err != nil {
		return err
	}
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 9})
	deleted, err := r.admin.DeleteRecords(ctx, offsets)
	if err != nil {
		return err
	}
	if got, _ := deleted.Lookup(topic, 0); got.LowWatermark != 9 {
		return fmt.Errorf("low watermark %d, expected 9", got.LowWatermark)
	}
	records, err := r.consume(ctx, topic, 0, kgo.NewOffset().AtStart(), 11)
	if err != nil {
		return err
	}
	if records[0].Offset != 9 {
		return fmt.Errorf("the first record is at %d, expected 9", records[0].Offset)
	}
	return nil
}

func (r *rig) logDirs(ctx context.Context) error {
	topic, err := r.topic(ctx, "log-dirs", 1, nil)
	if err != nil {
		return err
	}
	if err := r.produce(ctx, topic, 0, values("l", 100)); err != nil {
		return err
	}
	dirs, err := r.admin.DescribeAllLogDirs(ctx, nil)
	if err != nil {
		return err
	}
	var size int64
	dirs.Each(func(dir kadm.DescribedLogDir) {
		if partition, ok := dir.Topics.Lookup(topic, 0); ok {
			size += partition.Size
		}
	})
	if size < 1000 {
		return fmt.Errorf("100 records take %d bytes", size)
	}
	return nil
}

func (r *rig) leaderEpoch(ctx context.Context) error {
	topic, err := r.topic(ctx, "epoch", 1, nil)
	if err != nil {
		return err
	}
	if err := r.produce(ctx, topic, 0, values("e", 7)); err != nil {
		return err
	}
	records, err := r.consume(ctx, topic, 0, kgo.NewOffset().AtStart(), 1)
	if err != nil {
		return err
	}
	epoch := records[0].LeaderEpoch
	var request kadm.OffsetForLeaderEpochRequest
	request.Add(topic, 0, epoch)
	answer, err := r.admin.OffetForLeaderEpoch(ctx, request)
	if err != nil {
		return err
	}
	got := answer[topic][0]
	if got.Err != nil || got.EndOffset != 7 || got.LeaderEpoch != epoch {
		return fmt.Errorf("epoch %d ends at %d (epoch %d, %v), expected 7", epoch, got.EndOffset, got.LeaderEpoch, got.Err)
	}
	return nil
}

func (r *rig) electLeaders(ctx context.Context) error {
	topic, err := r.topic(ctx, "elect", 1, nil)
	if err != nil {
		return err
	}
	var set kadm.TopicsSet
	set.Add(topic, 0)
	results, err := r.admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, set)
	if got := results[topic][0]; err == nil && !errors.Is(got.Err, kerr.ElectionNotNeeded) {
		err = fmt.Errorf("expected ELECTION_NOT_NEEDED, got %v", got.Err)
	}
	return err
}

func (r *rig) reassignments(ctx context.Context) error {
	listed, err := r.admin.ListPartitionReassignments(ctx, nil)
	if err == nil && len(listed) != 0 {
		err = fmt.Errorf("%d topics are being moved", len(listed))
	}
	return err
}

func (r *rig) describeProducers(ctx context.Context) error {
	topic, err := r.topic(ctx, "producers", 1, nil)
	if err != nil {
		return err
	}
	if err := r.produce(ctx, topic, 0, values("p", 10)); err != nil {
		return err
	}
	var set kadm.TopicsSet
	set.Add(topic, 0)
	described, err := r.admin.DescribeProducers(ctx, set)
	if err != nil {
		return err
	}
	partition := described[topic].Partitions[0]
	if partition.Err != nil || len(partition.ActiveProducers) != 1 {
		return fmt.Errorf("%d active producers, expected 1 (%v)", len(partition.ActiveProducers), partition.Err)
	}
	return nil
}

func (r *rig) acls(ctx context.Context) error {
	everything := kadm.NewACLs().AnyResource().Allow().AllowHosts().Deny().DenyHosts().Operations().ResourcePatternType(kadm.ACLPatternAny)
	results, err := r.admin.DescribeACLs(ctx, everything)
	if err != nil {
		return err
	}
	for _, result := range results {
		if !errors.Is(result.Err, kerr.SecurityDisabled) {
			return fmt.Errorf("expected SECURITY_DISABLED, got %v", result.Err)
		}
	}
	return nil
}

func (r *rig) quotas(ctx context.Context) error {
	_, err := r.admin.DescribeClientQuotas(ctx, false, []kadm.DescribeClientQuotaComponent{{Type: "client-id", MatchType: 2}})
	return err
}
