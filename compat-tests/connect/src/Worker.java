import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** A Connect worker in a JVM of its own, and its REST interface. */
final class Worker {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final HttpClient HTTP = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();

    /** The status and the body of an answer. */
    record Answer(int status, JsonNode body) {
        /** The body of a success. */
        JsonNode good() throws IOException {
            if (status / 100 != 2) throw new IOException("REST answered " + status + ": " + body);
            return body;
        }
    }

    /** What REST shows as this worker's id. */
    final String id;
    private final Process process;
    private final Path log;

    private Worker(String id, Process process, Path log) {
        this.id = id;
        this.process = process;
        this.log = log;
    }

    static Worker start(String name, String classPath, String logConfiguration, Path logs, Map<String, String> properties) throws IOException {
        String address = "127.0.0.1:" + freePort();
        Map<String, String> all = new TreeMap<>(properties);
        all.put("listeners", "http://" + address);
        Path file = logs.resolve(name + ".properties"), log = logs.resolve(name + ".log");
        Files.writeString(file, all.entrySet().stream().map(e -> e.getKey() + "=" + e.getValue() + "\n").collect(Collectors.joining()));
        Process process = new ProcessBuilder("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dlog4j2.configurationFile=" + logConfiguration, "-cp", classPath, "org.apache.kafka.connect.cli.ConnectDistributed", file.toString())
            .redirectErrorStream(true).redirectOutput(log.toFile()).start();
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
        return new Worker(address, process, log);
    }

    /** A port below those that the kernel gives to clients, so that none takes it while the worker starts. */
    private static int freePort() throws IOException {
        IOException last = null;
        for (int i = 0; i < 100; i++) {
            try (ServerSocket socket = new ServerSocket(ThreadLocalRandom.current().nextInt(20000, 32000), 1, InetAddress.getByName("127.0.0.1"))) {
                return socket.getLocalPort();
            } catch (IOException e) {
                last = e;
            }
        }
        throw last;
    }

    /** An AssertionError when the process has ended: then there is nothing to wait for. */
    void mustLive() {
        Checks.hold(process.isAlive(), "the worker ended, see " + log);
    }

    /** Ends it as an operator does; it gives its tasks back first. */
    void stop() throws InterruptedException {
        process.destroy();
        Checks.hold(process.waitFor(Checks.WAIT_SECONDS, TimeUnit.SECONDS), "the worker did not stop within " + Checks.WAIT_SECONDS + " s, see " + log);
    }

    /** kill -9. */
    void kill() throws InterruptedException {
        process.destroyForcibly().waitFor();
    }

    Answer rest(String method, String path, Object body) throws IOException, InterruptedException {
        mustLive();
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create("http://" + id + path)).timeout(Duration.ofSeconds(100));
        if (body == null) request.method(method, HttpRequest.BodyPublishers.noBody());
        else request.header("Content-Type", "application/json").method(method, HttpRequest.BodyPublishers.ofString(JSON.writeValueAsString(body)));
        HttpResponse<String> response = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
        return new Answer(response.statusCode(), response.body().isEmpty() ? JSON.nullNode() : JSON.readTree(response.body()));
    }

    JsonNode get(String path) throws IOException, InterruptedException {
        return rest("GET", path, null).good();
    }

    /** A request that is refused while the group rebalances, so it is repeated. */
    void order(String method, String path, Object body) throws InterruptedException {
        Checks.await(method + " " + path, () -> {
            rest(method, path, body).good();
            return null;
        });
    }

    /** Connector and tasks in one line, such as "RUNNING: RUNNING RUNNING". */
    String state(String connector) throws IOException, InterruptedException {
        JsonNode status = get("/connectors/" + connector + "/status");
        String tasks = status.get("tasks").findValuesAsText("state").stream().map(s -> " " + s).collect(Collectors.joining());
        return status.at("/connector/state").asText() + ":" + tasks;
    }

    void awaitState(String connector, String expected) throws InterruptedException {
        Checks.await(connector + " becomes " + expected, () -> Checks.unlike(expected, state(connector)));
    }

    /** On which workers the tasks of the connector are. */
    List<String> taskWorkers(String connector) throws IOException, InterruptedException {
        return get("/connectors/" + connector + "/status").get("tasks").findValuesAsText("worker_id");
    }
}
