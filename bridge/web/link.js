/**
 * The connection's own thread, between the audio thread and the server: what it does is held up
 * neither by drawing nor by a tab in the background. Connects again by itself, and records.
 *
 * Blocks have positions in the page's own count, which goes on for as long as the page plays; a
 * session's positions begin at 0, and `base` is where that lies.
 */

import { blockBytes, HEARD, readBlock, STEMS, writeBlock } from "./blocks.js";
import { ClientPeer } from "./peer.js";
import { ProtocolError, SUBPROTOCOL } from "./protocol.js";
import { Recording } from "./recorder.js";

const FINAL = ["version", "token", "config"]; // errors after which trying again is no use
const BUSY = ["too_many", "shutdown"]; // those after which a session may still be there
const WAITING = 4; // seconds of mixture that are kept for a connection to come
const LOST = 2; // seconds of missing mixture, after which another session is begun
const TRIES = 4; // of the first connection
const SLOWEST = 5000; // ms between tries
const DEAF = 6000; // ms without a word, and the connection is given up
const AGAIN = 4000; // code of closing that does not end the session
const LAST = 30_000; // ms that the last stems may take
const SPARE = 32; // buffers that are kept here

class Link {
  constructor(post) {
    this.post = post;
    this.socket = this.peer = this.recording = null;
    this.base = 0;
    this.pending = []; // {position, count, samples} that are not sent yet
    this.holes = []; // {from, to} of the mixture, in this session
    this.spare = [];
    this.tries = this.dropped = this.reconnects = this.sessions = 0;
    this.up = this.down = 0; // bytes of frames
    this.finishing = this.closed = false;
    this.rtt = this.patience = 0;
    this.latencies = []; // {from, latency}: of stems from a position on
  }

  /** Begin. `port` leads to the audio thread. */
  begin({ url, hello, port, block, record }) {
    Object.assign(this, { url, port, block, rate: hello.rate });
    this.peer = new ClientPeer(hello);
    this.armed = record; // a recording is to begin with the first session
    port.onmessage = ({ data }) => this.#fromAudio(data);
    this.timer = setInterval(() => this.#tick(), 1000);
    this.#connect();
  }

  control(control) {
    this.#send(this.peer.control(control));
  }

  record(on) {
    this.armed = on && !this.sessions;
    if (on && this.sessions) {
      this.recording = new Recording(this.rate, this.next);
    } else if (this.recording) {
      this.#endRecording();
      this.#checkRecording();
    }
  }

  /** The source has ended: have the last stems, then say goodbye. */
  finish() {
    this.finishing = true;
    this.#endRecording();
    if (!this.peer?.connected) return this.close();
    this.finishBy = performance.now() + LAST;
    this.heardStems = performance.now();
    this.#pump();
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    clearInterval(this.timer);
    clearTimeout(this.retry);
    if (this.recording) this.#giveRecording();
    if (this.peer?.connected) this.#send(this.peer.goodbye("stopped"));
    this.#hangUp();
    this.post({ type: "closed" });
  }

  #connect() {
    this.#state(this.sessions ? "reconnecting" : "connecting");
    const socket = new WebSocket(this.url, [SUBPROTOCOL]);
    this.socket = socket;
    this.heard = performance.now();
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#send(this.peer.connect());
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = () => this.#lost("The server does not answer.");
  }

  /** Forget the connection, not the session. */
  #hangUp() {
    const { socket } = this;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(AGAIN);
    this.socket = null;
    this.peer.connected = false;
  }

  #lost(text, code = "unreachable") {
    this.#hangUp();
    this.tries += 1;
    if (this.closed || this.finishing) return this.close();
    if (!this.sessions && this.tries >= TRIES) return this.#fail(code, text);
    const steps = Math.min(SLOWEST, 100 * 2 ** this.tries) * (0.8 + 0.4 * Math.random());
    const wait = BUSY.includes(code) ? 1000 : 0;
    const delay = Math.max(wait, this.tries === 1 && this.sessions ? 0 : steps);
    this.#state(this.sessions ? "reconnecting" : "connecting", text);
    this.retry = setTimeout(() => this.#connect(), delay);
  }

  #fail(code, text) {
    this.post({ type: "error", code, text });
    this.close();
  }

  #receive(data) {
    this.heard = performance.now();
    try {
      if (typeof data !== "string") {
        this.down += data.byteLength;
        this.heardStems = this.heard;
      }
      const { event, answers } = this.peer.receive(data);
      this.#send(answers);
      this.#handle(event);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#refused(error);
    }
  }

  #handle(event) {
    if (event.type === "stems") {
      this.#stems(event);
      this.#pump();
    } else if (event.type === "welcome") {
      this.#welcomed(event);
    } else if (event.type === "state") {
      this.#tellLatency(event.latency, event.position);
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
      this.#lost(event.reason || "The server said goodbye.");
    }
  }

  /** What a server's error, or a fault in what it sent, leads to. */
  #refused({ code, message }) {
    if (FINAL.includes(code)) return this.#fail(code, message);
    if (code === "resume" && this.peer.welcome) {
      this.#hangUp();
      this.peer.beginAnew();
      return this.#connect();
    }
    if (!this.sessions && BUSY.includes(code)) return this.#fail(code, message);
    if (!BUSY.includes(code)) this.peer.beginAnew();
    this.#lost(message, code);
  }

  #welcomed(welcome) {
    if (this.session !== welcome.session) {
      this.#drop(0); // a new session begins now, not with what has waited for it
      this.holes = [];
      this.session = welcome.session;
      this.sessions += 1;
      this.base = this.next ?? 0;
      if (this.armed) this.record(true);
    }
    if (this.peer.connections > 1) this.reconnects += 1;
    this.welcomed = performance.now();
    this.latencies = []; // those to come follow
    this.#tellLatency(welcome.latency, this.peer.received);
    this.#send(this.peer.ping(performance.now()));
    this.#state("live");
    this.post({ type: "welcome", latency: welcome.latency, hop: welcome.hop,
      server: welcome.server ?? "", session: welcome.session });
    this.#pump();
  }

  /** From a position on stems are so late; what was said of later positions still holds. */
  #tellLatency(latency, position) {
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
    if (kind === HEARD) {
      this.recording?.mix(position, samples, count);
    } else {
      this.next = position + count;
      this.recording?.mixture(position, samples, count);
      if (!this.finishing) {
        this.pending.push({ position, count, samples: samples.slice(0, 2 * count) });
        this.#pump();
      }
    }
    if (this.spare.length < SPARE) this.spare.push(buffer);
    else this.port.postMessage(buffer, [buffer]);
    this.#checkRecording();
  }

  /** Send as much as the server will take, and forget what has waited for too long. */
  #pump() {
    const { peer, pending } = this;
    while (pending.length && peer.connected) {
      const gap = pending[0].position - this.base - peer.sent;
      if (gap > LOST * this.rate) return this.#anew();
      if (peer.room < this.block) break;
      if (gap > 0) {
        const from = this.base + peer.sent;
        this.#send(peer.skip(Math.min(gap, peer.room - (peer.room % this.block))));
        this.holes.push({ from, to: this.base + peer.sent });
      } else {
        const { samples, count } = pending.shift();
        this.#send(peer.mixture(samples, count));
      }
    }
    if (pending.length * this.block > WAITING * this.rate) this.#drop(WAITING / 4);
    if (this.finishing && !pending.length && peer.connected && !peer.flushing) {
      this.#send(peer.flush());
    }
  }

  /** Give up the oldest mixture, but for so many seconds. */
  #drop(seconds) {
    const kept = Math.floor((seconds * this.rate) / this.block);
    const gone = this.pending.splice(0, Math.max(0, this.pending.length - kept));
    if (this.session) this.dropped += gone.length * this.block;
  }

  /** Too much is missing for the network to remember what was before: another session. */
  #anew() {
    this.#send(this.peer.goodbye("too long away"));
    this.#hangUp();
    this.peer.beginAnew();
    this.#connect();
  }

  /** Stems to the recording, and block by block to the audio thread. */
  #stems({ position, count, samples }) {
    const first = this.peer.latency; // stems before this position have no content
    const from = Math.min(count, Math.max(0, first - position));
    for (let at = from; at < count; at += this.block) {
      const size = Math.min(this.block, count - at);
      const place = this.base + position + at;
      const content = place - this.#latencyAt(place);
      if (this.#isHole(content, size)) continue; // silence: the original is to conceal it
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

  /** Whether some of the mixture from a position on was never sent. */
  #isHole(position, count) {
    while (this.holes.length && this.holes[0].to <= position) this.holes.shift();
    return this.holes.length > 0 && this.holes[0].from < position + count;
  }

  #endRecording() {
    if (this.recording?.end !== Infinity) return;
    this.recording.end = this.next ?? 0;
    this.patience = 15; // seconds for its last stems to come
  }

  #checkRecording() {
    const { recording } = this;
    if (recording?.full && recording.end === Infinity) {
      this.post({ type: "recording-full" });
      this.record(false);
    } else if (recording?.complete && !this.finishing) {
      this.#giveRecording();
    }
  }

  #giveRecording() {
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

  #state(state, text = "") {
    this.post({ type: "connection", state, text, tries: this.tries });
  }

  /** Once a second: is the server there, and how far away? */
  #tick() {
    const { peer } = this;
    const now = performance.now();
    if (this.finishing && (now > this.finishBy || now - this.heardStems > DEAF / 2)) {
      return this.close();
    }
    if (this.socket && now - this.heard > DEAF) this.#lost("The server has fallen silent.");
    if (peer.connected) {
      this.#send(peer.ping(now));
      if (now - this.welcomed > 5000) this.tries = 0;
    }
    if (this.recording?.end < Infinity && --this.patience < 0) {
      this.#giveRecording();
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
