/**
 * Blocks of samples that pass between the audio thread and the thread of the connection.
 *
 * A block is an ArrayBuffer that is transferred, not copied: kind, position and count as float64,
 * then float32 samples, channel after channel. Buffers are reused: those that bring stems down take
 * the mixture up again, so that nothing is allocated in steady state.
 */

export const MIXTURE = 1; // up: the input
export const STEMS = 2; // down: vocals left, right, instrumental left, right
export const PLAYED = 3; // up: the output, while a recording runs
const HEADER = 24; // bytes

/** Bytes of a buffer that can hold any kind of block. */
export const blockBytes = (block) => HEADER + 4 * 4 * block;

/** Start a block of a kind; returns its samples, to be filled. */
export function writeBlock(buffer, kind, position, count) {
  const header = new Float64Array(buffer, 0, 3);
  header[0] = kind;
  header[1] = position;
  header[2] = count;
  return new Float32Array(buffer, HEADER);
}

/** The block in a buffer: {kind, position, count, samples}. */
export function readBlock(buffer) {
  const [kind, position, count] = new Float64Array(buffer, 0, 3);
  return { kind, position, count, samples: new Float32Array(buffer, HEADER) };
}

/** A pool of buffers; `limit` bounds how many are ever allocated. */
export class Pool {
  constructor(bytes, first, limit) {
    this.bytes = bytes;
    this.free = Array.from({ length: first }, () => new ArrayBuffer(bytes));
    this.left = limit - first;
  }

  /** A buffer, or null if all are in use: the other end is stalled. */
  take() {
    if (this.free.length) return this.free.pop();
    return this.left-- > 0 ? new ArrayBuffer(this.bytes) : null;
  }

  give(buffer) {
    if (buffer.byteLength === this.bytes) this.free.push(buffer);
  }
}

/** Collects stereo samples into blocks and posts them to a port. */
export class Collector {
  constructor(kind, block, pool, port) {
    this.kind = kind;
    this.block = block;
    this.pool = pool;
    this.port = port;
    this.filled = 0;
    this.dropped = 0; // samples for which there was no buffer
    this.buffer = this.samples = null;
    this.transfer = [null];
  }

  /** Add a quantum; `position` is that of its first sample. */
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
    this.transfer[0] = this.buffer;
    this.port.postMessage(this.buffer, this.transfer);
    this.buffer = this.samples = null;
  }
}
