/** Texts for the user: numbers, delays, and errors with what to do about them. */

import { OFF } from "./engine.js";
import { SourceError } from "./sources.js";

const minus = (text) => text.replace("-", "−");

/** A gain or level, with one decimal. */
export const decibels = (db) => minus(`${db.toFixed(1)} dB`);
export const gain = (db) => (db <= OFF ? "off" : decibels(db));
export const level = (db) => (db <= -90 ? "−∞" : minus(db.toFixed(1)));
export const milliseconds = (ms) => ms.toFixed(1);

/** A duration in ms that may be long. */
export const duration = (ms) =>
  ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;

export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function bytes(count) {
  return count < 1e6 ? `${Math.round(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export const STAGES = {
  input: "Input device",
  separator: "Separator",
  block: "Block",
  network: "Network round trip",
  jitter: "Jitter buffer",
  browser: "Browser",
  output: "Output device",
};

export const CONNECTION = {
  off: "Not connected",
  connecting: "Connecting…",
  live: "Connected",
  reconnecting: "Reconnecting…",
  slow: "Too slow",
};

const DEVICE = {
  NotAllowedError: [
    "No permission.",
    "The browser was denied this source. Allow it next to the address bar, then start again.",
  ],
  NotFoundError: ["No device.", "No microphone or line-in was found. Plug one in, or play a file."],
  NotReadableError: [
    "The device is busy.",
    "Another program may be using it. Close that program, or choose another device.",
  ],
  OverconstrainedError: ["The device has been removed.", "Choose another one."],
  AbortError: ["The device did not start.", "Try again, or choose another one."],
};

const SERVER = {
  unreachable: "The server cannot be reached.",
  token: "This server requires a token.",
  too_many: "The server is full.",
  shutdown: "The server is shutting down.",
  version: "Page and server have different versions.",
  config: "The server refused a setting.",
};

const REMEDY = {
  unreachable: "Check that it is running and that you are online, then start again.",
  too_many: "Try again later.",
  shutdown: "Start again when it is back.",
  version: "Reload the page.",
};

/** [title, text] for an error of a source or the engine. */
export function explain(error) {
  if (error instanceof SourceError) return ["No audio.", error.message];
  if (error instanceof DOMException && DEVICE[error.name]) return DEVICE[error.name];
  if (SERVER[error.code]) return explainCode(error.code, "");
  if (!window.isSecureContext) {
    return [
      "Not a secure address.",
      "Browsers allow audio only for pages from localhost or over https. Open this page that way.",
    ];
  }
  return ["Something went wrong.", `${error.message ?? error}. Reload the page and try again.`];
}

/** [title, text] for an error of the connection. */
export function explainCode(code, text) {
  if (code === "page") return ["This page has failed.", `${text}. Reload it and try again.`];
  const sentence = text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  const sentences = [sentence, REMEDY[code]].filter(Boolean);
  return [SERVER[code] ?? "The server refused the request.", sentences.join(" ")];
}
