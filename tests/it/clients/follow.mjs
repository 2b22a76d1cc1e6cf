// Follows an event stream by fetch: prints the type of each event, and how the stream ended.
const answer = await fetch(process.argv[2]);
let rest = "";
try {
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("event: ")) console.log("event", line.slice(7));
    }
  }
  console.log("end");
} catch (error) {
  console.log("error", error.message);
}
