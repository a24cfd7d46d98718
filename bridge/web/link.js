/**
 * The thread of the connection, between the audio thread and the server: neither drawing nor a tab
 * in the background delays it. It reconnects by itself, and records.
 *
 * Blocks have positions in the page's own count, which continues for as long as the page plays; a
 * session's positions start at 0, which is `base` in the page's count.
 */

import { blockBytes, PLAYED, readBlock, STEMS, writeBlock } from "./blocks.js";
import { ClientPeer } from "./peer.js";
import { ProtocolError, SUBPROTOCOL } from "./protocol.js";
import { Recording } from "./recorder.js";

const FATAL_ERRORS = ["version", "token", "config"]; // errors that a retry cannot cure
const BUSY_ERRORS = ["too_many", "shutdown"]; // errors after which the session may still exist
const MAX_PENDING_SECONDS = 4; // of mixture kept while there is no connection
const MAX_GAP_SECONDS = 2; // of missing mixture before another session is started
const FIRST_TRIES = 4; // attempts at the first connection
const MAX_RETRY_MS = 5000; // longest pause between attempts
const SILENCE_MS = 6000; // without a message before the connection is dropped
const KEEP_SESSION = 4000; // close code that does not end the session
const LAST_STEMS_MS = 30_000; // limit for the last stems to arrive
const SPARE_BUFFERS = 32; // kept for reuse

class Link {
  constructor(post) {
    this.post = post;
    this.socket = this.peer = this.recording = null;
    this.base = 0;
    this.pending = []; // {position, count, samples} still to send
    this.gaps = []; // {from, to} of mixture that was never sent in this session
    this.spare = [];
    this.tries = this.dropped = this.reconnects = this.sessions = 0;
    this.up = this.down = 0; // bytes of audio
    this.finishing = this.closed = false;
    this.rtt = this.patience = 0;
    this.latencies = []; // {from, latency}: latency of the stems from a position on
  }

  /** Start; `port` leads to the audio thread. */
  begin({ url, hello, port, block, record }) {
    Object.assign(this, { url, port, block, rate: hello.rate });
    this.peer = new ClientPeer(hello);
    this.recordNext = record; // start a recording with the first session
    port.onmessage = ({ data }) => this.#fromAudio(data);
    this.timer = setInterval(() => this.#tick(), 1000);
    this.#connect();
  }

  control(control) {
    this.#send(this.peer.control(control));
  }

  record(on) {
    this.recordNext = on && !this.sessions;
    if (on && this.sessions) {
      this.recording = new Recording(this.rate, this.next);
    } else if (this.recording) {
      this.#endRecording();
      this.#checkRecording();
    }
  }

  /** The source has ended: fetch the last stems, then say goodbye. */
  finish() {
    this.finishing = true;
    this.#endRecording();
    if (!this.peer?.connected) return this.close();
    this.finishBy = performance.now() + LAST_STEMS_MS;
    this.lastStemsAt = performance.now();
    this.#pump();
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    clearInterval(this.timer);
    clearTimeout(this.retry);
    if (this.recording) this.#postRecording();
    if (this.peer?.connected) this.#send(this.peer.goodbye("stopped"));
    this.#hangUp();
    this.post({ type: "closed" });
  }

  #connect() {
    this.#postState(this.sessions ? "reconnecting" : "connecting");
    const socket = new WebSocket(this.url, [SUBPROTOCOL]);
    this.socket = socket;
    this.lastMessageAt = performance.now();
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#send(this.peer.connect());
    socket.onmessage = ({ data }) => this.#onMessage(data);
    socket.onclose = () => this.#retryLater("The server does not answer.");
  }

  /** Drop the connection, but keep the session. */
  #hangUp() {
    const { socket } = this;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(KEEP_SESSION);
    this.socket = null;
    this.peer.connected = false;
  }

  #retryLater(text, code = "unreachable") {
    this.#hangUp();
    this.tries += 1;
    if (this.closed || this.finishing) return this.close();
    if (!this.sessions && this.tries >= FIRST_TRIES) return this.#fail(code, text);
    const steps = Math.min(MAX_RETRY_MS, 100 * 2 ** this.tries) * (0.8 + 0.4 * Math.random());
    const wait = BUSY_ERRORS.includes(code) ? 1000 : 0;
    const delay = Math.max(wait, this.tries === 1 && this.sessions ? 0 : steps);
    this.#postState(this.sessions ? "reconnecting" : "connecting", text);
    this.retry = setTimeout(() => this.#connect(), delay);
  }

  #fail(code, text) {
    this.post({ type: "error", code, text });
    this.close();
  }

  #onMessage(data) {
    this.lastMessageAt = performance.now();
    try {
      if (typeof data !== "string") {
        this.down += data.byteLength;
        this.lastStemsAt = this.lastMessageAt;
      }
      const { event, answers } = this.peer.receive(data);
      this.#send(answers);
      this.#onEvent(event);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#onProtocolError(error);
    }
  }

  #onEvent(event) {
    if (event.type === "stems") {
      this.#onStems(event);
      this.#pump();
    } else if (event.type === "welcome") {
      this.#onWelcome(event);
    } else if (event.type === "state") {
      this.#setLatency(event.latency, event.position);
      this.post({ type: "preset", preset: event.preset, latency: event.latency });
    } else if (event.type === "pong") {
      const rtt = performance.now() - event.time;
      this.rtt = this.rtt ? this.rtt + 0.3 * (rtt - this.rtt) : rtt;
    } else if (event.type === "stats") {
      this.post({ type: "stats", load: event.load, sessions: event.sessions });
    } else if (event.type === "error") {
      this.post({ type: "error", code: event.code, text: event.text });
    } else if (event.type === "flushed") {
      this.close();
    } else if (event.type === "goodbye") {
      this.peer.beginAnew();
      this.#retryLater(event.reason || "The server closed the session.");
    }
  }

  /** Handle an error that the server reports, or a violation of the protocol. */
  #onProtocolError({ code, message }) {
    if (FATAL_ERRORS.includes(code)) return this.#fail(code, message);
    if (code === "resume" && this.peer.welcome) {
      this.#hangUp();
      this.peer.beginAnew();
      return this.#connect();
    }
    if (!this.sessions && BUSY_ERRORS.includes(code)) return this.#fail(code, message);
    if (!BUSY_ERRORS.includes(code)) this.peer.beginAnew();
    this.#retryLater(message, code);
  }

  #onWelcome(welcome) {
    if (this.session !== welcome.session) {
      this.#dropPending(0); // a new session starts now, not with pending mixture
      this.gaps = [];
      this.session = welcome.session;
      this.sessions += 1;
      this.base = this.next ?? 0;
      if (this.recordNext) this.record(true);
    }
    if (this.peer.connections > 1) this.reconnects += 1;
    this.welcomedAt = performance.now();
    this.latencies = []; // changes follow
    this.#setLatency(welcome.latency, this.peer.received);
    this.#send(this.peer.ping(performance.now()));
    this.#postState("live");
    this.post({ type: "welcome", latency: welcome.latency, hop: welcome.hop,
      server: welcome.server ?? "", session: welcome.session });
    this.#pump();
  }

  /** Set the latency of stems from a position on; later changes still apply. */
  #setLatency(latency, position) {
    const from = this.base + position;
    if (this.#latencyAt(from) === latency) return;
    this.latencies = this.latencies.filter((each) => each.from !== from);
    this.latencies.push({ from, latency });
    this.latencies.sort((one, other) => one.from - other.from);
    this.port.postMessage({ latency, position: from });
  }

  #latencyAt(position) {
    return this.latencies.findLast(({ from }) => from <= position)?.latency;
  }

  /** Blocks from the audio thread. */
  #fromAudio(buffer) {
    const { kind, position, count, samples } = readBlock(buffer);
    if (kind === PLAYED) {
      this.recording?.mix(position, samples, count);
    } else {
      this.next = position + count;
      this.recording?.mixture(position, samples, count);
      if (!this.finishing) {
        this.pending.push({ position, count, samples: samples.slice(0, 2 * count) });
        this.#pump();
      }
    }
    if (this.spare.length < SPARE_BUFFERS) this.spare.push(buffer);
    else this.port.postMessage(buffer, [buffer]);
    this.#checkRecording();
  }

  /** Send as much as the server accepts, and drop what has been pending for too long. */
  #pump() {
    const { peer, pending } = this;
    while (pending.length && peer.connected) {
      const gap = pending[0].position - this.base - peer.sent;
      if (gap > MAX_GAP_SECONDS * this.rate) return this.#restartSession();
      if (peer.room < this.block) break;
      if (gap > 0) {
        const from = this.base + peer.sent;
        this.#send(peer.skip(Math.min(gap, peer.room - (peer.room % this.block))));
        this.gaps.push({ from, to: this.base + peer.sent });
      } else {
        const { samples, count } = pending.shift();
        this.#send(peer.mixture(samples, count));
      }
    }
    if (pending.length * this.block > MAX_PENDING_SECONDS * this.rate) {
      this.#dropPending(MAX_PENDING_SECONDS / 4);
    }
    if (this.finishing && !pending.length && peer.connected && !peer.flushing) {
      this.#send(peer.flush());
    }
  }

  /** Drop the oldest pending mixture, except for the newest `seconds`. */
  #dropPending(seconds) {
    const kept = Math.floor((seconds * this.rate) / this.block);
    const gone = this.pending.splice(0, Math.max(0, this.pending.length - kept));
    if (this.session) this.dropped += gone.length * this.block;
  }

  /** Start another session: too much is missing for the network to use its history. */
  #restartSession() {
    this.#send(this.peer.goodbye("too long away"));
    this.#hangUp();
    this.peer.beginAnew();
    this.#connect();
  }

  /** Pass stems to the recording and, block by block, to the audio thread. */
  #onStems({ position, count, samples }) {
    const first = this.peer.latency; // stems before this position are empty
    const from = Math.min(count, Math.max(0, first - position));
    for (let at = from; at < count; at += this.block) {
      const size = Math.min(this.block, count - at);
      const place = this.base + position + at;
      const content = place - this.#latencyAt(place);
      if (this.#isGap(content, size)) continue; // silent: the original conceals it
      const buffer = this.spare.pop() ?? new ArrayBuffer(blockBytes(this.block));
      const block = writeBlock(buffer, STEMS, place, size);
      for (let row = 0; row < 4; row++) {
        const start = row * count + at;
        block.set(samples.subarray(start, start + size), row * size);
      }
      this.recording?.stems(content, block, size);
      this.port.postMessage(buffer, [buffer]);
    }
    this.#checkRecording();
  }

  /** Whether part of the mixture from a position on was never sent. */
  #isGap(position, count) {
    while (this.gaps.length && this.gaps[0].to <= position) this.gaps.shift();
    return this.gaps.length > 0 && this.gaps[0].from < position + count;
  }

  #endRecording() {
    if (this.recording?.end !== Infinity) return;
    this.recording.end = this.next ?? 0;
    this.patience = 15; // seconds for its last stems to arrive
  }

  #checkRecording() {
    const { recording } = this;
    if (recording?.full && recording.end === Infinity) {
      this.post({ type: "recording-full" });
      this.record(false);
    } else if (recording?.complete && !this.finishing) {
      this.#postRecording();
    }
  }

  #postRecording() {
    this.post({ type: "recording", ...this.recording.files() });
    this.recording = null;
  }

  #send(messages) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    for (const message of messages) {
      if (typeof message !== "string") this.up += message.byteLength;
      this.socket.send(message);
    }
  }

  #postState(state, text = "") {
    this.post({ type: "connection", state, text, tries: this.tries });
  }

  /** Once a second: ping the server, and detect silence. */
  #tick() {
    const { peer } = this;
    const now = performance.now();
    if (this.finishing && (now > this.finishBy || now - this.lastStemsAt > SILENCE_MS / 2)) {
      return this.close();
    }
    if (this.socket && now - this.lastMessageAt > SILENCE_MS) {
      this.#retryLater("The server has stopped responding.");
    }
    if (peer.connected) {
      this.#send(peer.ping(now));
      if (now - this.welcomedAt > 5000) this.tries = 0;
    }
    if (this.recording?.end < Infinity && --this.patience < 0) {
      this.#postRecording();
    }
    const { reconnects, sessions, dropped, rtt, up, down } = this;
    this.post({
      type: "counters", rtt, reconnects, sessions, dropped, up, down, lost: peer.lost,
      recorded: this.recording?.seconds ?? 0,
    });
  }
}

const link = new Link((message) => self.postMessage(message));
self.onmessage = ({ data: { type, ...data } }) => {
  if (type === "begin") link.begin(data);
  else if (type === "control") link.control(data.control);
  else if (type === "record") link.record(data.on);
  else if (type === "finish") link.finish();
  else if (type === "close") link.close();
};
