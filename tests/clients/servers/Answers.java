// The application on Jetty: `java -cp JARS Answers.java HOST PORT BACKEND_PORT`. What it answers: ../README.md.
// PORT speaks HTTP/1.1 and HTTP/2, 100 streams a connection, and closes a connection that is idle for 2 s. BACKEND_PORT is for nginx.

import java.io.*;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;
import org.eclipse.jetty.http.*;
import org.eclipse.jetty.http2.server.HTTP2CServerConnectionFactory;
import org.eclipse.jetty.io.Content;
import org.eclipse.jetty.server.*;
import org.eclipse.jetty.util.Callback;
import org.eclipse.jetty.util.thread.QueuedThreadPool;

public class Answers extends Handler.Abstract {
  static final Set<String> UNSEEN =
      Set.of("host", "connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings", "x-run");
  final Map<String, Integer> times = new ConcurrentHashMap<>();

  static String sum(byte[] bytes) throws Exception {
    return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
  }

  static List<String> lines(HttpFields fields) throws Exception {
    List<String> lines = new ArrayList<>();
    for (HttpField field : fields) {
      String name = field.getName().toLowerCase(Locale.ROOT), value = field.getValue();
      if (UNSEEN.contains(name) || name.startsWith("x-remora-")) continue;
      lines.add(name + ": " + (value.length() > 100 ? sum(value.getBytes()) : value));
    }
    Collections.sort(lines);
    return lines;
  }

  /** The request as it arrived. */
  String seen(Request request) throws Exception {
    byte[] body = Content.Source.asInputStream(request).readAllBytes();
    StringBuilder text = new StringBuilder(request.getMethod() + " " + request.getHttpURI().getPathQuery() + "\n");
    for (String line : lines(request.getHeaders())) text.append(line + "\n");
    text.append("body: " + body.length + " bytes " + sum(body) + "\n");
    if (request.getTrailers() != null) for (String line : lines(request.getTrailers())) text.append("trailer " + line + "\n");
    // What is not idempotent must not be sent again.
    if (request.getMethod().equals("POST")) {
      String key = request.getHeaders().get("x-run") + " " + request.getHeaders().get("x-number");
      text.append("times: " + times.merge(key, 1, Integer::sum) + "\n");
    }
    return text.toString();
  }

  @Override
  public boolean handle(Request request, Response response, Callback callback) throws Exception {
    String seen = seen(request);
    String[] path = Request.getPathInContext(request).split("/");
    int number = path.length > 2 ? Integer.parseInt(path[2]) : 0;
    HttpFields.Mutable fields = response.getHeaders();
    fields.put("content-type", "text/plain");
    byte[] whole = seen.getBytes(StandardCharsets.UTF_8);
    switch (path[1]) {
      case "slow" -> Thread.sleep(number);
      case "bytes" -> whole = "0123456789abcde\n".repeat(number / 16).getBytes();
      case "large" -> { for (int i = 0; i < number; i++) fields.add("x-large-" + i, "w".repeat(1024)); }
      case "status" -> {
        response.setStatus(number);
        if (number / 100 == 3 && number != 304) fields.put("location", "/bytes/16");
        if (number == 204 || number == 304) whole = null;
      }
      case "chunks", "trailers" -> {
        if (path[1].equals("trailers")) {
          fields.put("trailer", "x-sum");
          response.setTrailersSupplier(() -> HttpFields.build().put("x-sum", "" + number));
        }
        try (OutputStream out = Content.Sink.asOutputStream(response)) {
          for (int i = 0; i < 4; i++) { out.write("0123456789abcde\n".repeat(number / 64).getBytes()); out.flush(); }
          if (path[1].equals("trailers")) out.write(whole);
        }
        callback.succeeded();
        return true;
      }
      default -> { }
    }
    if (whole != null) fields.put("content-length", whole.length);
    response.write(true, whole == null ? null : java.nio.ByteBuffer.wrap(whole), callback);
    return true;
  }

  public static void main(String[] args) throws Exception {
    Server server = new Server(new QueuedThreadPool(400));
    HttpConfiguration config = new HttpConfiguration();
    config.setRequestHeaderSize(65536);
    config.setResponseHeaderSize(65536);
    HTTP2CServerConnectionFactory http2 = new HTTP2CServerConnectionFactory(config);
    http2.setMaxConcurrentStreams(100);
    ServerConnector connector = new ServerConnector(server, new HttpConnectionFactory(config), http2);
    connector.setIdleTimeout(2000);
    ServerConnector backend = new ServerConnector(server, new HttpConnectionFactory(config));
    for (ServerConnector it : List.of(connector, backend)) { it.setHost(args[0]); it.setAcceptQueueSize(1024); server.addConnector(it); }
    connector.setPort(Integer.parseInt(args[1]));
    backend.setPort(Integer.parseInt(args[2]));
    server.setHandler(new Answers());
    server.start();
  }
}
