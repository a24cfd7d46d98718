/**
 * Codec of Stemwire's protocol, version 1 (docs/protocol.md): messages as text, audio as bytes.
 * The same as bridge/protocol/messages.py; without sockets.
 */

export const VERSION = 1;
export const SUBPROTOCOL = "stemwire.1";
export const MIX = 1;
export const STEMS = 2;
export const SOFT = ["config"]; // errors that an established session survives

const HEADER = 24; // bytes: kind, flags, stream, sequence, position, count, reserved
const BYTES = { f32: 4, s16: 2 };
const TEXT_LIMIT = 16384;
const TWO_32 = 2 ** 32;
const TWO_53 = 2 ** 53; // positions end here
const ROUND = 1.5 * 2 ** 52; // adding and subtracting it rounds to integers, ties to even
const KINDS = {
  welcome: ["version", "latency", "hop"],
  state: ["latency", "position"],
  flushed: ["stream", "position"],
  reset: [],
  ping: [],
  pong: [],
  stats: ["position"],
  error: [],
  goodbye: [],
};
const CLIENTS = ["hello", "control", "flush"]; // sent by clients only
const LIMITS = ["message", "ahead", "grace", "idle"];

/** A violation of the protocol, or an error that the server reports. */
export class ProtocolError extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

const malformed = (text) => new ProtocolError("malformed", text);

/** Decode a text message of a server; null for a type of a later version. */
export function decode(text) {
  if (text.length > TEXT_LIMIT) throw new ProtocolError("too_large", "a text message too long");
  let message;
  try {
    message = JSON.parse(text);
  } catch (error) {
    throw malformed(`not a message: ${error.message}`);
  }
  if (typeof message?.type !== "string") throw malformed("a message without a type");
  if (CLIENTS.includes(message.type)) {
    throw new ProtocolError("state", `${message.type} came from the wrong side`);
  }
  if (!Object.hasOwn(KINDS, message.type)) return null;
  for (const name of KINDS[message.type]) natural(message, name);
  if (message.type === "welcome") {
    if (message.version !== VERSION) {
      throw new ProtocolError("version", `version ${message.version} is not supported`);
    }
    if (typeof message.session !== "string" || typeof message.key !== "string") {
      throw malformed("a welcome without session and key");
    }
    for (const name of LIMITS) {
      const limit = message.limits?.[name];
      if (typeof limit !== "number" || limit < 0) throw malformed(`a welcome without ${name}`);
    }
    if (!message.hop) throw malformed("a welcome without a hop");
    for (const name of ["stream", "position"]) {
      message[name] ??= 0;
      natural(message, name);
    }
  }
  return message;
}

function natural(message, name) {
  if (!Number.isSafeInteger(message[name]) || message[name] < 0) {
    throw malformed(`${message.type}.${name} must be a whole number, not ${message[name]}`);
  }
}

/** Size in bytes of a frame of `count` samples. */
export function frameBytes(format, parts, channels, count) {
  return HEADER + parts * channels * count * BYTES[format];
}

/** Number of samples that fit into one frame of at most `limit` bytes. */
export function maxSamples(limit, format, parts, channels) {
  return Math.max(1, Math.floor((limit - HEADER) / (parts * channels * BYTES[format])));
}

/**
 * Encode a binary message.
 * @param {{kind, stream, sequence, position, count}} frame
 * @param {Float32Array} samples part by part, channel by channel; clipped and rounded in s16
 */
export function encodeFrame({ kind, stream, sequence, position, count }, samples, format) {
  const data = new ArrayBuffer(HEADER + samples.length * BYTES[format]);
  const header = new DataView(data);
  header.setUint8(0, kind);
  header.setUint16(2, stream % 65536, true);
  header.setUint32(4, sequence % TWO_32, true);
  header.setUint32(8, position % TWO_32, true);
  header.setUint32(12, Math.floor(position / TWO_32), true);
  header.setUint32(16, count, true);
  if (format === "s16") {
    const steps = new Int16Array(data, HEADER);
    for (let i = 0; i < steps.length; i++) {
      const step = samples[i] * 32768 + ROUND - ROUND;
      steps[i] = step < -32768 ? -32768 : step > 32767 ? 32767 : step;
    }
  } else {
    new Float32Array(data, HEADER).set(samples);
  }
  return data;
}

/**
 * Decode a binary message.
 * @param {ArrayBuffer} data
 * @returns {{stream, sequence, position, count, samples: Float32Array}}
 */
export function decodeFrame(data, format, kind, parts, channels) {
  if (data.byteLength < HEADER) throw malformed("a frame with an incomplete header");
  const header = new DataView(data);
  const count = header.getUint32(16, true);
  const position = header.getUint32(8, true) + TWO_32 * header.getUint32(12, true);
  if (header.getUint8(0) !== kind) throw malformed(`a frame of kind ${header.getUint8(0)}`);
  if (position > TWO_53 - count) throw malformed("a position beyond the limit");
  if (data.byteLength !== frameBytes(format, parts, channels, count)) {
    throw malformed(`a frame of ${count} samples cannot have ${data.byteLength} bytes`);
  }
  let samples;
  if (format === "s16") {
    samples = Float32Array.from(new Int16Array(data, HEADER), (step) => step / 32768);
  } else {
    samples = new Float32Array(data, HEADER);
  }
  return {
    stream: header.getUint16(2, true),
    sequence: header.getUint32(4, true),
    position,
    count,
    samples,
  };
}
