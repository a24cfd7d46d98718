/**
 * The audio thread: takes the mixture and plays the mix. Both have one clock, so nothing drifts.
 *
 * Every sample has a position. What comes in at position t is sent to the connection's thread in
 * blocks; the stems that play at the same moment are those of position t - delay, whose content is
 * the mixture of t - delay - latency. The mixture is kept for that long: A/B and concealment are
 * aligned to the sample. If stems are late, the mixture stands in for them, cross-faded.
 */

import { blockBytes, Collector, MIXTURE, PLAYED, Pool, readBlock, STEMS } from "./blocks.js";
import { JitterBuffer } from "./jitter.js";
import { bestSkip, GapRing, Ramp, Ring } from "./rings.js";

const QUANTUM = 128;
const HISTORY_SECONDS = 5; // seconds
const SPLICE = 4; // quanta of the cross-fade when the delay changes
const REPORT = 12; // quanta between reports: about 30 per second
const arrays = (count) => Array.from({ length: count }, () => new Float32Array(QUANTUM));

class Stemwire extends AudioWorkletProcessor {
  constructor() {
    super();
    this.running = true;
    this.up = this.played = null; // until there is a thread of the connection
    this.position = 0;
    this.jitter = new JitterBuffer(sampleRate);
    this.delay = this.latency = 0; // samples, current
    this.latencies = []; // {latency, position} of later changes
    this.splice = null; // {delay, latency} that a cross-fade leads to
    this.spliced = 0; // quanta of it done
    this.mixture = new Ring(2, HISTORY_SECONDS * sampleRate);
    this.stems = new GapRing(4, HISTORY_SECONDS * sampleRate);
    this.lost = 0; // gaps in the stems at the last quantum
    this.seen = 0; // end of the stems at the last quantum
    this.dry = arrays(2);
    this.wet = arrays(4);
    this.newDry = arrays(2);
    this.newWet = arrays(4);
    const seconds = (time) => QUANTUM / (time * sampleRate); // step of a ramp from 0 to 1
    this.stemsGain = new Ramp(0, 1); // 1 while stems are present; changes in one quantum
    this.stemsChoice = new Ramp(1, seconds(0.02)); // 1: the stems, 0: the original
    this.outputGain = new Ramp(0, seconds(0.02));
    this.vocalsGain = new Ramp(0, seconds(0.03));
    this.instrumentalGain = new Ramp(1, seconds(0.03));
    const { stemsGain, stemsChoice, outputGain, vocalsGain, instrumentalGain } = this;
    this.ramps = [stemsGain, stemsChoice, outputGain, vocalsGain, instrumentalGain];
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
    this.played = new Collector(PLAYED, block, this.pool, port);
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
    this.vocalsGain.target = data.vocals; // linear gains
    this.instrumentalGain.target = data.instrumental;
    this.stemsChoice.target = data.bypass ? 0 : 1;
    this.muted = data.mute;
  }

  process(inputs, outputs) {
    if (!this.up) return this.running;
    const now = this.position;
    this.#take(inputs[0], now);
    this.#updateDelay(now);
    this.#read(now - this.delay);
    this.#mix(outputs);
    if (this.recording && this.delay) {
      this.played.add(now - this.delay - this.latency, outputs[0][0], outputs[0][1]);
    }
    this.position = now + QUANTUM;
    if (++this.quanta === REPORT) this.#report();
    return this.running;
  }

  /** Store the input, and send it up. */
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

  /** Update the delay. The last quantum of the stems is reserved for fading out. */
  #updateDelay(now) {
    const { jitter, stems } = this;
    if (stems.gaps > this.lost) jitter.excuse();
    this.lost = stems.gaps;
    jitter.note(now + 2 * QUANTUM - stems.end, stems.end > this.seen, QUANTUM);
    this.seen = stems.end;
    if (this.splice) return;
    if (!this.delay && jitter.delay) this.delay = jitter.delay; // playback starts
    let { delay, latency } = this;
    if (jitter.delay > delay) delay = jitter.delay;
    else if (jitter.surplus && this.stemsGain.to === 1) {
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

  /** Read the mixture and the stems at a position, also while the delay changes. */
  #read(position) {
    const started = this.delay > 0;
    this.mixture.read(started ? position - this.latency : this.position, this.dry);
    let present = started && this.stems.covers(position, 2 * QUANTUM);
    this.stems.read(position, this.wet);
    if (this.splice) {
      const to = this.position - this.splice.delay;
      present = present && this.stems.covers(to, 2 * QUANTUM);
      this.mixture.read(to - this.splice.latency, this.newDry);
      this.stems.read(to, this.newWet);
      this.#fade(this.dry, this.newDry);
      this.#fade(this.wet, this.newWet);
      if (++this.spliced === SPLICE) {
        ({ delay: this.delay, latency: this.latency } = this.splice);
        this.splice = null;
      }
    }
    if (this.stemsGain.target === 1 && !present) this.report.underruns += 1;
    if (started && !present) this.report.concealed += QUANTUM;
    this.stemsGain.target = present ? 1 : 0;
  }

  #fade(old, fresh) {
    for (let c = 0; c < old.length; c++) {
      for (let i = 0; i < QUANTUM; i++) {
        const share = (this.spliced + (i + 1) / QUANTUM) / SPLICE;
        old[c][i] += (fresh[c][i] - old[c][i]) * share;
      }
    }
  }

  /** Mix into the outputs: the sound, and for display mixture, vocals, instrumental. */
  #mix([output, original, vocals, instrumental]) {
    const { stemsGain, stemsChoice, outputGain, vocalsGain, instrumentalGain } = this;
    outputGain.target = this.delay && !this.muted ? 1 : 0;
    for (let r = 0; r < this.ramps.length; r++) this.ramps[r].advance();
    for (let i = 0; i < QUANTUM; i++) {
      const x = (i + 1) / QUANTUM;
      const here = stemsGain.at(x);
      const share = here * stemsChoice.at(x);
      const level = outputGain.at(x);
      for (let c = 0; c < 2; c++) {
        const dry = this.dry[c][i];
        const vocal = this.wet[c][i];
        const rest = this.wet[c + 2][i];
        const mix = vocal * vocalsGain.at(x) + rest * instrumentalGain.at(x);
        output[c][i] = level * (dry + (mix - dry) * share);
        original[c][i] = dry;
        vocals[c][i] = vocal * here;
        instrumental[c][i] = rest * here;
      }
    }
    this.#measure(1, vocals[0], vocals[1]);
    this.#measure(2, instrumental[0], instrumental[1]);
    this.#measure(3, output[0], output[1]);
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
