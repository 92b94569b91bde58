// Asks what a plan says, with the JDK's HttpClient: `java Ask.java h1|h2 BASE < PLAN > RESULTS`. ../README.md says what both are.
// HTTP/2 is what the JDK does without TLS: the first request offers `Upgrade: h2c`.

import java.io.*;
import java.net.*;
import java.net.http.*;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;

public class Ask {
  record Line(String number, long pause, String method, String path, int fields, int body, String framing, String extra) {
    static Line of(String text) {
      String[] it = text.split("\t");
      return new Line(it[0], Long.parseLong(it[1]), it[2], it[3], Integer.parseInt(it[4]), Integer.parseInt(it[5]), it[6], it[7]);
    }
  }

  static String base, run;
  static HttpClient.Version version;

  static HttpClient client() {
    return HttpClient.newBuilder().version(version).followRedirects(HttpClient.Redirect.NEVER).build();
  }

  static HttpRequest request(Line line) {
    byte[] body = "0123456789abcde\n".repeat(line.body / 16 + 1).substring(0, line.body).getBytes();
    HttpRequest.BodyPublisher publisher = switch (line.framing) {
      case "none" -> HttpRequest.BodyPublishers.noBody();
      case "length" -> HttpRequest.BodyPublishers.ofByteArray(body);
      default -> HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
    };
    HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(base + line.path)).method(line.method, publisher)
        .timeout(Duration.ofSeconds(20)).header("x-number", line.number).header("x-run", run);
    for (int i = 0; i < line.fields; i++) request.header("x-large-" + i, "v".repeat(4096));
    if (line.extra.equals("trailers")) request.header("te", "trailers");
    if (line.extra.equals("expect")) request.expectContinue(true);
    return request.build();
  }

  static String quoted(String text) {
    return URLEncoder.encode(text, java.nio.charset.StandardCharsets.ISO_8859_1);
  }

  static void tell(Line line, HttpResponse<byte[]> got, Throwable failed) {
    String result;
    if (failed != null) {
      Throwable why = failed.getCause() == null ? failed : failed.getCause();
      result = "0\t-\t0\t-\t\t\t\t" + quoted(why.toString());
    } else {
      StringBuilder head = new StringBuilder();
      got.headers().map().forEach((name, values) -> {
        if (!name.startsWith(":")) values.forEach(value -> head.append(name + ": " + value + "\n"));
      });
      byte[] body = got.body();
      String text = body.length <= 4096 ? new String(body, java.nio.charset.StandardCharsets.ISO_8859_1) : "";
      String spoken = got.version() == HttpClient.Version.HTTP_2 ? "h2" : "h1";
      result = got.statusCode() + "\t" + spoken + "\t" + body.length + "\t" + sum(body) + "\t" + quoted(text) + "\t" + quoted(head.toString()) + "\t\t";
    }
    synchronized (System.out) { System.out.println(line.number + "\t" + result); }
  }

  static String sum(byte[] body) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
    } catch (java.security.NoSuchAlgorithmException never) {
      throw new IllegalStateException(never);
    }
  }

  static CompletableFuture<Void> ask(HttpClient client, Line line) {
    return client.sendAsync(request(line), BodyHandlers.ofByteArray()).handle((got, failed) -> { tell(line, got, failed); return null; });
  }

  static void flood(HttpClient client, int width, List<Line> lines) throws Exception {
    Semaphore room = new Semaphore(width);
    for (Line line : lines) {
      room.acquire();
      ask(client, line).thenRun(room::release);
    }
    room.acquire(width);
  }

  /** Each pair on a client of its own: the second goes to a connection that has been idle for the pause. */
  static void pairs(List<Line> lines) throws Exception {
    List<CompletableFuture<Void>> all = new ArrayList<>();
    for (int i = 0; i < lines.size(); i += 2) {
      Line first = lines.get(i), second = lines.get(i + 1);
      HttpClient client = client();
      Executor later = CompletableFuture.delayedExecutor(second.pause, TimeUnit.MILLISECONDS);
      all.add(ask(client, first).thenComposeAsync(done -> ask(client, second), later));
    }
    for (CompletableFuture<Void> one : all) one.get();
  }

  public static void main(String[] args) throws Exception {
    version = args[0].equals("h2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
    base = args[1];
    HttpClient shared = client();
    List<String> plan = new BufferedReader(new InputStreamReader(System.in)).lines().toList();
    run = plan.get(0);
    for (int i = 1; i < plan.size();) {
      String[] phase = plan.get(i++).split(" ");
      List<Line> lines = new ArrayList<>();
      while (i < plan.size() && plan.get(i).contains("\t")) lines.add(Line.of(plan.get(i++)));
      if (phase[0].equals("flood")) flood(shared, Integer.parseInt(phase[1]), lines); else pairs(lines);
    }
    System.exit(0);
  }
}
