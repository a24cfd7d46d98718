/**
 * Recordings: 32-bit float WAV files that are aligned with each other to the sample.
 *
 * The mixture as it came in, the stems as the server gave them, moved back by the latency; and the
 * mix as it was heard. Sound is put away in pieces as Blobs, which browsers can keep on disk.
 */

const PIECE = 65536; // frames
const LONGEST = 30 * 60; // seconds
const CHANNELS = 2;

/** A WAV file's first 58 bytes: format 3, IEEE float. */
function header(frames, rate) {
  const bytes = frames * CHANNELS * 4;
  const view = new DataView(new ArrayBuffer(58));
  const text = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 50 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 18, true);
  view.setUint16(20, 3, true);
  view.setUint16(22, CHANNELS, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * CHANNELS * 4, true);
  view.setUint16(32, CHANNELS * 4, true);
  view.setUint16(34, 32, true);
  text(38, "fact");
  view.setUint32(42, 4, true);
  view.setUint32(46, frames, true);
  text(50, "data");
  view.setUint32(54, bytes, true);
  return view.buffer;
}

/** One file that is growing. */
class Track {
  constructor(rate) {
    this.rate = rate;
    this.frames = this.missing = 0;
    this.pieces = [];
    this.piece = new Float32Array(PIECE * CHANNELS);
    this.filled = 0; // frames of the piece
  }

  /** Frames `from` to `to` of planar samples whose channels begin at `first` and `second`. */
  add(samples, first, second, from, to) {
    for (let i = from; i < to; i++) {
      this.piece[2 * this.filled] = first < 0 ? 0 : samples[first + i];
      this.piece[2 * this.filled + 1] = first < 0 ? 0 : samples[second + i];
      if (++this.filled === PIECE) this.#putAway();
    }
    this.frames += Math.max(0, to - from);
  }

  /** Frames that never came. */
  silence(frames) {
    this.add(null, -1, -1, 0, frames);
    this.missing += frames;
  }

  file() {
    this.#putAway();
    return new Blob([header(this.frames, this.rate), ...this.pieces], { type: "audio/wav" });
  }

  #putAway() {
    if (this.filled) this.pieces.push(new Blob([this.piece.subarray(0, 2 * this.filled)]));
    this.filled = 0;
  }
}

export class Recording {
  /** @param start position of the first mixture that is recorded */
  constructor(rate, start) {
    this.start = start;
    this.end = Infinity;
    this.last = start + LONGEST * rate;
    this.rate = rate;
    this.tracks = {};
    for (const name of ["mixture", "vocals", "instrumental", "mix"]) {
      this.tracks[name] = new Track(rate);
    }
    this.heard = false;
  }

  get seconds() {
    return this.tracks.mixture.frames / this.rate;
  }

  /** Whether it is as long as a recording may be. */
  get full() {
    return this.start + this.tracks.mixture.frames >= this.last;
  }

  /** Whether all that belongs to it has come. */
  get complete() {
    const { vocals, mix } = this.tracks;
    const wanted = this.end - this.start;
    return vocals.frames >= wanted && (mix.frames >= wanted || !this.heard);
  }

  mixture(position, samples, count) {
    this.#place(this.tracks.mixture, position, samples, 0, count, count);
  }

  /** @param position of the mixture that the stems belong to */
  stems(position, samples, count) {
    this.#place(this.tracks.vocals, position, samples, 0, count, count);
    this.#place(this.tracks.instrumental, position, samples, 2 * count, 3 * count, count);
  }

  /** What was played, one block after the other; a change of the delay makes no gap. */
  mix(position, samples, count) {
    const { mix } = this.tracks;
    if (!this.heard && position + count <= this.start) return;
    const from = this.heard ? 0 : Math.max(0, this.start - position);
    if (!this.heard && position > this.start) mix.silence(position - this.start);
    this.heard = true;
    const to = Math.min(count, from + this.end - this.start - mix.frames);
    mix.add(samples, 0, count, from, to);
  }

  /** The files by name, {name: Blob}, and samples that never came. */
  files() {
    const files = {};
    for (const [name, track] of Object.entries(this.tracks)) files[name] = track.file();
    return { files, seconds: this.seconds, missing: this.tracks.vocals.missing };
  }

  #place(track, position, samples, first, second, count) {
    const next = this.start + track.frames;
    const end = Math.min(this.end, this.last);
    const stop = Math.min(count, end - position);
    if (stop <= 0 || position + stop <= next) return;
    if (position > next) track.silence(position - next);
    track.add(samples, first, second, Math.max(0, next - position), stop);
  }
}
