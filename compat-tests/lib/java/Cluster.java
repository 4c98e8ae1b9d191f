import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ClassicGroupDescription;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** What the suites of Kafka's own frameworks look at from outside: topics, records, groups and their offsets. */
final class Cluster implements AutoCloseable {
    final String broker;
    final Admin admin;

    Cluster(String broker) {
        this.broker = broker;
        this.admin = Admin.create(Map.of("bootstrap.servers", broker));
    }

    @Override
    public void close() {
        admin.close(Duration.ofSeconds(5));
    }

    int partitions(String topic) throws Exception {
        return Checks.get(admin.describeTopics(Set.of(topic)).allTopicNames()).get(topic).partitions().size();
    }

    String config(String topic, String name) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        return Checks.get(admin.describeConfigs(Set.of(resource)).all()).get(resource).get(name).value();
    }

    private List<TopicPartition> partitionsOf(String topic) throws Exception {
        List<TopicPartition> all = new ArrayList<>();
        for (int i = 0; i < partitions(topic); i++) all.add(new TopicPartition(topic, i));
        return all;
    }

    private <V> KafkaConsumer<String, V> consumer(Deserializer<V> values) {
        return new KafkaConsumer<>(Map.of("bootstrap.servers", broker, "enable.auto.commit", "false"), new StringDeserializer(), values);
    }

    Map<Integer, Long> beginnings(String topic) throws Exception {
        try (KafkaConsumer<String, String> consumer = consumer(new StringDeserializer())) {
            return byPartition(consumer.beginningOffsets(partitionsOf(topic)));
        }
    }

    Map<Integer, Long> ends(String topic) throws Exception {
        try (KafkaConsumer<String, String> consumer = consumer(new StringDeserializer())) {
            return byPartition(consumer.endOffsets(partitionsOf(topic)));
        }
    }

    private static Map<Integer, Long> byPartition(Map<TopicPartition, Long> offsets) {
        Map<Integer, Long> all = new TreeMap<>();
        offsets.forEach((partition, offset) -> all.put(partition.partition(), offset));
        return all;
    }

    /** Every record from the beginning to the end as it is now, each partition in its order. */
    <V> List<ConsumerRecord<String, V>> records(String topic, Deserializer<V> values) throws Exception {
        List<ConsumerRecord<String, V>> all = new ArrayList<>();
        try (KafkaConsumer<String, V> consumer = consumer(values)) {
            List<TopicPartition> partitions = partitionsOf(topic);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            long deadline = System.nanoTime() + Checks.WAIT_SECONDS * 1_000_000_000L;
            while (!partitions.stream().allMatch(p -> consumer.position(p) >= ends.get(p))) {
                Checks.hold(System.nanoTime() < deadline, "the end of " + topic + " was not reached within " + Checks.WAIT_SECONDS + " s");
                consumer.poll(Duration.ofMillis(200)).forEach(all::add);
            }
        }
        return all;
    }

    /** The newest value of every key; a key whose newest record is a tombstone is not there. */
    <V> Map<String, V> latest(String topic, Deserializer<V> values) throws Exception {
        Map<String, V> all = new HashMap<>();
        for (ConsumerRecord<String, V> record : records(topic, values)) {
            if (record.value() == null) all.remove(record.key());
            else all.put(record.key(), record.value());
        }
        return all;
    }

    /** Groups of this protocol type, as ListGroups gives them. */
    Set<String> groupsOfType(String protocolType) throws Exception {
        Collection<GroupListing> listed = Checks.get(admin.listGroups(new ListGroupsOptions().withProtocolTypes(Set.of(protocolType))).all());
        return listed.stream().map(GroupListing::groupId).collect(Collectors.toSet());
    }

    ClassicGroupDescription group(String group) throws Exception {
        return Checks.get(admin.describeClassicGroups(Set.of(group)).all()).get(group);
    }

    /** For a probe: null when the group is what "protocol type/protocol/state/members" says. */
    String groupUnlike(String expected, String group) throws Exception {
        ClassicGroupDescription seen = group(group);
        return Checks.unlike(expected, seen.protocol() + "/" + seen.protocolData() + "/" + seen.state() + "/" + seen.members().size());
    }

    /** The committed offsets of one topic. */
    Map<Integer, Long> committed(String group, String topic) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> offsets;
        try {
            offsets = Checks.get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata());
        } catch (GroupIdNotFoundException e) {
            return Map.of();
        }
        Map<Integer, Long> all = new TreeMap<>();
        offsets.forEach((partition, offset) -> {
            if (offset != null && partition.topic().equals(topic)) all.put(partition.partition(), offset.offset());
        });
        return all;
    }

    /** Deletes the group as soon as its last member is gone, and sees that it is not listed any more. */
    void deleteGroup(String group) throws Exception {
        Checks.await("deleting " + group, () -> {
            Checks.get(admin.deleteConsumerGroups(Set.of(group)).all());
            return null;
        });
        Collection<GroupListing> listed = Checks.get(admin.listGroups().all());
        Checks.hold(listed.stream().noneMatch(g -> g.groupId().equals(group)), group + " is still listed");
        try {
            Checks.get(admin.deleteConsumerGroups(Set.of(group)).all());
            throw new AssertionError(group + " could be deleted twice");
        } catch (GroupIdNotFoundException e) {
            // As it should be.
        }
    }
}
