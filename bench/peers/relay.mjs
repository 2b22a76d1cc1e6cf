// A typical hand-written relay: it listens, and forwards every notification to the consumer's clients.
// Usage: node relay.mjs <port> <database URL>
import http from 'node:http';
import pg from 'pg';

const [port, url] = process.argv.slice(2);
const followers = new Map();

const client = new pg.Client({ connectionString: url });
await client.connect();
client.on('notification', ({ payload }) => {
  const event = JSON.parse(payload);
  const frame = `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event.payload)}\n\n`;
  for (const response of followers.get(event.subscriber) ?? []) response.write(frame);
});
await client.query('listen new_event');

const server = http.createServer((request, response) => {
  const consumer = new URL(request.url, 'http://relay').searchParams.get('consumer');
  const mine = followers.get(consumer) ?? new Set();
  followers.set(consumer, mine.add(response));
  response.socket.setNoDelay(true);
  response.on('close', () => mine.delete(response));
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write(':\n\n');
});
server.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 });
