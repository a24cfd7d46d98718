/** Meters: quick to rise, slow to fall. */

import { level } from "./texts.js";

const LOWEST = -60; // dB
const FALL = 20; // dB a second
const HOLD = 1.5; // seconds that a peak's mark stays
const RMS = 0.3; // seconds

const db = (value) => (value > 1e-5 ? 20 * Math.log10(value) : -100);
const share = (value) => Math.min(1, Math.max(0, 1 - value / LOWEST));

export class Meter {
  /** @param strip element that gets the meter and a figure */
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
    this.peak = this.rms = this.held = -100;
    this.square = this.heldAt = this.at = this.said = 0;
    this.#draw(0);
  }

  /** Take peak and RMS, as factors, at a time in seconds. */
  feed(peak, rms, now) {
    const elapsed = Math.min(1, Math.max(0, now - this.at));
    this.at = now;
    this.peak = Math.max(db(peak), this.peak - FALL * elapsed);
    this.square += (rms * rms - this.square) * (1 - Math.exp(-elapsed / RMS));
    this.rms = db(Math.sqrt(this.square));
    if (db(peak) >= this.held || now - this.heldAt > HOLD) {
      this.held = this.peak;
      this.heldAt = now;
    }
    this.#draw(now);
  }

  #draw(now) {
    this.rmsBar.style.transform = `scaleX(${share(this.rms).toFixed(4)})`;
    this.peakBar.style.transform = `scaleX(${share(this.peak).toFixed(4)})`;
    this.mark.style.transform = `translateX(${(100 * share(this.held) - 100).toFixed(2)}%)`;
    this.bar.classList.toggle("hot", this.held > -0.1);
    if (Math.abs(now - this.said) < 0.25 && now) return; // figures that change too fast say nothing
    this.said = now;
    this.figure.textContent = level(this.held);
    this.bar.setAttribute("aria-valuenow", Math.max(LOWEST, Math.min(0, Math.round(this.rms))));
    this.bar.setAttribute("aria-valuetext", `${level(this.rms)} dB, peak ${level(this.held)} dB`);
  }
}
