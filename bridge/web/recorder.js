/**
 * Recordings: 32-bit float WAV files, sample-aligned with each other.
 *
 * They hold the mixture as it came in, the stems from the server with the latency removed, and the
 * mix as it was played. Audio is stored in pieces as Blobs, which browsers can keep on disk.
 */

const PIECE = 65536; // frames
const MAX_SECONDS = 30 * 60; // seconds
const CHANNELS = 2;

/** The header of a WAV file, 58 bytes: format 3, IEEE float. */
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

/** One file that is being recorded. */
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
      if (++this.filled === PIECE) this.#store();
    }
    this.frames += Math.max(0, to - from);
  }

  /** Add silence for frames that never arrived. */
  silence(frames) {
    this.add(null, -1, -1, 0, frames);
    this.missing += frames;
  }

  file() {
    this.#store();
    return new Blob([header(this.frames, this.rate), ...this.pieces], { type: "audio/wav" });
  }

  #store() {
    if (this.filled) this.pieces.push(new Blob([this.piece.subarray(0, 2 * this.filled)]));
    this.filled = 0;
  }
}

export class Recording {
  /** @param start position of the first mixture that is recorded */
  constructor(rate, start) {
    this.start = start;
    this.end = Infinity;
    this.last = start + MAX_SECONDS * rate;
    this.rate = rate;
    this.tracks = {};
    for (const name of ["mixture", "vocals", "instrumental", "mix"]) {
      this.tracks[name] = new Track(rate);
    }
    this.playing = false;
  }

  get seconds() {
    return this.tracks.mixture.frames / this.rate;
  }

  /** Whether the recording has reached its maximum length. */
  get full() {
    return this.start + this.tracks.mixture.frames >= this.last;
  }

  /** Whether everything that belongs to it has arrived. */
  get complete() {
    const { vocals, mix } = this.tracks;
    const length = this.end - this.start;
    return vocals.frames >= length && (mix.frames >= length || !this.playing);
  }

  mixture(position, samples, count) {
    this.#write(this.tracks.mixture, position, samples, 0, count, count);
  }

  /** @param position of the mixture that the stems belong to */
  stems(position, samples, count) {
    this.#write(this.tracks.vocals, position, samples, 0, count, count);
    this.#write(this.tracks.instrumental, position, samples, 2 * count, 3 * count, count);
  }

  /** Add the output, block after block; a change of the delay leaves no gap. */
  mix(position, samples, count) {
    const { mix } = this.tracks;
    if (!this.playing && position + count <= this.start) return;
    const from = this.playing ? 0 : Math.max(0, this.start - position);
    if (!this.playing && position > this.start) mix.silence(position - this.start);
    this.playing = true;
    const to = Math.min(count, from + this.end - this.start - mix.frames);
    mix.add(samples, 0, count, from, to);
  }

  /** The files by name, {name: Blob}, and the number of samples that never arrived. */
  files() {
    const files = {};
    for (const [name, track] of Object.entries(this.tracks)) files[name] = track.file();
    return { files, seconds: this.seconds, missing: this.tracks.vocals.missing };
  }

  #write(track, position, samples, first, second, count) {
    const next = this.start + track.frames;
    const end = Math.min(this.end, this.last);
    const stop = Math.min(count, end - position);
    if (stop <= 0 || position + stop <= next) return;
    if (position > next) track.silence(position - next);
    track.add(samples, first, second, Math.max(0, next - position), stop);
  }
}
