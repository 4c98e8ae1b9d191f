import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/**
 * Checks that tell one story, each on what the earlier ones left. A step is a check that the later ones stand on: when it
 * fails they are reported as failed too, without a run. A check that --only leaves out still runs when a later one is wanted.
 */
final class Checks {
    interface Body {
        void run() throws Exception;
    }

    /** Says what is still missing, or null when nothing is. */
    interface Probe {
        String missing() throws Exception;
    }

    private record Check(String name, boolean step, Body body) {
    }

    /** How long one condition is waited for: much more than it takes, since only a failure takes that long. */
    static final int WAIT_SECONDS = 120;
    private static final int CHECK_SECONDS = 400;

    private final Report report;
    private final String needs;
    private final List<Check> checks = new ArrayList<>();

    /** All checks need these features of the file `later`. */
    Checks(Report report, String needs) {
        this.report = report;
        this.needs = needs;
    }

    void step(String name, Body body) {
        checks.add(new Check(name, true, body));
    }

    void check(String name, Body body) {
        checks.add(new Check(name, false, body));
    }

    void run() throws InterruptedException {
        List<Boolean> wanted = new ArrayList<>();
        for (Check check : checks) wanted.add(report.runs(check.name, needs, false));
        String fallen = null;
        for (int i = 0; i <= wanted.lastIndexOf(true); i++) {
            Check check = checks.get(i);
            long started = System.nanoTime();
            String why = fallen == null ? perform(check) : "not run, since " + fallen + " failed";
            if (why != null && check.step && fallen == null) fallen = check.name;
            if (!wanted.get(i)) continue;
            if (why == null) report.ok(check.name, System.nanoTime() - started);
            else report.fail(check.name, why);
        }
    }

    private static String perform(Check check) throws InterruptedException {
        Throwable[] thrown = new Throwable[1];
        Thread thread = new Thread(() -> {
            try {
                check.body.run();
            } catch (Throwable e) {
                thrown[0] = e;
            }
        }, check.name);
        thread.setDaemon(true);
        thread.start();
        thread.join(CHECK_SECONDS * 1000L);
        if (thread.isAlive()) {
            String where = "did not end within " + CHECK_SECONDS + " s; it is in " + Arrays.toString(thread.getStackTrace());
            thread.interrupt();
            return where;
        }
        if (thrown[0] == null) return null;
        thrown[0].printStackTrace();
        return thrown[0] instanceof AssertionError ? thrown[0].getMessage() : thrown[0].toString();
    }

    /** Waits until nothing is missing. An exception is something missing; an AssertionError ends the wait. */
    static void await(String what, Probe probe) throws InterruptedException {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS);
        while (true) {
            String missing;
            try {
                missing = probe.missing();
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                missing = e.toString();
            }
            if (missing == null) return;
            if (System.nanoTime() > deadline) throw new AssertionError("not within " + WAIT_SECONDS + " s: " + what + "; " + missing);
            Thread.sleep(200);
        }
    }

    static void same(String what, Object expected, Object got) {
        String missing = unlike(expected, got);
        if (missing != null) throw new AssertionError(what + ": " + missing);
    }

    static void hold(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    /** For a probe: null when both are the same. */
    static String unlike(Object expected, Object got) {
        return expected.equals(got) ? null : "expected " + brief(expected) + ", got " + brief(got);
    }

    private static String brief(Object value) {
        String text = String.valueOf(value);
        return text.length() > 120 ? text.substring(0, 120) + "..." : text;
    }

    static <T> T get(Future<T> future) throws Exception {
        try {
            return future.get(WAIT_SECONDS, TimeUnit.SECONDS);
        } catch (ExecutionException e) {
            throw e.getCause() instanceof Exception ? (Exception) e.getCause() : e;
        }
    }
}
