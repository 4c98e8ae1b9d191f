/*
 * Load by librdkafka, at the cost of librdkafka: no allocation and no copy of a payload per record.
 *
 *   load produce BROKER TOPIC PARTITIONS SIZE SECONDS WARM_UP COUNT [NAME=VALUE ...]
 *   load consume BROKER TOPIC PARTITIONS SECONDS WARM_UP COUNT [NAME=VALUE ...]
 *
 * `produce` keeps the queue full and spreads records over the partitions in turn. It ends after COUNT
 * acknowledged records, or with COUNT 0 after WARM_UP + SECONDS. `consume` reads all partitions from
 * the start, without a group. NAME=VALUE is a property of librdkafka.
 *
 * One line `begin` when the measured time starts, one line of JSON when it ends. Latency is from the
 * call that takes a record to its delivery report, of one record in 64, in microseconds.
 */
#include <librdkafka/rdkafka.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLE_EVERY 64
#define MAX_SAMPLES (1 << 22)
#define PAYLOAD (1 << 20)

static uint64_t acked, acked_bytes, failed;
static int measuring;
static uint32_t *samples;
static size_t sample_count;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
    (void)rk;
    (void)opaque;
    if (m->err) {
        if (failed++ == 0)
            fprintf(stderr, "not delivered: %s\n", rd_kafka_err2str(m->err));
        return;
    }
    acked++;
    acked_bytes += m->len;
    if (measuring && acked % SAMPLE_EVERY == 0 && sample_count < MAX_SAMPLES)
        samples[sample_count++] = (uint32_t)rd_kafka_message_latency(m);
}

/* Words of a vocabulary of 512, so that codecs find about as much as in text. */
static char *payload(void) {
    char *bytes = malloc(PAYLOAD * 2), word[512][12];
    uint64_t seed = 88172645463325252ULL;
    size_t at = 0;
    for (int w = 0; w < 512; w++)
        for (int c = 0; c < 12; c++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            word[w][c] = (char)('a' + seed % 26);
        }
    while (at < PAYLOAD * 2 - 16) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        size_t len = 4 + (seed >> 20) % 8;
        memcpy(bytes + at, word[seed % 512], len);
        bytes[at + len] = ' ';
        at += len + 1;
    }
    memset(bytes + at, '.', PAYLOAD * 2 - at);
    return bytes;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t percentile(double share) {
    if (sample_count == 0)
        return 0;
    size_t rank = (size_t)(share * (double)sample_count);
    return samples[rank < sample_count ? rank : sample_count - 1];
}

static void result(double seconds, uint64_t records, uint64_t bytes) {
    qsort(samples, sample_count, sizeof *samples, by_value);
    printf("{\"seconds\":%.6f,\"records\":%llu,\"bytes\":%llu,\"failed\":%llu,\"p50\":%u,\"p99\":%u,\"max\":%u}\n",
           seconds, (unsigned long long)records, (unsigned long long)bytes, (unsigned long long)failed,
           percentile(0.5), percentile(0.99), percentile(1.0));
    fflush(stdout);
}

static rd_kafka_conf_t *configuration(const char *broker, int argc, char **argv) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char why[512];
    if (rd_kafka_conf_set(conf, "bootstrap.servers", broker, why, sizeof why))
        die("broker", why);
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value)
            die(argv[i], "not NAME=VALUE");
        *value++ = 0;
        if (rd_kafka_conf_set(conf, argv[i], value, why, sizeof why))
            die(argv[i], why);
    }
    return conf;
}

static void produce(rd_kafka_conf_t *conf, const char *topic, int partitions, size_t size, double seconds,
                    double warm_up, uint64_t count) {
    char why[512], *bytes = payload();
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (!rk)
        die("producer", why);
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
    double start = now(), began = start;
    uint64_t sent = 0, base = 0, base_bytes = 0, at = 0;
    if (warm_up == 0) {
        measuring = 1;
        puts("begin");
        fflush(stdout);
    }
    for (;;) {
        if (count && sent == count)
            break;
        if (sent % 256 == 0) {
            double t = now();
            if (!measuring && t - start >= warm_up) {
                rd_kafka_poll(rk, 0);
                measuring = 1, began = t, base = acked, base_bytes = acked_bytes;
                puts("begin");
                fflush(stdout);
            }
            if (!count && t - start >= warm_up + seconds)
                break;
            rd_kafka_poll(rk, 0);
        }
        /* Runs of 64 to one partition, in turn: as a sticky partitioner does, and evenly. */
        int partition = (int)(sent / 64 % (uint64_t)partitions);
        while (rd_kafka_produce(rkt, partition, 0, bytes + at, size, NULL, 0, NULL) == -1) {
            if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
                die("produce", rd_kafka_err2str(rd_kafka_last_error()));
            rd_kafka_poll(rk, 10);
            if (!count && now() - start >= warm_up + seconds + 30)
                die("produce", "the queue stays full");
        }
        at = (at + size + 1) % PAYLOAD;
        sent++;
    }
    if (count)
        rd_kafka_flush(rk, 120000);
    result(now() - began, acked - base, acked_bytes - base_bytes);
    rd_kafka_flush(rk, 30000);
    exit(failed ? 1 : 0);
}

static void consume(rd_kafka_conf_t *conf, const char *topic, int partitions, double seconds, double warm_up,
                    uint64_t count) {
    char why[512];
    rd_kafka_conf_set(conf, "group.id", "load", why, sizeof why);
    rd_kafka_conf_set(conf, "enable.auto.commit", "false", why, sizeof why);
    rd_kafka_conf_set(conf, "auto.offset.reset", "earliest", why, sizeof why);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!rk)
        die("consumer", why);
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(partitions);
    for (int p = 0; p < partitions; p++)
        rd_kafka_topic_partition_list_add(all, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
    static rd_kafka_message_t *batch[4096];
    if (warm_up == 0) {
        puts("begin");
        fflush(stdout);
        measuring = 1;
    }
    double start = now(), began = start, last = start;
    rd_kafka_assign(rk, all);
    uint64_t records = 0, bytes = 0, base = 0, base_bytes = 0;
    for (;;) {
        ssize_t got = rd_kafka_consume_batch_queue(queue, 100, batch, 4096);
        for (ssize_t i = 0; i < got; i++) {
            if (batch[i]->err)
                failed++, fprintf(stderr, "not read: %s\n", rd_kafka_message_errstr(batch[i]));
            else
                records++, bytes += batch[i]->len;
            rd_kafka_message_destroy(batch[i]);
        }
        double t = now();
        if (got > 0)
            last = t;
        if (!measuring && t - start >= warm_up) {
            measuring = 1, began = t, base = records, base_bytes = bytes;
            puts("begin");
            fflush(stdout);
        }
        if (count ? records >= count : t - start >= warm_up + seconds)
            break;
        if (count && t - last > 30)
            die("consume", "nothing came for 30 s");
    }
    result(now() - began, records - base, bytes - base_bytes);
    exit(failed ? 1 : 0);
}

int main(int argc, char **argv) {
    samples = malloc(sizeof *samples * MAX_SAMPLES);
    if (argc >= 9 && !strcmp(argv[1], "produce"))
        produce(configuration(argv[2], argc - 9, argv + 9), argv[3], atoi(argv[4]), (size_t)atol(argv[5]),
                atof(argv[6]), atof(argv[7]), strtoull(argv[8], NULL, 10));
    if (argc >= 8 && !strcmp(argv[1], "consume"))
        consume(configuration(argv[2], argc - 8, argv + 8), argv[3], atoi(argv[4]), atof(argv[5]), atof(argv[6]),
                strtoull(argv[7], NULL, 10));
    die("usage", "load produce|consume, see load.c");
}
