/**
 * Blocks of samples on their way between the audio thread and the thread of the connection.
 *
 * A block is an ArrayBuffer that is handed over, not copied: kind, position and count as float64,
 * then float32 samples, channel after channel. Buffers go round: those that bring stems down take
 * mixture up again, so that in steady state nothing is allocated.
 */

export const MIXTURE = 1; // up: what came in
export const STEMS = 2; // down: vocals left, right, instrumental left, right
export const HEARD = 3; // up: what was played, while a recording runs
const HEADER = 24; // bytes

/** Bytes of a buffer that can hold any kind of block. */
export const blockBytes = (block) => HEADER + 4 * 4 * block;

/** Start a block of a kind: its samples, to be filled. */
export function writeBlock(buffer, kind, position, count) {
  const header = new Float64Array(buffer, 0, 3);
  header[0] = kind;
  header[1] = position;
  header[2] = count;
  return new Float32Array(buffer, HEADER);
}

/** What a buffer holds: {kind, position, count, samples}. */
export function readBlock(buffer) {
  const [kind, position, count] = new Float64Array(buffer, 0, 3);
  return { kind, position, count, samples: new Float32Array(buffer, HEADER) };
}

/** Buffers to be used again; at most so many are ever made. */
export class Pool {
  constructor(bytes, first, most) {
    this.bytes = bytes;
    this.free = Array.from({ length: first }, () => new ArrayBuffer(bytes));
    this.left = most - first;
  }

  /** A buffer, or null if all are under way: the other end sleeps. */
  take() {
    if (this.free.length) return this.free.pop();
    return this.left-- > 0 ? new ArrayBuffer(this.bytes) : null;
  }

  give(buffer) {
    if (buffer.byteLength === this.bytes) this.free.push(buffer);
  }
}

/** Collects stereo samples into blocks and sends them off. */
export class Collector {
  constructor(kind, block, pool, port) {
    this.kind = kind;
    this.block = block;
    this.pool = pool;
    this.port = port;
    this.filled = 0;
    this.dropped = 0; // samples for which there was no buffer
    this.buffer = this.samples = null;
    this.handover = [null];
  }

  /** Take a quantum of which the first sample has a position. */
  add(position, left, right) {
    for (let i = 0; i < left.length; i++) {
      if (!this.filled) {
        this.buffer = this.pool.take();
        if (this.buffer) {
          this.samples = writeBlock(this.buffer, this.kind, position + i, this.block);
        }
      }
      if (this.buffer) {
        this.samples[this.filled] = left[i];
        this.samples[this.filled + this.block] = right[i];
      }
      if (++this.filled === this.block) this.#send();
    }
  }

  #send() {
    this.filled = 0;
    if (!this.buffer) {
      this.dropped += this.block;
      return;
    }
    this.handover[0] = this.buffer;
    this.port.postMessage(this.buffer, this.handover);
    this.buffer = this.samples = null;
  }
}
