// The page at /: follows one stream of events, and shows what is going on.
//
// Why not EventSource? It hands over only the types of events that somebody has listened
// for by name, and here writers make up types as they like. So this page reads the stream
// with fetch() and does itself what an EventSource does (WHATWG HTML, section 9.2): takes
// the frames apart, remembers the last `id:`, comes back when the connection is lost after
// the time that the server's `retry:` asks for, and says in `Last-Event-ID` how far it got.
//
// What comes from events goes into the page as text only, never as HTML, and payloads are
// shown digit by digit as they came: JSON.parse would round large numbers.

/** As many events are kept on the page. */
const KEPT = 500;
/** Of a collapsed payload as much is shown. */
const PREVIEW = 300;
/** A payload of more tokens is indented, but not coloured. */
const COLOURED = 20_000;
/** Before a server has said when to come back. */
const RETRY = 1_000;
/** A server that is not there is asked at least this often. */
const LONGEST_PAUSE = 15_000;
/** A connection without even a heartbeat for this long is dead. */
const SILENCE = 90_000;
/** The rate is counted over this time. */
const RATE_WINDOW = 5_000;

// --- The stream ---------------------------------------------------------------------------

/** Takes an event stream apart, in whatever pieces its text comes. */
class Parser {
  #rest = "";
  #afterReturn = false;
  #type = "";
  #data = [];
  #id;
  #on;

  /** `id` is the last one of the connection before: a frame without an `id:` keeps it. */
  constructor(id, on) {
    this.#id = id;
    this.#on = on;
  }

  push(text) {
    if (text === "") return;
    // A line feed that belongs to the carriage return of the piece before.
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

/** The server does not want us to come back. */
class Refused extends Error {}

/** The server wants to know who is asking, or does not believe it. */
class Unproven extends Refused {}

/**
 * What shows who is asking, where the gateway wants to know. It is kept nowhere but in the
 * field that it was pasted into, and goes into a header, never into an address.
 */
const proof = () => document.getElementById("token").value.trim();
const authorization = () => (proof() === "" ? {} : { authorization: `Bearer ${proof()}` });

/**
 * Follows a stream through lost connections until it is stopped or refused.
 *
 * `on` hears: `connecting()`, `opened(cursor)`, `event({id, type, data})`, `lost(why, pause)`,
 * `refused(why)`.
 */
class Follower {
  cursor;
  #address;
  #on;
  #retry = RETRY;
  #failures = 0;
  #silence = SILENCE;
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

  /** Ends it. Whatever arrives later is dropped. */
  stop() {
    this.#stopped = true;
    this.#connection?.abort();
    this.#wake();
  }

  /** Does not wait any longer for the next attempt. */
  hurry() {
    this.#wake();
  }

  /** The server's own time at first, longer while there is no server. */
  #pause() {
    const failures = this.#failures++;
    if (failures === 0) return this.#retry;
    const longest = Math.max(LONGEST_PAUSE, this.#retry);
    const pause = Math.min(Math.max(this.#retry, RETRY / 2) * 2 ** failures, longest);
    return pause * (0.75 + Math.random() / 4);
  }

  async #connect() {
    const connection = new AbortController();
    this.#connection = connection;
    const headers = { accept: "text/event-stream", ...authorization() };
    if (this.cursor !== "") headers["last-event-id"] = this.cursor;
    const watch = new Watch(this.#silence, () => connection.abort());
    try {
      const init = { headers, cache: "no-store", signal: connection.signal };
      await this.#admit(init);
      const answer = await fetch(this.#address, init);
      await this.#check(answer);
      this.#failures = 0;
      this.#on.opened(this.cursor);
      await this.#read(answer.body.getReader(), watch);
    } catch (error) {
      if (watch.barked) {
        // Perhaps this server's heartbeat is slow, and not the network.
        this.#silence = Math.min(this.#silence * 2, 10 * SILENCE);
        throw new Error("nothing came, not even a heartbeat");
      }
      throw error instanceof TypeError ? new Error("the gateway cannot be reached") : error;
    } finally {
      watch.end();
      connection.abort();
    }
  }

  /** A token opens this page only if it has the right to: the page's own address says so. */
  async #admit(init) {
    if (this.#admitted || proof() === "") return;
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
    if (status === 401) throw new Unproven(why);
    const passing = status === 429 || status === 408 || status >= 500;
    throw passing ? new Error(why) : new Refused(why);
  }

  async #read(reader, watch) {
    // It also takes away a byte order mark, as it has to be.
    const decoder = new TextDecoder();
    const parser = new Parser(this.cursor, {
      retry: (millis) => (this.#retry = millis),
      frame: ({ id, type, data }) => {
        if (this.#stopped) return;
        // Only a whole frame moves the cursor: what was cut off in its middle comes again.
        this.cursor = id;
        if (data !== null) this.#on.event({ id, type, data });
      },
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      watch.pat();
      parser.push(decoder.decode(value, { stream: true }));
    }
  }
}

/** Barks when nothing was heard for too long. */
class Watch {
  barked = false;
  #heard = Date.now();
  #timer;

  constructor(patience, bark) {
    this.#timer = setInterval(() => {
      if (Date.now() - this.#heard < patience) return;
      this.barked = true;
      bark();
    }, 1_000);
  }

  pat() {
    this.#heard = Date.now();
  }

  end() {
    clearInterval(this.#timer);
  }
}

// --- Payloads -----------------------------------------------------------------------------

const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** Compact JSON, indented: pairs of a kind of token and its text. */
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

/** A payload for reading: indented and coloured, but every character of it as it came. */
function printed(json) {
  const tokens = json.match(TOKENS) ?? [];
  // Not the compact JSON that it should be? Then better as it is.
  if (tokens.join("") !== json) return document.createTextNode(json);
  if (tokens.length > COLOURED) {
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

/** What is followed: `from` is "" for now, or an id or cursor. */
let choice = { consumers: [], types: "", from: "" };
let follower = null;
/** Whether everything until now has been sent. */
let live = false;
/** Rows that are not on the page yet, oldest first. */
let pending = [];
let paused = false;
let received = 0;
let lastHeartbeat = null;
let lost = 0;
let comeback = null;
let unannounced = 0;
/** When events came, for the rate: pairs of a time and a count. */
let arrivals = [];

/** Names are separated by commas, in the form and nowhere else. */
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

/** `state` is for the eyes and for tests, `text` for people. */
function show(state, text) {
  root.dataset.state = state;
  if (at("status").textContent !== text) at("status").textContent = text;
  const going = follower !== null;
  at("follow").textContent = going ? "Follow anew" : "Follow";
  at("stop").hidden = !going;
  const who = choice.consumers.join(", ");
  document.title = going ? `${who} · ${text} · EventPiper` : "EventPiper";
  showEmpty();
}

function showEmpty() {
  at("empty").hidden = list.childElementCount > 0;
  const who = choice.consumers.join(", ");
  const [title, text] = root.dataset.state === "failed"
    ? ["The gateway refuses this stream", "Above is what it says about it."]
    : follower === null
    ? ["Whose events would you like to see?",
       "Type a consumer’s name above, for instance toto, and press Follow. Events are rows of the table events; a consumer is whom their column subscriber names."]
    : received > 0
      ? ["Nothing on the page", "The next event will show here."]
      : live
        ? [`No event for ${who} yet`,
           "The stream is open. Insert a row with the line above, in psql or from your program, and it shows here at once."]
        : [`Waiting for the stream of ${who}`, "It goes on by itself as soon as the gateway answers."];
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
  comeback = null;
  pause(false);
  showFacts();
}

function stop() {
  follower?.stop();
  follower = null;
  comeback = null;
  show("idle", "Not following");
  showCountdown();
}

function opened(cursor) {
  comeback = null;
  live = false;
  at("problem").hidden = true;
  if (lost > 0) note(`reconnected, going on after ${cursor || "now"}`);
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
  comeback = Date.now() + pause;
  show("reconnecting", "Reconnecting");
  showCountdown();
}

function refused(error) {
  follower = null;
  comeback = null;
  if (error instanceof Unproven) askForProof();
  at("problem").textContent = error.message;
  at("problem").hidden = false;
  show("failed", "Refused");
}

/** The field for a token is for gateways that ask for one. */
function askForProof() {
  at("proof").hidden = false;
  at("token").focus();
}

function wentLive() {
  live = true;
  show("live", "Live");
}

function receive(event) {
  // The payload of an event is JSON, which this is not: only the gateway can say it.
  if (event.type === "heartbeat" && event.data === "thump") {
    lastHeartbeat = Date.now();
    // Who begins now is live as soon as there is a cursor; who resumes, once caught up.
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
  const text = to > from ? `events after ${from} up to ${to} cannot be sent any more: ${why}` : `not everything after ${from} can be sent: ${why}`;
  queue({ note: text, bad: true });
  // Of another log nothing is replayed: it goes on from that log's end.
  if (reason === "reset") wentLive();
}

const note = (text) => queue({ note: `${clock(new Date())} · ${text}` });

// --- Rows ---------------------------------------------------------------------------------

function queue(row) {
  pending.push(row);
  if (pending.length > 2 * KEPT) pending = pending.slice(-KEPT);
  drawSoon();
}

/** Once a frame of the display at most, and not at all while nobody can see it. */
function once(work) {
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

const drawSoon = once(draw);
const showFactsSoon = once(showFacts);

function draw() {
  showWaiting();
  if (paused || pending.length === 0) return;
  const rows = pending.slice(-KEPT).map(rowOf).reverse();
  unannounced += pending.length;
  pending = [];
  if (!commandsTouched) at("commands").open = false;
  list.prepend(...rows);
  while (list.childElementCount > KEPT) list.lastElementChild.remove();
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
  // A cursor is opaque to every other client; this page may know that it begins with the row's id.
  const row = id.split(/[@~]/)[0];
  const kind = element("span", { className: "type", textContent: type, title: type });
  kind.style.setProperty("--hue", hue(type));
  const summary = element(
    "summary", {},
    element("span", { className: "id", textContent: row }),
    kind,
    element("span", { className: "preview", textContent: data.slice(0, PREVIEW) }),
    element("span", { className: "time", textContent: clock(time), title: "when it arrived here" }),
  );
  const details = element("details", {}, summary);
  // Most are never opened: what is inside is made when it is.
  details.addEventListener("toggle", () => details.append(bodyOf(id, row, data)), { once: true });
  const made = element("li", { className: "event new" }, details);
  made.dataset.id = row;
  made.dataset.text = `${row}\n${type}\n${data}`.toLowerCase();
  return made;
}

function bodyOf(id, row, data) {
  const where = query({ consumers: choice.consumers, types: "" });
  const whole = element("a", {
    href: `events/${row}?${where}`, target: "_blank", rel: "noopener", textContent: "the whole row",
  });
  const code = element("code", {}, printed(data));
  const bar = element(
    "div", { className: "row" },
    element("span", {}, "cursor ", element("code", { textContent: id })),
    ...(proof() === "" ? [whole] : []), // a link shows no token
    copyButton("Copy cursor", () => id),
    copyButton("Copy payload", () => data),
  );
  const body = element("pre", { tabIndex: 0, ariaLabel: `Payload of event ${row}` }, code);
  return element("div", { className: "body" }, bar, body);
}

const clock = (time) =>
  `${time.toTimeString().slice(0, 8)}.${String(time.getMilliseconds()).padStart(3, "0")}`;

/** The same type has the same colour, today and tomorrow. */
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
  at("pause").textContent = paused ? "Go on" : "Pause";
  drawSoon();
}

function showWaiting() {
  const count = Math.min(pending.length, KEPT);
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
  const since = Date.now() - RATE_WINDOW;
  const first = arrivals.findIndex((time) => time >= since);
  arrivals = first < 0 ? [] : first === 0 ? arrivals : arrivals.slice(first);
  const rate = arrivals.length / (RATE_WINDOW / 1_000);
  at("rate").textContent = rate >= 10 ? Math.round(rate).toLocaleString("en") : rate.toFixed(1);
}

function showCountdown() {
  const seconds = comeback === null ? 0 : Math.ceil((comeback - Date.now()) / 1_000);
  at("countdown").textContent = seconds > 0 ? `in ${seconds} s` : "";
  at("at-once").hidden = seconds <= 0;
}

/** Who listens to the page hears a number now and then, not every event. */
function announce() {
  if (unannounced > 0) {
    at("announcement").textContent = unannounced === 1 ? "one new event" : `${unannounced} new events`;
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
  // One plain name goes into the header; several, or what a header cannot hold, into the query.
  const plain = consumers.length === 1 && /^[\x21-\x7e]+$/.test(consumers[0]);
  if (plain) headers.push(`X-Consumer-Id: ${consumers[0]}`);
  else for (const name of consumers) address.searchParams.append("consumer", name);
  if (types !== "") address.searchParams.set("types", types);
  if (from !== "") headers.push(`Last-Event-ID: ${from}`);
  if (proof() !== "") headers.push("Authorization: Bearer …");
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
    // Without TLS, and not on this machine: browsers have only the old way.
    const field = element("textarea", { value: text, className: "unseen" });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

// --- What is remembered -------------------------------------------------------------------

const MEMORY = "event-piper.consumers";

function remembered() {
  try {
    const read = JSON.parse(localStorage.getItem(MEMORY) ?? "[]");
    return Array.isArray(read) ? read.filter((name) => typeof name === "string") : [];
  } catch {
    return [];
  }
}

function remember(consumers) {
  const all = [...new Set([...consumers, ...remembered()])].slice(0, 10);
  try {
    localStorage.setItem(MEMORY, JSON.stringify(all));
  } catch {
    // Some browsers keep nothing; it is only a convenience.
  }
  suggest(all);
}

function suggest(all) {
  at("consumers").replaceChildren(...all.map((value) => element("option", { value })));
}

// --- Everything together ------------------------------------------------------------------

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
at("at-once").addEventListener("click", () => follower?.hurry());
at("pause").addEventListener("click", () => pause(!paused));
at("waiting").addEventListener("click", () => pause(false));
at("clear").addEventListener("click", clear);
at("filter").addEventListener("input", filter);
addEventListener("online", () => follower?.hurry());
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
