/**
 * The audio thread: takes the mixture, gives what is heard. One clock for both, so no drift.
 *
 * Every sample has a position. What comes in at position t is sent to the connection's thread in
 * blocks; what is heard at the same moment are the stems of position t - delay, whose content is
 * the mixture of t - delay - latency. The mixture is kept for that long: A/B and concealment are
 * aligned to the sample. If stems are late, the mixture stands in for them, cross-faded.
 */

import { blockBytes, Collector, HEARD, MIXTURE, Pool, readBlock, STEMS } from "./blocks.js";
import { JitterBuffer } from "./jitter.js";
import { bestSkip, PatchyRing, Ramp, Ring } from "./rings.js";

const QUANTUM = 128;
const KEPT = 5; // seconds
const SPLICE = 4; // quanta that a change of the delay is cross-faded over
const REPORT = 12; // quanta from one report to the next: about 30 a second
const arrays = (count) => Array.from({ length: count }, () => new Float32Array(QUANTUM));

class Stemwire extends AudioWorkletProcessor {
  constructor() {
    super();
    this.running = true;
    this.up = this.heard = null; // until the connection's thread is there
    this.position = 0;
    this.jitter = new JitterBuffer(sampleRate);
    this.delay = this.latency = 0; // samples, that are in force
    this.latencies = []; // {latency, position} that are to come
    this.splice = null; // {delay, latency} that is being faded to
    this.spliced = 0; // quanta of it
    this.mixture = new Ring(2, KEPT * sampleRate);
    this.stems = new PatchyRing(4, KEPT * sampleRate);
    this.lost = 0; // gaps in the stems at the last quantum
    this.seen = 0; // end of the stems at the last quantum
    this.dry = arrays(2);
    this.wet = arrays(4);
    this.newDry = arrays(2);
    this.newWet = arrays(4);
    const seconds = (time) => QUANTUM / (time * sampleRate); // step of a ramp from 0 to 1
    this.present = new Ramp(0, 1); // are the stems there? a quantum from one to the other
    this.choice = new Ramp(1, seconds(0.02)); // 1: the stems, 0: the original
    this.gate = new Ramp(0, seconds(0.02));
    this.voice = new Ramp(0, seconds(0.03));
    this.band = new Ramp(1, seconds(0.03));
    this.ramps = [this.present, this.choice, this.gate, this.voice, this.band];
    this.muted = false;
    this.levels = new Float64Array(8); // peaks, then sums of squares: input, vocals, …, output
    this.quanta = 0;
    this.report = {
      type: "report", levels: this.levels, position: 0, delay: 0, latency: 0, fill: 0,
      underruns: 0, gaps: 0, concealed: 0, grown: 0, shrunk: 0, dropped: 0, repaired: 0,
    };
    this.recording = false;
    this.port.onmessage = ({ data }) => this.#fromPage(data);
  }

  #begin(port, block) {
    this.pool = new Pool(blockBytes(block), 64, Math.ceil((3 * sampleRate) / block));
    this.up = new Collector(MIXTURE, block, this.pool, port);
    this.heard = new Collector(HEARD, block, this.pool, port);
    port.onmessage = ({ data }) => this.#fromConnection(data);
  }

  #fromConnection(data) {
    if (!(data instanceof ArrayBuffer)) {
      this.latencies.push(data); // {latency, position}
      if (!this.jitter.delay) this.latency = data.latency;
      return;
    }
    const block = readBlock(data);
    if (block.kind === STEMS) {
      this.stems.put(block.position, block.samples, block.count, block.count);
    }
    this.pool.give(data);
  }

  #fromPage(data) {
    if (data.type === "begin") this.#begin(data.port, data.block);
    if (data.type === "stop") this.running = false;
    if (data.type === "record") this.recording = data.on;
    if (data.type !== "mix") return;
    this.voice.target = data.vocals; // factors
    this.band.target = data.instrumental;
    this.choice.target = data.bypass ? 0 : 1;
    this.muted = data.mute;
  }

  process(inputs, outputs) {
    if (!this.up) return this.running;
    const now = this.position;
    this.#take(inputs[0], now);
    this.#arrange(now);
    this.#listen(now - this.delay);
    this.#play(outputs);
    if (this.recording && this.delay) {
      this.heard.add(now - this.delay - this.latency, outputs[0][0], outputs[0][1]);
    }
    this.position = now + QUANTUM;
    if (++this.quanta === REPORT) this.#report();
    return this.running;
  }

  /** Keep what comes in, and send it up. */
  #take(input, now) {
    const [left, right] = this.dry;
    for (let i = 0; i < QUANTUM; i++) {
      left[i] = this.#finite(input, 0, i);
      right[i] = this.#finite(input, input.length - 1, i);
    }
    this.mixture.data[0].set(left, now % this.mixture.size); // quanta never straddle the end
    this.mixture.data[1].set(right, now % this.mixture.size);
    this.up.add(now, left, right);
    this.#measure(0, left, right);
  }

  #finite(input, channel, i) {
    if (channel < 0 || !input.length) return 0; // nothing is connected
    const value = input[channel][i];
    if (Math.abs(value) < 1e4) return value;
    this.report.repaired += 1;
    return 0;
  }

  /** Decide about the delay. The last quantum of the stems is kept back to fade out over. */
  #arrange(now) {
    const { jitter, stems } = this;
    if (stems.gaps > this.lost) jitter.excuse();
    this.lost = stems.gaps;
    jitter.note(now + 2 * QUANTUM - stems.end, stems.end > this.seen, QUANTUM);
    this.seen = stems.end;
    if (this.splice) return;
    if (!this.delay && jitter.delay) this.delay = jitter.delay; // the beginning
    let { delay, latency } = this;
    if (jitter.delay > delay) delay = jitter.delay;
    else if (jitter.surplus && this.present.to === 1) {
      const content = now - delay - latency;
      if (content >= 0) {
        jitter.leaveOut(bestSkip(this.mixture, content, jitter.surplus >> 1, jitter.surplus));
        delay = jitter.delay;
      }
    }
    while (this.latencies.length && now - delay >= this.latencies[0].position) {
      ({ latency } = this.latencies.shift());
    }
    if (delay !== this.delay || latency !== this.latency) {
      this.splice = { delay, latency };
      this.spliced = 0;
    }
  }

  /** Read the mixture and the stems of a position, across a change of the delay too. */
  #listen(position) {
    const started = this.delay > 0;
    this.mixture.read(started ? position - this.latency : this.position, this.dry);
    let there = started && this.stems.covers(position, 2 * QUANTUM);
    this.stems.read(position, this.wet);
    if (this.splice) {
      const to = this.position - this.splice.delay;
      there = there && this.stems.covers(to, 2 * QUANTUM);
      this.mixture.read(to - this.splice.latency, this.newDry);
      this.stems.read(to, this.newWet);
      this.#fade(this.dry, this.newDry);
      this.#fade(this.wet, this.newWet);
      if (++this.spliced === SPLICE) {
        ({ delay: this.delay, latency: this.latency } = this.splice);
        this.splice = null;
      }
    }
    if (this.present.target === 1 && !there) this.report.underruns += 1;
    if (started && !there) this.report.concealed += QUANTUM;
    this.present.target = there ? 1 : 0;
  }

  #fade(old, fresh) {
    for (let c = 0; c < old.length; c++) {
      for (let i = 0; i < QUANTUM; i++) {
        const share = (this.spliced + (i + 1) / QUANTUM) / SPLICE;
        old[c][i] += (fresh[c][i] - old[c][i]) * share;
      }
    }
  }

  /** Mix into the outputs: what is heard; and for the eye mixture, vocals, instrumental. */
  #play([heard, original, vocals, instrumental]) {
    const { present, choice, gate, voice, band } = this;
    gate.target = this.delay && !this.muted ? 1 : 0;
    for (let r = 0; r < this.ramps.length; r++) this.ramps[r].advance();
    for (let i = 0; i < QUANTUM; i++) {
      const x = (i + 1) / QUANTUM;
      const here = present.at(x);
      const share = here * choice.at(x);
      const level = gate.at(x);
      for (let c = 0; c < 2; c++) {
        const dry = this.dry[c][i];
        const vocal = this.wet[c][i];
        const rest = this.wet[c + 2][i];
        const mix = vocal * voice.at(x) + rest * band.at(x);
        heard[c][i] = level * (dry + (mix - dry) * share);
        original[c][i] = dry;
        vocals[c][i] = vocal * here;
        instrumental[c][i] = rest * here;
      }
    }
    this.#measure(1, vocals[0], vocals[1]);
    this.#measure(2, instrumental[0], instrumental[1]);
    this.#measure(3, heard[0], heard[1]);
  }

  #measure(which, left, right) {
    let peak = this.levels[which];
    let sum = 0;
    for (let i = 0; i < QUANTUM; i++) {
      peak = Math.max(peak, Math.abs(left[i]), Math.abs(right[i]));
      sum += left[i] * left[i] + right[i] * right[i];
    }
    this.levels[which] = peak;
    this.levels[which + 4] += sum / 2;
  }

  #report() {
    const { report, levels } = this;
    for (let i = 4; i < 8; i++) levels[i] = Math.sqrt(levels[i] / (REPORT * QUANTUM));
    report.position = this.position;
    report.delay = this.delay;
    report.latency = this.latency;
    report.fill = this.delay ? this.stems.end - (this.position - this.delay) : 0;
    report.gaps = this.stems.gaps;
    report.grown = this.jitter.grown;
    report.shrunk = this.jitter.shrunk;
    report.dropped = this.up.dropped;
    this.port.postMessage(report);
    levels.fill(0);
    this.quanta = 0;
  }
}

registerProcessor("stemwire", Stemwire);
