/**
 * The delay of playback that lets stems arrive in time.
 *
 * The need at a moment is the delay with which its stems would just have arrived in time. The delay
 * grows when stems are late: by a step each time, or at once to the need if they are late all the
 * time. It shrinks a little every few seconds while nothing was late and less would have sufficed.
 * A single long outage does not make it grow: the cost would be minutes of additional delay.
 */

const SLICE = 0.05; // seconds; the highest and lowest need in each is kept
const SLICES = 200; // of history: 10 s
const SETTLE_SLICES = 8; // slices with stems before playback starts
const START_DELAY = 0.15; // seconds: a higher need at the start may fall soon
const START_SLICES = 60; // slices to wait for that: 3 s
const RECENT_SLICES = 20; // slices of history for growth: 1 s
const SHRINK_SLICES = 100; // slices between two reductions: 5 s
const MARGIN = 0.004; // seconds beyond the need
const OUTAGE = 0.35; // seconds: longer lateness is an outage
const GROWTH = 0.04; // seconds added when stems were late once
const MAX_DELAY = 1.0; // seconds, even if stems are always late
const MIN_EXCESS = 0.002; // seconds of excess that justify a reduction
const SHRINK_STEP = 0.015; // seconds of one reduction at most, or a quarter of the excess

export class JitterBuffer {
  constructor(rate) {
    this.rate = rate;
    this.delay = 0; // samples; 0 until it is determined
    this.surplus = 0; // samples that may be skipped now
    this.grown = this.shrunk = 0; // number of times
    this.highest = new Float64Array(SLICES);
    this.lowest = new Float64Array(SLICES);
    this.arrivals = new Uint8Array(SLICES);
    this.at = 0; // slice
    this.known = 0; // slices
    this.onTime = this.waited = 0; // slices without lateness, and since the last reduction
    this.#begin();
  }

  /**
   * Record the need of the next samples.
   * @param need delay in samples with which their stems would just have arrived in time
   * @param arrived whether stems arrived since the last call
   */
  note(need, arrived, count) {
    if (!this.known && !arrived) return; // no stems have arrived yet
    if (need > this.highest[this.at]) this.highest[this.at] = need;
    if (need < this.lowest[this.at]) this.lowest[this.at] = need;
    if (arrived) this.arrivals[this.at] = 1;
    this.need = need;
    this.known = Math.max(1, this.known);
    this.filled += count;
    if (this.filled >= SLICE * this.rate) this.#decide();
  }

  /** `count` samples of the surplus were skipped. */
  leaveOut(count) {
    this.delay -= count;
    this.surplus = 0;
    this.shrunk += 1;
  }

  /** Recent lateness is dealt with, or its stems were lost: no reason to grow again. */
  excuse() {
    for (let i = 0; i < Math.min(RECENT_SLICES, this.known); i++) {
      const slice = this.#back(i);
      this.highest[slice] = Math.min(this.highest[slice], this.delay);
    }
  }

  /** Samples of an excess to skip at once. */
  #step(excess) {
    if (excess > OUTAGE * this.rate) return excess - START_DELAY * this.rate; // after long trouble
    return Math.min(excess, Math.max(SHRINK_STEP * this.rate, excess / 4));
  }

  #begin() {
    this.filled = 0;
    this.highest[this.at] = -Infinity;
    this.lowest[this.at] = Infinity;
    this.arrivals[this.at] = 0;
  }

  #decide() {
    const margin = Math.ceil(MARGIN * this.rate);
    const late = this.highest[this.at] > this.delay;
    const steady = this.#arrivedInAll(2);
    if (!this.delay) {
      // The server may have to catch up at the start of a session: wait while the need falls.
      const highest = this.#highestNeed(SETTLE_SLICES / 2);
      const falling = this.#highestNeed(SETTLE_SLICES) - highest > margin;
      const enough = highest < START_DELAY * this.rate || this.known >= START_SLICES;
      if (this.known >= SETTLE_SLICES && this.#arrivedInAll(SETTLE_SLICES) && !falling && enough) {
        this.delay = Math.ceil(Math.min(highest, OUTAGE * this.rate)) + margin;
        this.excuse();
      }
    } else {
      this.onTime = late ? 0 : this.onTime + 1;
      this.waited += 1;
      const highest = this.#highestNeed(RECENT_SLICES);
      if (highest > this.delay && steady) {
        const spike = highest <= OUTAGE * this.rate && this.need <= this.delay; // and is over
        const lowest = this.#lowestNeed(RECENT_SLICES);
        const always = this.#arrivedInAll(RECENT_SLICES) && lowest > this.delay;
        const now = this.#highestNeed(SETTLE_SLICES / 2); // the server may be catching up
        if (spike || (always && now <= MAX_DELAY * this.rate)) {
          const needed = always ? now : Math.min(highest, this.delay + GROWTH * this.rate - margin);
          this.delay = Math.ceil(needed) + margin;
          this.grown += 1;
          this.surplus = 0;
          this.excuse();
        }
      } else if (this.onTime >= SLICES && this.waited >= SHRINK_SLICES) {
        const excess = this.delay - this.#highestNeed(SLICES) - margin;
        if (excess >= MIN_EXCESS * this.rate) this.surplus = Math.floor(this.#step(excess));
        this.waited = 0;
      }
    }
    this.at = (this.at + 1) % SLICES;
    this.known = Math.min(SLICES, this.known + 1);
    this.#begin();
  }

  /** Index of the slice `i` before the current one. */
  #back(i) {
    return (this.at - i + SLICES) % SLICES;
  }

  #highestNeed(slices) {
    let highest = -Infinity;
    const count = Math.min(slices, this.known);
    for (let i = 0; i < count; i++) highest = Math.max(highest, this.highest[this.#back(i)]);
    return highest;
  }

  #lowestNeed(slices) {
    let lowest = Infinity;
    const count = Math.min(slices, this.known);
    for (let i = 0; i < count; i++) lowest = Math.min(lowest, this.lowest[this.#back(i)]);
    return lowest;
  }

  /** Whether stems arrived in each of the newest slices. */
  #arrivedInAll(slices) {
    if (this.known < slices) return false;
    for (let i = 0; i < slices; i++) if (!this.arrivals[this.#back(i)]) return false;
    return true;
  }
}
