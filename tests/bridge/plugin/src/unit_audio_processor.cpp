// The audio thread's part alone: what is heard, sample by sample, with a network thread that gives
// what each test wants. Stems here are 0.25 and 0.75 of the mixture.

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

// Gives the stems of all that has come in up to `until`.
void serve(SharedBuffers& buffers, Position until) {
  for (Position at = buffers.stems.end(); at < until; ++at) {
    float values[kStems * kMostChannels];
    const float* planes[kStems * kMostChannels];
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
    buffers.begin(offline);
    processor.begin(levels);
    buffers.stems.restart(buffers.start);
  }

  // One block in place, and what the stems' buses give.
  bool play(Audio& audio, std::size_t from, std::size_t n, Audio* vocals = nullptr,
            Audio* instrumental = nullptr) {
    const float* in[kMostChannels] = {};
    Outputs out;
    for (int c = 0; c < buffers.channels; ++c) {
      in[c] = out.main[c] = audio[c].data() + from;
      if (vocals != nullptr) out.stems[0][c] = (*vocals)[c].data() + from;
      if (instrumental != nullptr) out.stems[1][c] = (*instrumental)[c].data() + from;
    }
    const bool fine = processor.process(in, out, n, levels);
    processor.end_block();
    return fine;
  }

  Levels levels;
  Counters counters;
  SharedBuffers buffers;
  AudioProcessor processor;
};

float late(const Audio& audio, int channel, std::size_t at, std::size_t delay = kDelay) {
  return at < delay ? 0.0f : audio[channel][at - delay];
}

void separated_music_comes_exactly(int channels, std::size_t block) {
  Rig rig(false, channels);
  const Audio song = noise(20000, channels);
  Audio heard = song, vocals = song, instrumental = song;
  for (std::size_t at = 0; at < 20000; at += block) {
    CHECK(rig.play(heard, at, std::min<std::size_t>(block, 20000 - at), &vocals, &instrumental));
    serve(rig.buffers, rig.buffers.mixture.end());
  }
  // Blocks longer than the delay need what has not even gone up: dry, and counted.
  if (block >= kDelay) {
    CHECK(rig.counters.dry_blocks > 0);
    return;
  }
  CHECK(rig.counters.dry_blocks == 0 && !rig.processor.late());
  CHECK(rig.counters.blocks == (20000 + block - 1) / block);
  for (int c = 0; c < channels; ++c) {
    for (std::size_t at = 0; at < 20000; ++at) {
      CHECK(heard[c][at] == kShare[1] * late(song, c, at));
      CHECK(vocals[c][at] == kShare[0] * late(song, c, at));
      CHECK(instrumental[c][at] == kShare[1] * late(song, c, at));
    }
  }
}

void missing_stems_are_concealed() {
  constexpr std::size_t kBlock = 128, kBlocks = 400, kGone = 100, kBack = 200;
  Rig rig;
  rig.levels = {0.0f, 1.0f, 0.0f};
  Audio song(2, std::vector<float>(kBlock * kBlocks));
  for (auto& channel : song) {
    for (std::size_t at = 0; at < channel.size(); ++at) channel[at] = std::sin(0.02f * at);
  }
  Audio heard = song, vocals = song, instrumental = song;
  for (std::size_t block = 0; block < kBlocks; ++block) {
    CHECK(rig.play(heard, block * kBlock, kBlock, &vocals, &instrumental));
    if (block == kBack) rig.buffers.stems.restart(rig.buffers.mixture.end());
    if (block < kGone || block >= kBack) serve(rig.buffers, rig.buffers.mixture.end());
  }
  const std::size_t gone = kGone * kBlock + kDelay;
  // A block whose first stems are missing stays dry to its end.
  const std::size_t back = ((kBack + 1) * kBlock + kDelay + kBlock - 1) / kBlock * kBlock;
  for (std::size_t at = 1; at < heard[0].size(); ++at) {
    const float dry = late(song, 0, at);
    // Steps of the sine are 0.02 at most; a jump from a quarter off would be up to 0.25.
    CHECK(std::fabs(heard[0][at] - heard[0][at - 1]) < 0.026f);
    CHECK(std::fabs(vocals[0][at] + instrumental[0][at] - dry) < 0.251f);
    if (at < gone || at > back + 441) CHECK(heard[0][at] == kShare[1] * dry);
    if (at >= gone + 220 && at < back) CHECK(heard[0][at] == dry && vocals[0][at] == 0.0f);
  }
  const std::size_t first = gone / kBlock, last = (back - 1) / kBlock;
  CHECK(rig.counters.dry_blocks == last - first + 1);
  CHECK(rig.counters.blocks == kBlocks);
}

void another_delay_is_glided_to() {
  Rig rig;
  Audio song(2, std::vector<float>(20000));
  for (auto& channel : song) {
    for (std::size_t at = 0; at < channel.size(); ++at) channel[at] = std::sin(0.01f * at);
  }
  Audio heard = song;
  for (std::size_t at = 0; at < 20000; at += 500) {
    if (at == 10000) rig.buffers.delay = 5000;
    rig.play(heard, at, 500);
    serve(rig.buffers, rig.buffers.mixture.end());
  }
  for (std::size_t at = 1; at < 20000; ++at) {
    CHECK(std::fabs(heard[0][at] - heard[0][at - 1]) < 0.02f);
    if (at < 10000) CHECK(heard[0][at] == kShare[1] * late(song, 0, at));
    if (at > 10220) CHECK(heard[0][at] == kShare[1] * late(song, 0, at, 5000));
  }
  CHECK(rig.counters.dry_blocks == 0);
}

void faders_and_bypass_move_smoothly() {
  Rig rig;
  Audio song(2, std::vector<float>(20000, 1.0f));
  Audio heard = song;
  for (std::size_t at = 0; at < 20000; at += 100) {
    if (at == 6000) rig.levels = {2.0f, 0.0f, 0.0f};
    if (at == 8000) rig.levels = {2.0f, 0.0f, 1.0f};
    if (at == 9000) rig.levels = {2.0f, 0.5f, 0.0f};
    rig.play(heard, at, 100);
    serve(rig.buffers, rig.buffers.mixture.end());
  }
  for (std::size_t at = kDelay + 1; at < 20000; ++at) {
    CHECK(std::fabs(heard[0][at] - heard[0][at - 1]) < 0.006f);
  }
  CHECK(heard[0][5999] == 0.75f && heard[0][7000] == 0.5f);
  CHECK(heard[0][8900] == 1.0f && heard[0][9900] == 0.875f);
}

void a_bypassed_render_needs_no_server() {
  Rig rig(true);
  rig.levels.bypass = 1.0f;
  const Audio song = noise(10000);
  Audio heard = song;
  CHECK(rig.play(heard, 0, 10000));
  for (std::size_t at = 0; at < 10000; ++at) CHECK(heard[0][at] == late(song, 0, at));
  CHECK(rig.counters.dry_blocks == 0);
}

void a_render_waits_for_its_stems(std::size_t block) {
  Rig rig(true);
  const std::size_t count = 300000;
  const Audio song = noise(count);
  Audio heard = song;
  std::atomic<bool> done{false};
  std::thread network([&] {
    while (!done) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      serve(rig.buffers, rig.buffers.mixture.end());
      rig.buffers.to_audio.raise();
    }
  });
  for (std::size_t at = 0; at < count; at += block) {
    CHECK(rig.play(heard, at, std::min(block, count - at)));
  }
  done = true;
  network.join();
  for (std::size_t at = 0; at < count; ++at) {
    CHECK(heard[1][at] == kShare[1] * late(song, 1, at));
  }
  CHECK(rig.counters.dry_blocks == 0 && rig.counters.lost_samples == 0);
}

void a_render_without_stems_fails_loudly(bool told) {
  Rig rig(true);
  const Audio song = noise(30000);
  Audio heard = song;
  const auto began = std::chrono::steady_clock::now();
  if (told) rig.buffers.failed_start = rig.buffers.start.load();
  CHECK(!rig.play(heard, 0, 20000));
  CHECK(!rig.play(heard, 20000, 10000));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  CHECK(told ? took.count() < 0.2 : took.count() > 0.29 && took.count() < 2.0);
  double energy = 0.0;
  for (std::size_t at = kDelay; at < 30000; ++at) {
    CHECK(std::fabs(heard[0][at]) <= 0.25f);
    energy += heard[0][at] * heard[0][at];
  }
  CHECK(energy / (30000 - kDelay) > 0.01);  // an alarm: neither silence nor the song
  // Another stream is another chance.
  rig.buffers.begin(true);
  rig.processor.begin(rig.levels);
  rig.buffers.stems.restart(rig.buffers.start);
  heard = song;
  CHECK(rig.play(heard, 0, kDelay));
  for (std::size_t at = 0; at < kDelay; ++at) CHECK(heard[0][at] == 0.0f);
}

void what_is_no_sound_is_silence() {
  Rig rig;
  Audio song = noise(8000);
  song[0][10] = NAN;
  song[1][11] = INFINITY;
  song[0][12] = -1e30f;
  Audio heard = song;
  rig.play(heard, 0, 2000);
  serve(rig.buffers, rig.buffers.mixture.end());
  rig.play(heard, 2000, 2000);
  serve(rig.buffers, rig.buffers.mixture.end());
  CHECK(rig.counters.bad_samples == 3);
  CHECK(heard[0][kDelay + 10] == 0.0f && heard[1][kDelay + 11] == 0.0f);
  CHECK(heard[0][kDelay + 12] == 0.0f && heard[0][kDelay + 13] == kShare[1] * song[0][13]);
}

void what_does_not_go_up_is_counted_and_heard_dry() {
  Rig rig;
  const std::size_t count = 5 * kRate;
  const Audio song = noise(count);
  Audio heard = song;
  for (std::size_t at = 0; at < count; at += 1000) rig.play(heard, at, std::min<std::size_t>(1000, count - at));
  CHECK(rig.counters.lost_samples > kRate / 2);
  CHECK(rig.buffers.mixture.whole_from() > 0);
  for (std::size_t at = count / 2; at < count; ++at) CHECK(heard[0][at] == late(song, 0, at));
  CHECK(rig.processor.late());
}

// For ThreadSanitizer most of all: a network thread that comes and goes as it likes.
void threads_never_meet() {
  Rig rig;
  const std::size_t count = 400000, block = 128;
  const Audio song = noise(count);
  Audio heard = song;
  std::atomic<bool> done{false};
  std::thread network([&] {
    std::mt19937 random(2);
    while (!done) {
      const Position end = rig.buffers.mixture.end(), whole = rig.buffers.mixture.whole_from();
      if (random() % 50 == 0 || whole > rig.buffers.stems.end()) {
        rig.buffers.mixture.release(end);
        rig.buffers.stems.restart(end);
      } else {
        serve(rig.buffers, end);
      }
      rig.buffers.to_network.wait(static_cast<int>(random() % 3));
    }
  });
  for (std::size_t at = 0; at < count; at += block) {
    rig.play(heard, at, block);
    if (at % 4096 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  done = true;
  network.join();
  // A glide begins at most 2 off, besides what is left of one that began a block before.
  const float off = 2.0f * (0.005f * kRate) / block;
  for (std::size_t at = 0; at < count; ++at) {
    const float dry = late(song, 0, at);
    CHECK(std::fabs(heard[0][at]) <= 1.0f + off);
    if (rig.counters.dry_blocks == 0) CHECK(heard[0][at] == kShare[1] * dry);
  }
  CHECK(rig.counters.blocks == count / block);
}

}  // namespace

int main() {
  for (const int channels : {1, 2}) {
    for (const std::size_t block : {1, 32, 100, 512, 2000, 8192}) {
      separated_music_comes_exactly(channels, block);
    }
  }
  missing_stems_are_concealed();
  another_delay_is_glided_to();
  faders_and_bypass_move_smoothly();
  a_bypassed_render_needs_no_server();
  for (const std::size_t block : {64, 8192, 300000}) a_render_waits_for_its_stems(block);
  for (const bool told : {false, true}) a_render_without_stems_fails_loudly(told);
  what_is_no_sound_is_silence();
  what_does_not_go_up_is_counted_and_heard_dry();
  threads_never_meet();
  return check::result();
}
