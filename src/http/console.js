// The page at /: follows one stream of events and shows its state.
//
// The page does not use EventSource, which delivers only events whose types have a listener;
// writers of events choose their types freely. It reads the stream with fetch() and does what
// an EventSource does (WHATWG HTML, section 9.2): parses the frames, remembers the last `id:`,
// reconnects after the time in the server's `retry:`, and resumes with `Last-Event-ID`.
//
// Text from events is added to the page as text, never as HTML. Payloads are shown with every
// digit as received: JSON.parse would round large numbers.

/** The number of events that are kept on the page. */
const MAX_EVENTS = 500;
/** The number of characters of a collapsed payload that are shown. */
const PREVIEW_CHARS = 300;
/** Payloads with more tokens are indented but not coloured. */
const MAX_COLOURED_TOKENS = 20_000;
/** The reconnect delay in ms until a server has sent a `retry:`. */
const DEFAULT_RETRY_MS = 1_000;
/** The longest reconnect delay in ms while the server is not reachable. */
const MAX_RETRY_MS = 15_000;
/** A connection is dead after this time in ms without any data, not even a heartbeat. */
const SILENCE_MS = 90_000;
/** The time in ms over which the rate of events is measured. */
const RATE_WINDOW_MS = 5_000;

// --- The stream ---------------------------------------------------------------------------

/** Parses an event stream, whose text may arrive in pieces of any size. */
class Parser {
  #rest = "";
  #afterReturn = false;
  #type = "";
  #data = [];
  #id;
  #on;

  /** `id` is the last one of the previous connection. A frame without an `id:` keeps it. */
  constructor(id, on) {
    this.#id = id;
    this.#on = on;
  }

  push(text) {
    if (text === "") return;
    // A line feed that belongs to a carriage return at the end of the previous piece.
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    this.#afterReturn = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") this.#type = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.#on.retry(Number(value));
  }

  #dispatch() {
    const [type, data] = [this.#type || "message", this.#data];
    this.#type = "";
    this.#data = [];
    this.#on.frame({ id: this.#id, type, data: data.length ? data.join("\n") : null });
  }
}

/** The server refuses the stream. The page does not retry. */
class Refused extends Error {}

/** The server requires credentials, or those that were sent are not valid. */
class Unauthorized extends Refused {}

/**
 * The token or key of the user. It is stored only in its field, and sent only in a header,
 * never in an address.
 */
const token = () => document.getElementById("token").value.trim();
const authorization = () => (token() === "" ? {} : { authorization: `Bearer ${token()}` });

/**
 * Follows a stream, and reconnects until it is stopped or refused.
 *
 * Calls these functions of `on`: `connecting()`, `opened(cursor)`, `event({id, type, data})`,
 * `lost(why, pause)` and `refused(why)`.
 */
class Follower {
  cursor;
  #address;
  #on;
  #retry = DEFAULT_RETRY_MS;
  #failures = 0;
  #silence = SILENCE_MS;
  #stopped = false;
  #admitted = false;
  #connection = null;
  #wake = () => {};

  constructor(address, cursor, on) {
    this.#address = address;
    this.cursor = cursor;
    this.#on = on;
  }

  async run() {
    while (!this.#stopped) {
      let why = "the connection ended";
      try {
        this.#on.connecting();
        await this.#connect();
      } catch (error) {
        if (this.#stopped) return;
        if (error instanceof Refused) return this.#on.refused(error);
        why = error.message;
      }
      if (this.#stopped) return;
      const pause = this.#pause();
      this.#on.lost(why, pause);
      await new Promise((wake) => {
        this.#wake = wake;
        setTimeout(wake, pause);
      });
    }
  }

  /** Stops following. Frames that arrive later are dropped. */
  stop() {
    this.#stopped = true;
    this.#connection?.abort();
    this.#wake();
  }

  /** Reconnects now, without waiting for the rest of the delay. */
  reconnectNow() {
    this.#wake();
  }

  /** The reconnect delay: first the server's `retry:`, then longer with each failure. */
  #pause() {
    const failures = this.#failures++;
    if (failures === 0) return this.#retry;
    const longest = Math.max(MAX_RETRY_MS, this.#retry);
    const pause = Math.min(Math.max(this.#retry, DEFAULT_RETRY_MS / 2) * 2 ** failures, longest);
    return pause * (0.75 + Math.random() / 4);
  }

  async #connect() {
    const connection = new AbortController();
    this.#connection = connection;
    const headers = { accept: "text/event-stream", ...authorization() };
    if (this.cursor !== "") headers["last-event-id"] = this.cursor;
    const watchdog = new Watchdog(this.#silence, () => connection.abort());
    try {
      const init = { headers, cache: "no-store", signal: connection.signal };
      await this.#admit(init);
      const answer = await fetch(this.#address, init);
      await this.#check(answer);
      this.#failures = 0;
      this.#on.opened(this.cursor);
      await this.#read(answer.body.getReader(), watchdog);
    } catch (error) {
      if (watchdog.expired) {
        // The server may have a longer heartbeat interval.
        this.#silence = Math.min(this.#silence * 2, 10 * SILENCE_MS);
        throw new Error("no data arrived, not even a heartbeat");
      }
      throw error instanceof TypeError ? new Error("the gateway cannot be reached") : error;
    } finally {
      watchdog.end();
      connection.abort();
    }
  }

  /** Checks, by loading this page with the token, that the token has the right to use it. */
  async #admit(init) {
    if (this.#admitted || token() === "") return;
    await this.#check(await fetch("./", init), "text/html");
    this.#admitted = true;
  }

  async #check(answer, expected = "text/event-stream") {
    const { status } = answer;
    const kind = answer.headers.get("content-type") ?? "";
    if (status === 200 && kind.startsWith(expected)) return;
    if (status === 204) throw new Refused("The gateway has nothing more to send.");
    const detail = await answer.json().then(({ detail }) => detail, () => null);
    const why = detail ?? `The gateway answered ${status} ${answer.statusText}`.trim();
    if (status === 401) throw new Unauthorized(why);
    const transient = status === 429 || status === 408 || status >= 500;
    throw transient ? new Error(why) : new Refused(why);
  }

  async #read(reader, watchdog) {
    // The decoder also removes a byte order mark, as the format requires.
    const decoder = new TextDecoder();
    const parser = new Parser(this.cursor, {
      retry: (millis) => (this.#retry = millis),
      frame: ({ id, type, data }) => {
        if (this.#stopped) return;
        // Only a complete frame moves the cursor. One that was cut off is sent again.
        this.cursor = id;
        if (data !== null) this.#on.event({ id, type, data });
      },
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      watchdog.reset();
      parser.push(decoder.decode(value, { stream: true }));
    }
  }
}

/** Calls `expire` when it was not reset for `timeout` ms. */
class Watchdog {
  expired = false;
  #lastReset = Date.now();
  #timer;

  constructor(timeout, expire) {
    this.#timer = setInterval(() => {
      if (Date.now() - this.#lastReset < timeout) return;
      this.expired = true;
      expire();
    }, 1_000);
  }

  reset() {
    this.#lastReset = Date.now();
  }

  end() {
    clearInterval(this.#timer);
  }
}

// --- Payloads -----------------------------------------------------------------------------

const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** Indents compact JSON. Yields pairs of the kind of a token and its text. */
function* indented(tokens) {
  let depth = 0;
  const newline = () => `\n${"  ".repeat(Math.min(depth, 40))}`;
  for (const [at, token] of tokens.entries()) {
    const [before, after] = [tokens[at - 1], tokens[at + 1]];
    if (token === "{" || token === "[") {
      depth += 1;
      const empty = after === "}" || after === "]";
      yield ["", empty ? token : token + newline()];
    } else if (token === "}" || token === "]") {
      depth -= 1;
      const empty = before === "{" || before === "[";
      yield ["", empty ? token : newline() + token];
    } else if (token === ",") yield ["", `,${newline()}`];
    else if (token === ":") yield ["", ": "];
    else if (token.startsWith('"')) yield [after === ":" ? "k" : "s", token];
    else yield [/^[-0-9]/.test(token) ? "n" : "l", token];
  }
}

/** A payload, indented and coloured, with all its characters unchanged. */
function formatted(json) {
  const tokens = json.match(TOKENS) ?? [];
  // Text that is not compact JSON is shown as received.
  if (tokens.join("") !== json) return document.createTextNode(json);
  if (tokens.length > MAX_COLOURED_TOKENS) {
    return document.createTextNode(Array.from(indented(tokens), ([, text]) => text).join(""));
  }
  const out = document.createDocumentFragment();
  for (const [kind, text] of indented(tokens)) {
    out.append(kind === "" ? text : element("span", { className: kind, textContent: text }));
  }
  return out;
}

// --- The page -----------------------------------------------------------------------------

const root = document.documentElement;
const at = (id) => document.getElementById(id);
const form = at("choice");
const list = at("events");

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** What the user follows. `from` is "" for now, or an id or cursor. */
let choice = { consumers: [], types: "", from: "" };
let follower = null;
/** Whether the stream has caught up with the log. */
let live = false;
/** Rows that are not on the page yet, oldest first. Held back while paused. */
let pending = [];
let paused = false;
let received = 0;
let lastHeartbeat = null;
let lost = 0;
/** When the next attempt to reconnect starts, or null. */
let reconnectAt = null;
let unannounced = 0;
/** The times at which events arrived, for the rate. */
let arrivals = [];

/** The names in a field of the form, where commas separate them. */
const names = (text) => text.split(",").map((name) => name.trim()).filter((name) => name !== "");

function query({ consumers, types }) {
  const query = new URLSearchParams();
  for (const consumer of consumers) query.append("consumer", consumer);
  if (types !== "") query.set("types", types);
  return query;
}

function fromAddress() {
  const given = new URLSearchParams(location.search);
  const consumers = given.getAll("consumer").filter((name) => name !== "");
  const from = given.get("from") ?? given.get("lastEventId") ?? "";
  return { consumers, types: given.getAll("types").join(","), from };
}

function intoAddress() {
  const wanted = query(choice);
  if (choice.from !== "") wanted.set("from", choice.from);
  const text = wanted.toString();
  history.replaceState(null, "", text === "" ? location.pathname : `?${text}`);
}

function fromForm() {
  const begin = form.elements.begin.value;
  const after = form.elements.after.value.trim();
  return {
    consumers: names(form.elements.consumer.value),
    types: names(form.elements.types.value).join(","),
    from: { now: "", start: "0", after }[begin],
  };
}

function intoForm({ consumers, types, from }) {
  form.elements.consumer.value = consumers.join(", ");
  form.elements.types.value = types;
  form.elements.begin.value = { "": "now", 0: "start" }[from] ?? "after";
  form.elements.after.value = from === "0" ? "" : from;
  showAfter();
}

function showAfter() {
  const wanted = form.elements.begin.value === "after";
  form.elements.after.hidden = !wanted;
  form.elements.after.required = wanted;
}

/** Shows a state. `state` selects the style, and is read by tests; `text` is what people read. */
function show(state, text) {
  root.dataset.state = state;
  if (at("status").textContent !== text) at("status").textContent = text;
  const going = follower !== null;
  at("follow").textContent = going ? "Restart" : "Follow";
  at("stop").hidden = !going;
  const who = choice.consumers.join(", ");
  document.title = going ? `${who} · ${text} · EventPiper` : "EventPiper";
  showEmpty();
}

function showEmpty() {
  at("empty").hidden = list.childElementCount > 0;
  const who = choice.consumers.join(", ");
  const [title, text] = root.dataset.state === "failed"
    ? ["The gateway refuses this stream", "See the reason above."]
    : follower === null
    ? ["Whose events would you like to see?",
       "Type the name of a consumer above, for instance toto, and press Follow. Events are rows of the table events; their column subscriber names the consumer."]
    : received > 0
      ? ["No events on the page", "The next event will appear here."]
      : live
        ? [`No events for ${who} yet`,
           "The stream is open. Insert a row with the statement above, in psql or from your program, and it appears here at once."]
        : [`Waiting for the stream of ${who}`, "It continues automatically as soon as the gateway answers."];
  at("empty-title").textContent = title;
  at("empty-text").textContent = text;
}

// --- Following ----------------------------------------------------------------------------

function follow(chosen) {
  follower?.stop();
  choice = chosen;
  reset();
  intoAddress();
  remember(choice.consumers);
  showCommands();
  const mine = new Follower(`events?${query(choice)}`, choice.from, {
    connecting: () => show(lost > 0 ? "reconnecting" : "connecting", lost > 0 ? "Reconnecting" : "Connecting"),
    opened: (cursor) => opened(cursor),
    event: (event) => receive(event),
    lost: (why, pause) => disconnected(why, pause),
    refused: (error) => refused(error),
  });
  follower = mine;
  mine.run();
}

function reset() {
  pending = [];
  arrivals = [];
  [received, lost, lastHeartbeat, live] = [0, 0, null, false];
  list.replaceChildren();
  at("problem").hidden = true;
  reconnectAt = null;
  pause(false);
  showFacts();
}

function stop() {
  follower?.stop();
  follower = null;
  reconnectAt = null;
  show("idle", "Not following");
  showCountdown();
}

function opened(cursor) {
  reconnectAt = null;
  live = false;
  at("problem").hidden = true;
  if (lost > 0) note(cursor === "" ? "reconnected" : `reconnected, resuming after ${cursor}`);
  if (cursor === "") show("waiting", "Connected, waiting for the log");
  else show("replaying", "Replaying");
  showCountdown();
}

function disconnected(why, pause) {
  const { state } = root.dataset;
  if (state === "closing") note("the gateway ended the stream");
  else if (!["connecting", "reconnecting"].includes(state)) note(`connection lost: ${why}`);
  live = false;
  lost += 1;
  reconnectAt = Date.now() + pause;
  show("reconnecting", "Reconnecting");
  showCountdown();
}

function refused(error) {
  follower = null;
  reconnectAt = null;
  if (error instanceof Unauthorized) askForToken();
  at("problem").textContent = error.message;
  at("problem").hidden = false;
  show("failed", "Refused");
}

/** Shows the field for a token, which is hidden until a gateway requires one. */
function askForToken() {
  at("token-field").hidden = false;
  at("token").focus();
}

function wentLive() {
  live = true;
  show("live", "Live");
}

function receive(event) {
  // "thump" is not JSON, so it cannot be the payload of an event with the type "heartbeat".
  if (event.type === "heartbeat" && event.data === "thump") {
    lastHeartbeat = Date.now();
    // A stream that begins now is live as soon as it has a cursor. One that resumes must catch up first.
    if (root.dataset.state === "waiting" && event.id !== "") wentLive();
  } else if (event.type === "$caught-up") wentLive();
  else if (event.type === "$gap") gap(event.data);
  else if (event.type === "$closing") show("closing", "The gateway is restarting");
  else if (!event.type.startsWith("$")) {
    received += 1;
    arrivals.push(Date.now());
    queue({ ...event, time: new Date() });
  }
  showFactsSoon();
}

function gap(data) {
  const { from, to, reason } = JSON.parse(data);
  const why = { pruned: "they were pruned", reset: "the log was replaced" }[reason] ?? reason;
  const text = to > from ? `events after ${from} up to ${to} are no longer available: ${why}` : `some events after ${from} are not available: ${why}`;
  queue({ note: text, bad: true });
  // After a reset nothing is replayed: the stream continues at the end of the new log.
  if (reason === "reset") wentLive();
}

const note = (text) => queue({ note: `${clock(new Date())} · ${text}` });

// --- Rows ---------------------------------------------------------------------------------

function queue(row) {
  pending.push(row);
  if (pending.length > 2 * MAX_EVENTS) pending = pending.slice(-MAX_EVENTS);
  drawSoon();
}

/** Runs `work` at most once per frame of the display, and not while the page is hidden. */
function oncePerFrame(work) {
  let planned = false;
  return () => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => {
      planned = false;
      work();
    });
  };
}

const drawSoon = oncePerFrame(draw);
const showFactsSoon = oncePerFrame(showFacts);

function draw() {
  showWaiting();
  if (paused || pending.length === 0) return;
  const rows = pending.slice(-MAX_EVENTS).map(rowOf).reverse();
  unannounced += pending.length;
  pending = [];
  if (!commandsTouched) at("commands").open = false;
  list.prepend(...rows);
  while (list.childElementCount > MAX_EVENTS) list.lastElementChild.remove();
  showEmpty();
  showShown();
}

function rowOf(row) {
  const made = row.note === undefined ? eventRow(row) : noteRow(row);
  made.hidden = !matches(made);
  return made;
}

function noteRow({ note, bad = false }) {
  const made = element("li", { className: bad ? "note bad" : "note", textContent: note });
  made.dataset.text = note.toLowerCase();
  return made;
}

function eventRow({ id, type, data, time }) {
  // Cursors are opaque to other clients. This page is part of the gateway, and knows that a cursor begins
  // with the id of the row.
  const row = id.split(/[@~]/)[0];
  const kind = element("span", { className: "type", textContent: type, title: type });
  kind.style.setProperty("--hue", hue(type));
  const summary = element(
    "summary", {},
    element("span", { className: "id", textContent: row }),
    kind,
    element("span", { className: "preview", textContent: data.slice(0, PREVIEW_CHARS) }),
    element("span", { className: "time", textContent: clock(time), title: "time of arrival on this page" }),
  );
  const details = element("details", {}, summary);
  // Most rows are never opened, so the body is created when one is.
  details.addEventListener("toggle", () => details.append(bodyOf(id, row, data)), { once: true });
  const made = element("li", { className: "event new" }, details);
  made.dataset.id = row;
  made.dataset.text = `${row}\n${type}\n${data}`.toLowerCase();
  return made;
}

function bodyOf(id, row, data) {
  const where = query({ consumers: choice.consumers, types: "" });
  const whole = element("a", {
    href: `events/${row}?${where}`, target: "_blank", rel: "noopener", textContent: "Full event",
  });
  const code = element("code", {}, formatted(data));
  const bar = element(
    "div", { className: "row" },
    element("span", {}, "cursor ", element("code", { textContent: id })),
    ...(token() === "" ? [whole] : []), // a link cannot send a token
    copyButton("Copy cursor", () => id),
    copyButton("Copy payload", () => data),
  );
  const body = element("pre", { tabIndex: 0, ariaLabel: `Payload of event ${row}` }, code);
  return element("div", { className: "body" }, bar, body);
}

const clock = (time) =>
  `${time.toTimeString().slice(0, 8)}.${String(time.getMilliseconds()).padStart(3, "0")}`;

/** The colour of a type, which depends on its name only. */
function hue(type) {
  let hash = 7;
  for (const char of type) hash = (hash * 31 + char.codePointAt(0)) % 3_600_007;
  return (hash * 47) % 360;
}

function matches(row) {
  return row.dataset.text.includes(at("filter").value.trim().toLowerCase());
}

function filter() {
  for (const row of list.children) row.hidden = !matches(row);
  showShown();
}

function showShown() {
  const all = list.getElementsByClassName("event");
  const filtered = at("filter").value.trim() !== "";
  const visible = filtered ? Array.from(all).filter((row) => !row.hidden).length : all.length;
  const kept = received > all.length ? `the last ${all.length}` : `${all.length}`;
  at("shown").textContent = all.length === 0 ? "" : filtered ? `${visible} of ${all.length}` : kept;
}

function pause(wanted) {
  paused = wanted;
  at("pause").setAttribute("aria-pressed", String(paused));
  at("pause").textContent = paused ? "Resume" : "Pause";
  drawSoon();
}

function showWaiting() {
  const count = Math.min(pending.length, MAX_EVENTS);
  at("waiting").hidden = !paused || count === 0;
  at("waiting").textContent = `${count} new · show`;
}

function clear() {
  pending = [];
  list.replaceChildren();
  showEmpty();
  showShown();
  showWaiting();
}

// --- Facts --------------------------------------------------------------------------------

function showFacts() {
  at("received").textContent = received.toLocaleString("en");
  at("cursor").textContent = follower?.cursor || "–";
  const seconds = lastHeartbeat === null ? null : Math.floor((Date.now() - lastHeartbeat) / 1_000);
  at("heartbeat").textContent =
    seconds === null ? "–" : seconds < 1 ? "just now" : seconds < 120 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ago`;
  showRate();
}

function showRate() {
  const since = Date.now() - RATE_WINDOW_MS;
  const first = arrivals.findIndex((time) => time >= since);
  arrivals = first < 0 ? [] : first === 0 ? arrivals : arrivals.slice(first);
  const rate = arrivals.length / (RATE_WINDOW_MS / 1_000);
  at("rate").textContent = rate >= 10 ? Math.round(rate).toLocaleString("en") : rate.toFixed(1);
}

function showCountdown() {
  const seconds = reconnectAt === null ? 0 : Math.ceil((reconnectAt - Date.now()) / 1_000);
  at("countdown").textContent = seconds > 0 ? `in ${seconds} s` : "";
  at("at-once").hidden = seconds <= 0;
}

/** Announces the number of new events to screen readers, instead of every event. */
function announce() {
  if (unannounced > 0) {
    at("announcement").textContent = unannounced === 1 ? "1 new event" : `${unannounced} new events`;
  }
  unannounced = 0;
}

// --- Commands to copy ---------------------------------------------------------------------

const shell = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
const sql = (text) => `'${text.replaceAll("'", "''")}'`;

function showCommands() {
  const { consumers, types, from } = choice.consumers.length > 0 ? choice : { ...choice, consumers: ["toto"] };
  const address = new URL("events", document.baseURI);
  address.search = "";
  const headers = [];
  // A single ASCII name is sent in the header. Several names, or other characters, go into the query.
  const plain = consumers.length === 1 && /^[\x21-\x7e]+$/.test(consumers[0]);
  if (plain) headers.push(`X-Consumer-Id: ${consumers[0]}`);
  else for (const name of consumers) address.searchParams.append("consumer", name);
  if (types !== "") address.searchParams.set("types", types);
  if (from !== "") headers.push(`Last-Event-ID: ${from}`);
  if (token() !== "") headers.push("Authorization: Bearer …");
  const options = headers.map((header) => `-H ${shell(header)}`);
  at("curl").textContent = ["curl -N", ...options, shell(address.href)].join(" ");
  const type = names(types)[0] ?? "insert";
  const values = [sql(type), "now()", sql(consumers[0]), sql('{"foo": "bar"}')];
  at("insert").textContent =
    `insert into events (type, timestamp, subscriber, payload) values (${values.join(", ")});`;
}

function copyButton(text, value) {
  const made = element("button", { type: "button", className: "copy", textContent: text });
  made.addEventListener("click", () => copy(made, value()));
  return made;
}

async function copy(button, text) {
  const done = await copied(text);
  const was = (button.dataset.was ??= button.textContent);
  button.textContent = done ? "Copied" : "Cannot copy";
  setTimeout(() => (button.textContent = was), 1_500);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have no clipboard API on pages without TLS, except on this machine.
    const field = element("textarea", { value: text, className: "unseen" });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

// --- Recent consumers ---------------------------------------------------------------------

const STORAGE_KEY = "event-piper.consumers";

function remembered() {
  try {
    const read = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "[]");
    return Array.isArray(read) ? read.filter((name) => typeof name === "string") : [];
  } catch {
    return [];
  }
}

function remember(consumers) {
  const all = [...new Set([...consumers, ...remembered()])].slice(0, 10);
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(all));
  } catch {
    // Some browsers have no storage. The names are only a convenience.
  }
  suggest(all);
}

function suggest(all) {
  at("consumers").replaceChildren(...all.map((value) => element("option", { value })));
}

// --- Set-up -------------------------------------------------------------------------------

let commandsTouched = false;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = fromForm();
  if (chosen.consumers.length > 0) follow(chosen);
});
form.addEventListener("change", showAfter);
at("commands").querySelector("summary").addEventListener("click", () => (commandsTouched = true));
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button, at(button.dataset.copy).textContent));
}
at("stop").addEventListener("click", stop);
at("at-once").addEventListener("click", () => follower?.reconnectNow());
at("pause").addEventListener("click", () => pause(!paused));
at("waiting").addEventListener("click", () => pause(false));
at("clear").addEventListener("click", clear);
at("filter").addEventListener("input", filter);
addEventListener("online", () => follower?.reconnectNow());
setInterval(() => {
  showFacts();
  showCountdown();
}, 1_000);
setInterval(announce, 5_000);

suggest(remembered());
choice = fromAddress();
intoForm(choice);
showCommands();
if (choice.consumers.length > 0) {
  follow(choice);
} else {
  show("idle", "Not following");
  form.elements.consumer.focus();
}
