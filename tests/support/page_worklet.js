// Runs the audio thread's processor by hand, sample by sample the same each time: a server whose
// stems come when the test says, and tones instead of music. Gives what test_page_use.py judges.
(async () => {
  const rate = 48000, block = 275, latency = 825, quantum = 128;
  globalThis.sampleRate = rate;
  globalThis.AudioWorkletProcessor = class {
    port = { postMessage() {} };
  };
  let Processor;
  globalThis.registerProcessor = (_, found) => { Processor = found; };
  await import("/static/worklet.js");
  const { readBlock, writeBlock, blockBytes, STEMS } = await import("/static/blocks.js");

  const tone = (frequency, level) => (i) =>
    i < 0 ? 0 : level * Math.sin((2 * Math.PI * frequency * i) / rate);
  const voice = tone(331, 0.3), band = tone(82, 0.3);
  const array = () => new Float32Array(quantum);
  const pair = () => [array(), array()];

  /** Plays for so many seconds; `late(second)` is how late stems come, in samples. */
  function play(seconds, late, { lostFrom = -1, lostTo = -1, changes = {} } = {}) {
    const processor = new Processor();
    const link = { sent: [], postMessage(buffer) { this.sent.push(readBlock(buffer).position); } };
    processor.port.onmessage({ data: { type: "begin", port: link, block } });
    link.onmessage({ data: { latency, position: 0 } });
    const heard = [], delays = [];
    let given = 0, shown = latency; // position after the newest stems
    for (let now = 0; now < seconds * rate; now += quantum) {
      const change = changes[Math.round(now / quantum)];
      if (change?.latency) {
        shown = change.latency;
        link.onmessage({ data: { latency: shown, position: given } });
      } else if (change) {
        processor.port.onmessage({ data: { type: "mix", mute: false, ...change } });
      }
      while (given + block + late(now / rate) <= now) {
        if (given < lostFrom || given >= lostTo) {
          const buffer = new ArrayBuffer(blockBytes(block));
          const samples = writeBlock(buffer, STEMS, given, block);
          for (let i = 0; i < block; i++) {
            const content = given + i - shown;
            for (const c of [0, 1]) {
              samples[c * block + i] = voice(content);
              samples[(c + 2) * block + i] = band(content);
            }
          }
          link.onmessage({ data: buffer });
        }
        given += block;
      }
      const input = pair(), outputs = [pair(), pair(), pair(), pair()];
      for (let i = 0; i < quantum; i++) {
        input[0][i] = input[1][i] = voice(now + i) + band(now + i);
      }
      processor.process([input], outputs);
      for (let i = 0; i < quantum; i++) heard.push(outputs[0][0][i]);
      delays.push(processor.delay);
    }
    const { underruns, concealed } = processor.report;
    const { grown, shrunk } = processor.jitter;
    let jump = 0;
    heard.forEach((value, i) => { jump = Math.max(jump, Math.abs(value - (heard[i - 1] ?? 0))); });
    const whole = link.sent.every((position, i) => position === i * block);
    const state = { underruns, concealed, grown, shrunk, gaps: processor.stems.gaps };
    return { ...state, jump, whole, delays, heard, latency: processor.latency };
  }

  /** The greatest distance of what was heard from a sound, in a part of it. */
  function distance({ heard, delays }, sound, [from, to], late = latency) {
    let most = 0;
    for (let i = Math.round(from * rate); i < to * rate; i++) {
      const there = i - delays[Math.floor(i / quantum)] - late;
      most = Math.max(most, Math.abs(heard[i] - sound(there)));
    }
    return most;
  }

  const both = (i) => voice(i) + band(i);
  const at = (seconds) => Math.round((seconds * rate) / quantum);
  const short = ({ heard, delays, ...rest }) => ({
    ...rest, first: delays[at(0.9)], last: delays.at(-1),
  });
  const results = {};

  const calm = play(2, () => 500);
  results.calm = { ...short(calm), karaoke: distance(calm, band, [1, 2]) };

  const spike = play(3, (s) => (s > 1.5 && s < 1.54 ? 2500 : 500));
  results.spike = { ...short(spike), before: distance(spike, band, [1, 1.5]),
    after: distance(spike, band, [1.8, 3]) };

  const outage = play(5, (s) => (s > 1.5 && s < 3 ? 1e9 : 500));
  results.outage = { ...short(outage), original: distance(outage, both, [1.6, 2.9]),
    after: distance(outage, band, [3.2, 5]) };

  const lost = play(3, () => 500, { lostFrom: 200 * block, lostTo: 230 * block });
  results.lost = { ...short(lost), after: distance(lost, band, [2, 3]) };

  const calmer = play(40, (s) => (s < 1 ? 6000 : 500));
  results.calmer = { ...short(calmer), after: distance(calmer, band, [39, 40]) };

  const ab = play(3, () => 500, { changes: {
    [at(1)]: { vocals: 0, instrumental: 1, bypass: true },
    [at(2)]: { vocals: 0.5, instrumental: 0, bypass: false },
  } });
  results.ab = { ...short(ab), original: distance(ab, both, [1.1, 2]),
    half: distance(ab, (i) => voice(i) / 2, [2.1, 3]) };

  const preset = play(3, () => 500, { changes: { [at(1.5)]: { latency: 275 },
    [at(1.5) + 1]: { vocals: 0, instrumental: 1, bypass: true } } });
  results.preset = { ...short(preset), original: distance(preset, both, [2, 3], 275) };
  return results;
})()
