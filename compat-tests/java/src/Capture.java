import java.io.ByteArrayOutputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/** System.out and System.err as one text that can be taken and started anew. */
final class Capture extends OutputStream {
    private static final Capture CAPTURE = new Capture();
    private ByteArrayOutputStream text = new ByteArrayOutputStream();

    static void install() {
        PrintStream stream = new PrintStream(CAPTURE, true, StandardCharsets.UTF_8);
        System.setOut(stream);
        System.setErr(stream);
    }

    static void start() {
        synchronized (CAPTURE) {
            CAPTURE.text = new ByteArrayOutputStream();
        }
    }

    static String text() {
        synchronized (CAPTURE) {
            return CAPTURE.text.toString(StandardCharsets.UTF_8);
        }
    }

    @Override
    public synchronized void write(int b) {
        text.write(b);
    }

    @Override
    public synchronized void write(byte[] bytes, int offset, int length) {
        text.write(bytes, offset, length);
    }
}
