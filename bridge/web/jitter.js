/**
 * How far the loudspeakers stay behind the microphone, so that stems are there in time.
 *
 * The need of a moment is the delay with which its stems would only just have come. The delay
 * grows when stems are late: by a step each time, or at once to what is needed if they are late all
 * the time. It shrinks a little every few seconds while nothing was late and less would have done.
 * A single long outage does not make it grow: that would be paid for with delay for minutes.
 */

const SLICE = 0.05; // seconds; the greatest and least need of each is kept
const SLICES = 200; // that are looked back at: 10 s
const SETTLE = 8; // slices with stems until playing starts
const HOPE = 0.15; // seconds: if more is needed at first, less may be soon
const HOPEFUL = 60; // slices that this is waited for: 3 s
const RECENT = 20; // slices that growth looks back at: 1 s
const PATIENCE = 100; // slices from one shrinking to the next: 5 s
const MARGIN = 0.004; // seconds beyond what was needed
const SPIKE = 0.35; // seconds: a longer wait is an outage
const GROWTH = 0.04; // seconds that the delay grows by when something was late once
const MOST = 1.0; // seconds, even if stems are always late
const LEAST = 0.002; // seconds of excess that are worth a shrinking
const STEP = 0.015; // seconds that one takes away at most, if not a quarter of the excess

export class JitterBuffer {
  constructor(rate) {
    this.rate = rate;
    this.delay = 0; // samples; 0 until it is known
    this.surplus = 0; // samples that may be left out now
    this.grown = this.shrunk = 0; // times
    this.most = new Float64Array(SLICES);
    this.least = new Float64Array(SLICES);
    this.arrivals = new Uint8Array(SLICES);
    this.at = 0; // slice
    this.known = 0; // slices
    this.calm = this.waited = 0; // slices without lateness, and since the last shrinking
    this.#begin();
  }

  /**
   * Take note of the next samples.
   * @param need samples of delay with which their stems would only just have come
   * @param arrived whether stems came since the last time
   */
  note(need, arrived, count) {
    if (!this.known && !arrived) return; // nothing has ever come
    if (need > this.most[this.at]) this.most[this.at] = need;
    if (need < this.least[this.at]) this.least[this.at] = need;
    if (arrived) this.arrivals[this.at] = 1;
    this.need = need;
    this.known = Math.max(1, this.known);
    this.filled += count;
    if (this.filled >= SLICE * this.rate) this.#decide();
  }

  /** So many samples of the surplus were left out. */
  leaveOut(count) {
    this.delay -= count;
    this.surplus = 0;
    this.shrunk += 1;
  }

  /** What was late lately is dealt with, or was lost: no reason to grow again. */
  excuse() {
    for (let i = 0; i < Math.min(RECENT, this.known); i++) {
      const slice = this.#back(i);
      this.most[slice] = Math.min(this.most[slice], this.delay);
    }
  }

  /** How much of an excess to leave out at once. */
  #step(excess) {
    if (excess > SPIKE * this.rate) return excess - HOPE * this.rate; // after a long trouble
    return Math.min(excess, Math.max(STEP * this.rate, excess / 4));
  }

  #begin() {
    this.filled = 0;
    this.most[this.at] = -Infinity;
    this.least[this.at] = Infinity;
    this.arrivals[this.at] = 0;
  }

  #decide() {
    const margin = Math.ceil(MARGIN * this.rate);
    const late = this.most[this.at] > this.delay;
    const steady = this.#all(2);
    if (!this.delay) {
      // The beginning of a session may have to be caught up with: wait while less is needed.
      const falling = this.#worst(SETTLE) - this.#worst(SETTLE / 2) > margin;
      const worst = this.#worst(SETTLE / 2);
      const enough = worst < HOPE * this.rate || this.known >= HOPEFUL;
      if (this.known >= SETTLE && this.#all(SETTLE) && !falling && enough) {
        this.delay = Math.ceil(Math.min(worst, SPIKE * this.rate)) + margin;
        this.excuse();
      }
    } else {
      this.calm = late ? 0 : this.calm + 1;
      this.waited += 1;
      const worst = this.#worst(RECENT);
      if (worst > this.delay && steady) {
        const spike = worst <= SPIKE * this.rate && this.need <= this.delay; // and it is over
        const always = this.#all(RECENT) && this.#mildest(RECENT) > this.delay;
        const now = this.#worst(SETTLE / 2); // it may be catching up
        if (spike || (always && now <= MOST * this.rate)) {
          const wanted = always ? now : Math.min(worst, this.delay + GROWTH * this.rate - margin);
          this.delay = Math.ceil(wanted) + margin;
          this.grown += 1;
          this.surplus = 0;
          this.excuse();
        }
      } else if (this.calm >= SLICES && this.waited >= PATIENCE) {
        const excess = this.delay - this.#worst(SLICES) - margin;
        if (excess >= LEAST * this.rate) this.surplus = Math.floor(this.#step(excess));
        this.waited = 0;
      }
    }
    this.at = (this.at + 1) % SLICES;
    this.known = Math.min(SLICES, this.known + 1);
    this.#begin();
  }

  /** The slice so many before the present one. */
  #back(i) {
    return (this.at - i + SLICES) % SLICES;
  }

  #worst(slices) {
    let worst = -Infinity;
    const count = Math.min(slices, this.known);
    for (let i = 0; i < count; i++) worst = Math.max(worst, this.most[this.#back(i)]);
    return worst;
  }

  #mildest(slices) {
    let mildest = Infinity;
    const count = Math.min(slices, this.known);
    for (let i = 0; i < count; i++) mildest = Math.min(mildest, this.least[this.#back(i)]);
    return mildest;
  }

  /** Whether stems came in each of the newest slices. */
  #all(slices) {
    if (this.known < slices) return false;
    for (let i = 0; i < slices; i++) if (!this.arrivals[this.#back(i)]) return false;
    return true;
  }
}
