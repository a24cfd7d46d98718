/**
 * The client's end of a session, over any number of connections, without sockets.
 * The same as ClientPeer in bridge/protocol/client_peer.py: messages in, events and messages out.
 * Positions account for every sample: as many samples down as up.
 */

import { MIX, ProtocolError, SOFT, STEMS, VERSION } from "./protocol.js";
import { decode, decodeFrame, encodeFrame, maxSamples } from "./protocol.js";

const CONTROLS = ["vocals", "instrumental", "mute", "bypass", "preset", "effects"];

const STREAMS = 65536;

/** The newest mixture sent, to be sent again if the connection drops; bounded. */
class Journal {
  constructor() {
    this.capacity = 0;
    this.begin();
  }

  /** Discard everything; a stream starts at position 0. */
  begin() {
    this.parts = []; // {position, count, samples}
    this.start = this.end = 0; // everything sent between them is kept
  }

  append(samples, count) {
    this.parts.push({ position: this.end, count, samples });
    this.skip(count);
  }

  /** `count` samples will never be sent. */
  skip(count) {
    this.end += count;
    this.forget(this.end - this.capacity);
  }

  /** Samples before a position are no longer needed. */
  forget(position) {
    this.start = Math.max(this.start, Math.min(position, this.end));
    let old = 0;
    while (old < this.parts.length && endOf(this.parts[old]) <= this.start) old++;
    if (old) this.parts.splice(0, old);
  }
}

const gcd = (a, b) => (b ? gcd(b, a % b) : a);
const endOf = (part) => part.position + part.count;

export class ClientPeer {
  /** @param hello the first message without `type` and `version`: rate, channels, format … */
  constructor(hello) {
    this.hello = hello;
    this.settings = {};
    this.connections = 0;
    this.lost = 0; // samples of stems that never arrived
    this.journal = new Journal();
    this.beginAnew();
  }

  /** Give up the session: the next connection starts another, at position 0. */
  beginAnew() {
    this.welcome = null;
    this.connected = false;
    this.latency = 0;
    this.#startStream(0);
  }

  /** Position after the newest mixture. */
  get sent() {
    return this.journal.end;
  }

  /** Samples that may be sent now. */
  get room() {
    if (!this.connected || this.flushing) return 0;
    return Math.max(0, this.welcome.limits.ahead - (this.sent - this.received));
  }

  /** A connection is open; returns the messages to send. */
  connect() {
    this.connected = false;
    this.frames = this.receivedFrames = 0;
    const hello = { type: "hello", version: VERSION, ...this.hello };
    if (this.welcome) {
      const { session, key } = this.welcome;
      hello.resume = { session, key, stream: this.stream, position: this.received };
    }
    return [JSON.stringify(hello)];
  }

  /** Send `count` samples of mixture, channel by channel, at most `room`; keeps the array. */
  mixture(samples, count) {
    this.#expectRoom(count);
    const position = this.sent;
    this.journal.append(samples, count);
    return this.#pack({ position, count, samples });
  }

  /** Leave a gap of `count` samples in the mixture, at most `room`. */
  skip(count) {
    this.#expectRoom(count);
    this.journal.skip(count);
    return [this.#emptyFrame()];
  }

  /** End the stream: `flushed` follows the last stems. */
  flush() {
    this.flushing = true;
    return [JSON.stringify({ type: "flush" })];
  }

  /** Change settings, and keep them for later connections. */
  control(control) {
    for (const name of CONTROLS) {
      if (control[name] !== undefined) this.settings[name] = control[name];
    }
    return this.connected ? [JSON.stringify({ type: "control", ...control })] : [];
  }

  /** Measure the round trip: `time` returns in a `pong`. */
  ping(time) {
    return [JSON.stringify({ type: "ping", id: 0, time })];
  }

  goodbye(reason) {
    return [JSON.stringify({ type: "goodbye", reason })];
  }

  /**
   * Decode a message, and answer it.
   * @param {string|ArrayBuffer} data
   * @returns {{event, answers: Array}} event.type is `stems` or that of the message
   */
  receive(data) {
    if (typeof data !== "string") return { event: this.#onStems(data), answers: [] };
    const event = decode(data);
    let answers = [];
    if (event === null) {
      return { event: { type: "unknown" }, answers };
    } else if (event.type === "welcome") {
      answers = this.#onWelcome(event);
    } else if (event.type === "error") {
      if (!(this.connected && SOFT.includes(event.code))) {
        throw new ProtocolError(String(event.code), String(event.text));
      }
    } else if (!this.connected && event.type !== "goodbye") {
      throw new ProtocolError("state", `${event.type} before welcome`);
    } else if (event.type === "flushed") {
      this.#onFlushed(event);
    } else if (event.type === "state") {
      this.latency = event.latency;
    } else if (event.type === "ping") {
      answers = [JSON.stringify({ type: "pong", id: event.id ?? 0, time: event.time ?? 0 })];
    }
    return { event, answers };
  }

  #onWelcome(welcome) {
    if (this.connected) throw new ProtocolError("state", "a second welcome");
    const { stream, position } = welcome;
    const { start, end } = this.journal;
    if (!this.welcome) {
      if (position) throw new ProtocolError("position", `a new session at position ${position}`);
      this.journal.capacity = welcome.limits.ahead;
      this.grain = gcd(this.hello.block || 1, welcome.hop);
      this.#startStream(stream);
    } else if (welcome.session !== this.welcome.session) {
      throw new ProtocolError("resume", "the server resumes another session");
    } else if (!(this.flushing && stream === (this.stream + 1) % STREAMS)) {
      if (stream !== this.stream || position < start || position > end) {
        throw new ProtocolError(
          "resume",
          `the server resumes stream ${stream} at ${position}; here are ${start} to ${end}`,
        );
      }
    }
    this.welcome = welcome;
    this.latency = welcome.latency;
    this.connected = true;
    this.connections += 1;
    // One by one: if one is refused, the others still apply.
    const answers = Object.entries(this.settings).map(([name, value]) =>
      JSON.stringify({ type: "control", [name]: value }),
    );
    if (stream !== this.stream) return answers;
    let at = position;
    for (const part of this.journal.parts) {
      if (endOf(part) <= position) continue;
      answers.push(...this.#pack(part, position));
      at = endOf(part);
    }
    if (at < this.sent) answers.push(this.#emptyFrame()); // a gap that is still open
    if (this.flushing) answers.push(JSON.stringify({ type: "flush" }));
    return answers;
  }

  #onFlushed({ stream, position }) {
    if (!this.flushing || stream !== (this.stream + 1) % STREAMS) {
      throw new ProtocolError("state", `flushed into stream ${stream}, unasked`);
    }
    if (position < this.received) {
      throw new ProtocolError("position", `an end at ${position} after ${this.received}`);
    }
    this.lost += position - this.received;
    this.#startStream(stream);
  }

  #onStems(data) {
    if (!this.connected) throw new ProtocolError("state", "stems before welcome");
    const { format, stems, channels } = this.hello;
    const frame = decodeFrame(data, format, STEMS, stems.length, channels);
    if (frame.sequence !== this.receivedFrames % 2 ** 32) {
      const expected = this.receivedFrames;
      throw new ProtocolError("sequence", `frame ${frame.sequence}, expected ${expected}`);
    }
    this.receivedFrames += 1;
    if (frame.stream !== this.stream) {
      throw new ProtocolError("sequence", `stems of stream ${frame.stream}, not ${this.stream}`);
    }
    const gap = frame.position - this.received;
    const end = frame.position + frame.count;
    if (gap < 0) throw new ProtocolError("position", `stems of ${frame.position} again`);
    if (end > this.sent && !this.flushing) {
      throw new ProtocolError("position", `stems up to ${end} of a mixture up to ${this.sent}`);
    }
    this.lost += gap;
    this.received = end;
    this.journal.forget(this.received);
    return { type: "stems", gap, ...frame };
  }

  #startStream(stream) {
    this.stream = stream;
    this.received = 0;
    this.flushing = false;
    this.journal.begin();
  }

  #expectRoom(count) {
    if (count > this.room) throw new ProtocolError("too_fast", `no room for ${count} samples`);
  }

  /** A frame without samples, which marks a gap. */
  #emptyFrame() {
    return this.#frame(this.sent, new Float32Array(0), 0);
  }

  #frame(position, samples, count) {
    const { stream } = this;
    const frame = { kind: MIX, stream, sequence: this.frames++, position, count };
    return encodeFrame(frame, samples, this.hello.format);
  }

  /** Frames with a part of the mixture, from a position on. */
  #pack({ position, count, samples }, from = 0) {
    const { format, channels } = this.hello;
    let limit = maxSamples(this.welcome.limits.message, format, 1, channels);
    limit = Math.max(limit - (limit % this.grain), Math.min(limit, this.grain)); // whole grains
    const data = [];
    for (let at = Math.max(0, from - position); at < count; at += limit) {
      const size = Math.min(limit, count - at);
      let piece = samples;
      if (size < count) {
        piece = new Float32Array(channels * size);
        for (let c = 0; c < channels; c++) {
          piece.set(samples.subarray(c * count + at, c * count + at + size), c * size);
        }
      }
      data.push(this.#frame(position + at, piece, size));
    }
    return data;
  }
}
