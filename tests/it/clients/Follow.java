import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Follows an event stream by HttpClient: prints the type of each event, and how the stream ended. */
public class Follow {
    public static void main(String[] args) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(args[0])).build();
        var answer = HttpClient.newHttpClient().send(request, BodyHandlers.ofLines());
        try {
            answer.body().filter(line -> line.startsWith("event: "))
                .forEach(line -> System.out.println("event " + line.substring(7)));
            System.out.println("end");
        } catch (RuntimeException error) {
            System.out.println("error " + error);
        }
        System.exit(0);
    }
}
