/** Level meters with a fast attack and a slow decay. */

import { level } from "./texts.js";

const LOWEST = -60; // dB
const FALL = 20; // dB per second
const HOLD = 1.5; // seconds that the mark of a peak stays
const RMS = 0.3; // seconds of averaging

const db = (value) => (value > 1e-5 ? 20 * Math.log10(value) : -100);
const share = (value) => Math.min(1, Math.max(0, 1 - value / LOWEST));

export class Meter {
  /** @param strip element to add the meter and its figure to */
  constructor(strip, name) {
    this.bar = document.createElement("div");
    this.bar.className = "meter";
    this.bar.setAttribute("role", "meter");
    this.bar.setAttribute("aria-label", `${name} level`);
    this.bar.setAttribute("aria-valuemin", LOWEST);
    this.bar.setAttribute("aria-valuemax", 0);
    [this.rmsBar, this.peakBar, this.mark] = ["rms", "peak", "mark"].map((kind) => {
      const part = document.createElement("i");
      part.className = kind;
      this.bar.append(part);
      return part;
    });
    this.figure = document.createElement("span");
    this.figure.className = "level figure";
    this.figure.setAttribute("aria-hidden", "true");
    strip.append(this.bar, this.figure);
    this.clear();
  }

  clear() {
    this.peak = this.rms = this.peakHold = -100;
    this.square = this.peakHoldAt = this.at = this.textAt = 0;
    this.#draw(0);
  }

  /** Update with peak and RMS, linear, at a time in seconds. */
  feed(peak, rms, now) {
    const elapsed = Math.min(1, Math.max(0, now - this.at));
    this.at = now;
    this.peak = Math.max(db(peak), this.peak - FALL * elapsed);
    this.square += (rms * rms - this.square) * (1 - Math.exp(-elapsed / RMS));
    this.rms = db(Math.sqrt(this.square));
    if (db(peak) >= this.peakHold || now - this.peakHoldAt > HOLD) {
      this.peakHold = this.peak;
      this.peakHoldAt = now;
    }
    this.#draw(now);
  }

  #draw(now) {
    this.rmsBar.style.transform = `scaleX(${share(this.rms).toFixed(4)})`;
    this.peakBar.style.transform = `scaleX(${share(this.peak).toFixed(4)})`;
    this.mark.style.transform = `translateX(${(100 * share(this.peakHold) - 100).toFixed(2)}%)`;
    this.bar.classList.toggle("hot", this.peakHold > -0.1);
    if (Math.abs(now - this.textAt) < 0.25 && now) return; // faster changes are unreadable
    this.textAt = now;
    this.figure.textContent = level(this.peakHold);
    this.bar.setAttribute("aria-valuenow", Math.max(LOWEST, Math.min(0, Math.round(this.rms))));
    const text = `${level(this.rms)} dB, peak ${level(this.peakHold)} dB`;
    this.bar.setAttribute("aria-valuetext", text);
  }
}
