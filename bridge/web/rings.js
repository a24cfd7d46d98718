/** Ring buffers of audio, addressed by the position of samples in the stream. */

/** The newest samples of some channels. Nothing is allocated after the constructor. */
export class Ring {
  /** @param minimum samples to keep at least */
  constructor(channels, minimum) {
    this.size = 2 ** Math.ceil(Math.log2(minimum));
    this.data = Array.from({ length: channels }, () => new Float32Array(this.size));
  }

  /** Write `count` samples of each channel; channels are `stride` apart in `samples`. */
  write(position, samples, stride, count) {
    const mask = this.size - 1;
    const start = position % this.size;
    for (let c = 0; c < this.data.length; c++) {
      const channel = this.data[c];
      for (let i = 0; i < count; i++) channel[(start + i) & mask] = samples[c * stride + i];
    }
  }

  /** Read into arrays, one per channel; before position 0 there is silence. */
  read(position, arrays) {
    const mask = this.size - 1;
    const count = arrays[0].length;
    const silent = Math.min(count, Math.max(0, -position));
    const start = (position + silent) % this.size;
    for (let c = 0; c < this.data.length; c++) {
      const channel = this.data[c];
      const out = arrays[c];
      for (let i = 0; i < silent; i++) out[i] = 0;
      for (let i = silent; i < count; i++) out[i] = channel[(start + i - silent) & mask];
    }
  }
}

/** A ring whose samples may arrive late or never: it tracks which are present. */
export class GapRing extends Ring {
  constructor(channels, minimum) {
    super(channels, minimum);
    this.end = 0; // position after the newest
    this.gaps = 0; // number of gaps so far
    this.holes = [{ from: 0, to: 0 }]; // missing parts; the newest last
  }

  put(position, samples, stride, count) {
    if (position < this.end) return; // invalid: positions only increase
    if (position > this.end) {
      const last = this.holes[this.holes.length - 1];
      if (this.holes.length > 16) last.to = position;
      else this.holes.push({ from: this.end, to: position });
      if (this.end) this.gaps += 1; // before the first samples there is no gap
    }
    this.write(position, samples, stride, count);
    this.end = position + count;
    while (this.holes.length > 1 && this.holes[0].to < this.end - this.size) this.holes.shift();
  }

  /** Whether all of `count` samples from a position on are present. */
  covers(position, count) {
    if (position + count > this.end || position < this.end - this.size) return false;
    for (let i = 0; i < this.holes.length; i++) {
      const hole = this.holes[i];
      if (position < hole.to && position + count > hole.from) return false;
    }
    return position >= 0;
  }
}

/** A value that moves to its target linearly, without a jump. */
export class Ramp {
  /** @param step largest change in one quantum */
  constructor(value, step) {
    this.from = this.to = this.target = value;
    this.step = step;
  }

  /** Advance to the next quantum, which goes from `from` to `to`. */
  advance() {
    this.from = this.to;
    const left = this.target - this.to;
    this.to = Math.abs(left) <= this.step ? this.target : this.to + Math.sign(left) * this.step;
  }

  /** The value at a fraction of the quantum, 0 to 1. */
  at(share) {
    return this.from + (this.to - this.from) * share;
  }
}

/**
 * The best number of samples to skip at a position: where a cross-fade meets the same waveform.
 * Of `minimum` to `maximum`, the one with the greatest normalised correlation over 256 samples.
 */
export function bestSkip(ring, position, minimum, maximum) {
  const mask = ring.size - 1;
  const [left, right] = ring.data;
  const start = position % ring.size;
  let best = minimum;
  let highest = -Infinity;
  const step = Math.ceil((maximum - minimum + 1) / 1024); // there is little time
  for (let skip = minimum; skip <= maximum; skip += step) {
    let product = 0;
    let energy = 1e-9;
    for (let i = 0; i < 256; i += 2) {
      const now = (start + i) & mask;
      const later = (start + i + skip) & mask;
      const there = left[later] + right[later];
      product += (left[now] + right[now]) * there;
      energy += there * there;
    }
    const correlation = product / Math.sqrt(energy);
    if (correlation > highest) [highest, best] = [correlation, skip];
  }
  return best;
}
