// The audio processor alone: its output, sample by sample, with stems supplied by each test. The
// stems are 0.25 and 0.75 of the mixture.
#include "audio/audio_processor.h"

#include <chrono>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "check.h"

using namespace stemwire;

namespace {

constexpr int kRate = 44100, kDelay = 2646;
constexpr float kShare[kStems] = {0.25f, 0.75f};
using Audio = std::vector<std::vector<float>>;  // channels, samples

Audio noise(std::size_t n, int channels = 2) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> sample(-1.0f, 1.0f);
  Audio audio(channels, std::vector<float>(n));
  for (auto& channel : audio) {
    for (float& x : channel) x = sample(random);
  }
  return audio;
}

// Supplies the stems of the mixture up to `until`.
void serve(SharedBuffers& buffers, Position until) {
  for (Position at = buffers.stems.end(); at < until; ++at) {
    float values[kStems * kMaxChannels];
    const float* planes[kStems * kMaxChannels];
    for (int c = 0; c < buffers.channels; ++c) {
      float x = 0.0f;
      buffers.mixture.read(c, at, &x, 1);
      for (int stem = 0; stem < kStems; ++stem) {
        values[stem * buffers.channels + c] = kShare[stem] * x;
        planes[stem * buffers.channels + c] = &values[stem * buffers.channels + c];
      }
    }
    buffers.stems.write(planes, 1);
  }
  buffers.mixture.release(until);
}

struct Rig {
  explicit Rig(bool offline = false, int channels = 2, double wait = 0.3)
      : buffers(kRate, channels), processor(buffers, counters, 8000, wait) {
    buffers.delay = kDelay;
    buffers.begin_stream(offline);
    processor.begin_stream(gains);
    buffers.stems.restart(buffers.start);
  }

  // Processes one block in place, and the stems' buses.
  bool play(Audio& audio, std::size_t from, std::size_t n, Audio* vocals = nullptr,
            Audio* instrumental = nullptr) {
    const float* in[kMaxChannels] = {};
    Outputs out;
    for (int c = 0; c < buffers.channels; ++c) {
      in[c] = out.main[c] = audio[c].data() + from;
      if (vocals != nullptr) out.stems[0][c] = (*vocals)[c].data() + from;
      if (instrumental != nullptr) out.stems[1][c] = (*instrumental)[c].data() + from;
    }
    const bool complete = processor.process(in, out, n, gains);
    processor.end_block();
    return complete;
  }

  Gains gains;
  Counters counters;
  SharedBuffers buffers;
  AudioProcessor processor;
};

float late(const Audio& audio, int channel, std::size_t at, std::size_t delay = kDelay) {
  return at < delay ? 0.0f : audio[channel][at - delay];
}

void separated_output_is_exact(int channels, std::size_t block) {
  Rig rig(false, channels);
  const Audio song = noise(20000, channels);
  Audio output = song, vocals = song, instrumental = song;
  for (std::size_t at = 0; at < 20000; at += block) {
    CHECK(rig.play(output, at, std::min<std::size_t>(block, 20000 - at), &vocals, &instrumental));
    serve(rig.buffers, rig.buffers.mixture.end());
  }
  // Blocks longer than the delay need stems of mixture that was not sent yet: dry, and counted.
  if (block >= kDelay) {
    CHECK(rig.counters.dry_blocks > 0);
    return;
  }
  CHECK(rig.counters.dry_blocks == 0 && !rig.processor.late());
  CHECK(rig.counters.blocks == (20000 + block - 1) / block);
  for (int c = 0; c < channels; ++c) {
    for (std::size_t at = 0; at < 20000; ++at) {
      CHECK(output[c][at] == kShare[1] * late(song, c, at));
      CHECK(vocals[c][at] == kShare[0] * late(song, c, at));
      CHECK(instrumental[c][at] == kShare[1] * late(song, c, at));
    }
  }
}

void late_stems_are_concealed() {
  constexpr std::size_t kBlock = 128, kBlocks = 400, kGone = 100, kBack = 200;
  Rig rig;
  rig.gains = {0.0f, 1.0f, 0.0f};
  Audio song(2, std::vector<float>(kBlock * kBlocks));
  for (auto& channel : song) {
    for (std::size_t at = 0; at < channel.size(); ++at) channel[at] = std::sin(0.02f * at);
  }
  Audio output = song, vocals = song, instrumental = song;
  for (std::size_t block = 0; block < kBlocks; ++block) {
    CHECK(rig.play(output, block * kBlock, kBlock, &vocals, &instrumental));
    if (block == kBack) rig.buffers.stems.restart(rig.buffers.mixture.end());
    if (block < kGone || block >= kBack) serve(rig.buffers, rig.buffers.mixture.end());
  }
  const std::size_t gone = kGone * kBlock + kDelay;
  // A block whose first stems are missing stays dry to its end.
  const std::size_t back = ((kBack + 1) * kBlock + kDelay + kBlock - 1) / kBlock * kBlock;
  for (std::size_t at = 1; at < output[0].size(); ++at) {
    const float dry = late(song, 0, at);
    // Steps of the sine are 0.02 at most; a jump from a quarter off would be up to 0.25.
    CHECK(std::fabs(output[0][at] - output[0][at - 1]) < 0.026f);
    CHECK(std::fabs(vocals[0][at] + instrumental[0][at] - dry) < 0.251f);
    if (at < gone || at > back + 441) CHECK(output[0][at] == kShare[1] * dry);
    if (at >= gone + 220 && at < back) CHECK(output[0][at] == dry && vocals[0][at] == 0.0f);
  }
  const std::size_t first = gone / kBlock, last = (back - 1) / kBlock;
  CHECK(rig.counters.dry_blocks == last - first + 1);
  CHECK(rig.counters.blocks == kBlocks);
}

void a_changed_delay_is_reached_by_a_glide() {
  Rig rig;
  Audio song(2, std::vector<float>(20000));
  for (auto& channel : song) {
    for (std::size_t at = 0; at < channel.size(); ++at) channel[at] = std::sin(0.01f * at);
  }
  Audio output = song;
  for (std::size_t at = 0; at < 20000; at += 500) {
    if (at == 10000) rig.buffers.delay = 5000;
    rig.play(output, at, 500);
    serve(rig.buffers, rig.buffers.mixture.end());
  }
  for (std::size_t at = 1; at < 20000; ++at) {
    CHECK(std::fabs(output[0][at] - output[0][at - 1]) < 0.02f);
    if (at < 10000) CHECK(output[0][at] == kShare[1] * late(song, 0, at));
    if (at > 10220) CHECK(output[0][at] == kShare[1] * late(song, 0, at, 5000));
  }
  CHECK(rig.counters.dry_blocks == 0);
}

void faders_and_bypass_move_smoothly() {
  Rig rig;
  Audio song(2, std::vector<float>(20000, 1.0f));
  Audio output = song;
  for (std::size_t at = 0; at < 20000; at += 100) {
    if (at == 6000) rig.gains = {2.0f, 0.0f, 0.0f};
    if (at == 8000) rig.gains = {2.0f, 0.0f, 1.0f};
    if (at == 9000) rig.gains = {2.0f, 0.5f, 0.0f};
    rig.play(output, at, 100);
    serve(rig.buffers, rig.buffers.mixture.end());
  }
  for (std::size_t at = kDelay + 1; at < 20000; ++at) {
    CHECK(std::fabs(output[0][at] - output[0][at - 1]) < 0.006f);
  }
  CHECK(output[0][5999] == 0.75f && output[0][7000] == 0.5f);
  CHECK(output[0][8900] == 1.0f && output[0][9900] == 0.875f);
}

void a_bypassed_render_needs_no_server() {
  Rig rig(true);
  rig.gains.bypass = 1.0f;
  const Audio song = noise(10000);
  Audio output = song;
  CHECK(rig.play(output, 0, 10000));
  for (std::size_t at = 0; at < 10000; ++at) CHECK(output[0][at] == late(song, 0, at));
  CHECK(rig.counters.dry_blocks == 0);
}

void a_render_waits_for_its_stems(std::size_t block) {
  Rig rig(true);
  const std::size_t count = 300000;
  const Audio song = noise(count);
  Audio output = song;
  std::atomic<bool> done{false};
  std::thread network([&] {
    while (!done) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      serve(rig.buffers, rig.buffers.mixture.end());
      rig.buffers.to_audio.raise();
    }
  });
  for (std::size_t at = 0; at < count; at += block) {
    CHECK(rig.play(output, at, std::min(block, count - at)));
  }
  done = true;
  network.join();
  for (std::size_t at = 0; at < count; ++at) {
    CHECK(output[1][at] == kShare[1] * late(song, 1, at));
  }
  CHECK(rig.counters.dry_blocks == 0 && rig.counters.lost_samples == 0);
}

void a_render_without_stems_fails_loudly(bool announced) {
  Rig rig(true);
  const Audio song = noise(30000);
  Audio output = song;
  const auto began = std::chrono::steady_clock::now();
  if (announced) rig.buffers.failed_start = rig.buffers.start.load();
  CHECK(!rig.play(output, 0, 20000));
  CHECK(!rig.play(output, 20000, 10000));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  CHECK(announced ? took.count() < 0.2 : took.count() > 0.29 && took.count() < 2.0);
  double energy = 0.0;
  for (std::size_t at = kDelay; at < 30000; ++at) {
    CHECK(std::fabs(output[0][at]) <= 0.25f);
    energy += output[0][at] * output[0][at];
  }
  CHECK(energy / (30000 - kDelay) > 0.01);  // an alarm: neither silence nor the song
  // A new stream starts without the failure.
  rig.buffers.begin_stream(true);
  rig.processor.begin_stream(rig.gains);
  rig.buffers.stems.restart(rig.buffers.start);
  output = song;
  CHECK(rig.play(output, 0, kDelay));
  for (std::size_t at = 0; at < kDelay; ++at) CHECK(output[0][at] == 0.0f);
}

void invalid_samples_become_silence() {
  Rig rig;
  Audio song = noise(8000);
  song[0][10] = NAN;
  song[1][11] = INFINITY;
  song[0][12] = -1e30f;
  Audio output = song;
  rig.play(output, 0, 2000);
  serve(rig.buffers, rig.buffers.mixture.end());
  rig.play(output, 2000, 2000);
  serve(rig.buffers, rig.buffers.mixture.end());
  CHECK(rig.counters.bad_samples == 3);
  CHECK(output[0][kDelay + 10] == 0.0f && output[1][kDelay + 11] == 0.0f);
  CHECK(output[0][kDelay + 12] == 0.0f && output[0][kDelay + 13] == kShare[1] * song[0][13]);
}

void dropped_mixture_is_counted_and_dry() {
  Rig rig;
  const std::size_t count = 5 * kRate;
  const Audio song = noise(count);
  Audio output = song;
  for (std::size_t at = 0; at < count; at += 1000) {
    rig.play(output, at, std::min<std::size_t>(1000, count - at));
  }
  CHECK(rig.counters.lost_samples > kRate / 2);
  CHECK(rig.buffers.mixture.intact_from() > 0);
  for (std::size_t at = count / 2; at < count; ++at) CHECK(output[0][at] == late(song, 0, at));
  CHECK(rig.processor.late());
}

// Mainly for ThreadSanitizer: a network thread that restarts at random.
void threads_never_race() {
  Rig rig;
  const std::size_t count = 400000, block = 128;
  const Audio song = noise(count);
  Audio output = song;
  std::atomic<bool> done{false};
  std::thread network([&] {
    std::mt19937 random(2);
    while (!done) {
      const Position end = rig.buffers.mixture.end(), intact = rig.buffers.mixture.intact_from();
      if (random() % 50 == 0 || intact > rig.buffers.stems.end()) {
        rig.buffers.mixture.release(end);
        rig.buffers.stems.restart(end);
      } else {
        serve(rig.buffers, end);
      }
      rig.buffers.to_network.wait(static_cast<int>(random() % 3));
    }
  });
  for (std::size_t at = 0; at < count; at += block) {
    rig.play(output, at, block);
    if (at % 4096 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  done = true;
  network.join();
  // A glide begins at most 2 off, plus the rest of one that began a block before.
  const float off = 2.0f * (0.005f * kRate) / block;
  for (std::size_t at = 0; at < count; ++at) {
    const float dry = late(song, 0, at);
    CHECK(std::fabs(output[0][at]) <= 1.0f + off);
    if (rig.counters.dry_blocks == 0) CHECK(output[0][at] == kShare[1] * dry);
  }
  CHECK(rig.counters.blocks == count / block);
}

}  // namespace

int main() {
  for (const int channels : {1, 2}) {
    for (const std::size_t block : {1, 32, 100, 512, 2000, 8192}) {
      separated_output_is_exact(channels, block);
    }
  }
  late_stems_are_concealed();
  a_changed_delay_is_reached_by_a_glide();
  faders_and_bypass_move_smoothly();
  a_bypassed_render_needs_no_server();
  for (const std::size_t block : {64, 8192, 300000}) a_render_waits_for_its_stems(block);
  for (const bool announced : {false, true}) a_render_without_stems_fails_loudly(announced);
  invalid_samples_become_silence();
  dropped_mixture_is_counted_and_dry();
  threads_never_race();
  return check::result();
}
