/**
 * The signal path: source → audio thread (worklet.js) → loudspeakers; and from the audio thread to
 * the thread of the connection (link.js), the server and back. This thread sets it up and forwards
 * reports.
 *
 * Events: `report` (levels and delay, 30 per second), `connection`, `counters` and `welcome` (from
 * the link), `error`, `recording`, `ended` (of the source), `stopped`.
 */

const HOP = 256 / 44100; // seconds, of the preset with the shortest hop

/** Linear gain of a level in dB; 0 at the bottom of a fader. */
export const gainOf = (db) => (db <= OFF ? 0 : 10 ** (db / 20));
export const OFF = -48; // dB

/**
 * Samples in each block sent: the network's hop at this rate, so that the server need not wait for
 * the rest of a hop. Hops have no prime factor above 13. If this were wrong, the latency would be a
 * few milliseconds longer, and `welcome` would report it.
 */
export function blockSize(rate) {
  for (let size = Math.floor(HOP * rate); ; size--) {
    let rest = size;
    for (const prime of [2, 3, 5, 7, 11, 13]) while (rest % prime === 0) rest /= prime;
    if (rest === 1) return size;
  }
}

export class Engine extends EventTarget {
  constructor() {
    super();
    this.running = false;
    this.mix = { vocals: OFF, instrumental: 0, bypass: false, mute: false };
    this.counters = {};
    this.report = {};
    this.connection = { state: "off", text: "", tries: 0 };
  }

  /**
   * Start playing.
   * @param {(context: AudioContext) => Promise<object>} openSource see sources.js
   * @param {{preset, format, token, record}} settings
   */
  async start(openSource, { preset, format, token, record }) {
    this.running = true;
    this.counters = {};
    this.report = {};
    this.welcome = null;
    this.preset = preset;
    try {
      const context = new AudioContext({ latencyHint: "interactive" });
      this.context = context;
      context.onstatechange = () => this.#emit("context", { state: context.state });
      await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url)).catch(() => {
        throw Object.assign(new Error(), { code: "unreachable" });
      });
      this.source = await openSource(context);
      this.source.onended = (reason) => this.#emit("ended", { reason });
      await context.resume();
      this.#connectNodes(context);
      this.#openLink(context.sampleRate, { preset, format, token, record });
      this.set({});
      if (record) this.#recordOutput(true);
    } catch (error) {
      await this.#tearDown();
      throw error;
    }
  }

  /** Stop after fetching the last stems. */
  async stop() {
    if (!this.running || this.stopping) return;
    this.stopping = true;
    this.node?.port.postMessage({ type: "mix", ...this.#gains(), mute: true });
    if (this.link) {
      await new Promise((resolve) => {
        this.addEventListener("closed", resolve, { once: true });
        this.link.postMessage({ type: "finish" });
        setTimeout(resolve, 40_000); // the link gives up earlier
      });
    }
    await this.#tearDown();
  }

  /** Set faders (dB), `bypass`, `mute`. */
  set(mix) {
    Object.assign(this.mix, mix);
    this.node?.port.postMessage({ type: "mix", ...this.#gains() });
  }

  /** Change the preset. */
  setPreset(preset) {
    this.link?.postMessage({ type: "control", control: { preset } });
  }

  /** Start or end a recording, which arrives with the event `recording`. */
  record(on) {
    this.link?.postMessage({ type: "record", on });
    if (on) this.#recordOutput(true);
  }

  /** Delays in milliseconds by stage, and `total`; null while there is none. */
  delays() {
    const { context, report, counters, block, source } = this;
    if (!context || !report.delay) return null;
    const ms = (samples) => (1000 * samples) / context.sampleRate;
    const blockMs = ms(block);
    const network = counters.rtt ?? 0;
    const stages = {
      input: 1000 * (source?.latency ?? 0),
      separator: ms(report.latency),
      block: blockMs,
      network,
      jitter: Math.max(0, ms(report.delay) - blockMs - network),
      browser: 1000 * (context.baseLatency || 0),
      output: 1000 * (context.outputLatency || 0),
    };
    return { ...stages, total: Object.values(stages).reduce((a, b) => a + b, 0) };
  }

  #gains() {
    const { vocals, instrumental, bypass, mute } = this.mix;
    return { vocals: gainOf(vocals), instrumental: gainOf(instrumental), bypass, mute };
  }

  #connectNodes(context) {
    const node = new AudioWorkletNode(context, "stemwire", {
      numberOfInputs: 1, numberOfOutputs: 4, outputChannelCount: [2, 2, 2, 2],
      channelCount: 2, channelCountMode: "explicit", channelInterpretation: "speakers",
    });
    this.node = node;
    node.port.onmessage = ({ data }) => {
      this.report = data;
      this.#emit("report", data);
    };
    node.onprocessorerror = () => {
      this.#emit("error", { code: "page", text: "the audio thread has failed" });
    };
    node.connect(context.destination, 0);
    this.analysers = ["mixture", "vocals", "instrumental"].map((name, i) => {
      const analyser = new AnalyserNode(context, {
        fftSize: 4096, smoothingTimeConstant: 0, minDecibels: -95, maxDecibels: -25,
      });
      node.connect(analyser, i + 1);
      return analyser;
    });
    this.source.node.connect(node);
  }

  #openLink(rate, { preset, format, token, record }) {
    const block = blockSize(rate);
    this.block = block;
    const { port1, port2 } = new MessageChannel();
    this.node.port.postMessage({ type: "begin", port: port1, block }, [port1]);
    const link = new Worker(new URL("link.js", import.meta.url), { type: "module" });
    this.link = link;
    link.onmessage = ({ data }) => this.#fromLink(data);
    link.onerror = ({ message }) => {
      this.#emit("error", { code: message ? "page" : "unreachable", text: message ?? "" });
      this.#fromLink({ type: "closed" });
    };
    const hello = {
      rate, channels: 2, format, block, stems: ["vocals", "instrumental"], preset, stats: 2,
      client: "stemwire page",
    };
    if (token) hello.token = token;
    const url = new URL("stream", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    link.postMessage({ type: "begin", url: url.href, hello, port: port2, block, record }, [port2]);
  }

  #fromLink(message) {
    const { type } = message;
    if (type === "counters") this.counters = message;
    if (type === "connection") this.connection = message;
    if (type === "welcome") this.welcome = message;
    if (type === "preset") this.preset = message.preset;
    if (type === "recording") this.#recordOutput(false);
    if (type === "closed") {
      this.link.terminate();
      this.link = null;
    }
    this.#emit(type, message);
    if (type === "closed") this.stop();
  }

  #recordOutput(on) {
    this.node?.port.postMessage({ type: "record", on });
  }

  async #tearDown() {
    this.source?.close();
    if (this.node) {
      this.node.port.onmessage = null;
      this.node.port.postMessage({ type: "stop" });
      this.node.disconnect();
    }
    this.link?.terminate();
    if (this.context) this.context.onstatechange = null;
    await this.context?.close().catch(() => {});
    this.context = this.node = this.link = this.source = this.analysers = null;
    this.running = this.stopping = false;
    this.connection = { state: "off", text: "", tries: 0 };
    this.#emit("stopped", {});
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
