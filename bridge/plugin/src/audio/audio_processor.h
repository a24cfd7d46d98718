// The audio thread's part: mixture goes up, stems come back, the delay stays what it is.
//
// In real time nothing here waits, allocates or locks. What is heard at input position i belongs
// to the mixture at i - delay. Where its stems have not come in time, the mixture itself is heard
// at the same place ("dry"): reached by a glide from the last sample, left by a cross-fade.
// Offline, `process` waits for stems instead.
#pragma once

#include <cstddef>

#include "audio/shared_buffers.h"

namespace stemwire {

// Linear gains; bypass is 1 for dry and 0 for separated.
struct Levels {
  float vocals = 0.0f, instrumental = 1.0f, bypass = 0.0f;
};

// Where output goes: `main`, and the stems as they came; null where the host has no such bus.
struct Outputs {
  float* main[kMostChannels] = {};
  float* stems[kStems][kMostChannels] = {};
};

// A gain on its way to another, in a straight line.
class Ramp {
 public:
  void snap(float value) {
    now_ = target_ = value;
    step_ = 0.0f;
  }
  void aim(float value, float samples) {
    if (value == target_) return;
    target_ = value;
    step_ = (value - now_) / samples;
  }
  float next() {
    if (now_ == target_) return now_;
    const float before = now_;
    now_ += step_;
    if (now_ == before || (step_ > 0) == (now_ > target_)) now_ = target_;
    return now_;
  }
  float now() const { return now_; }
  bool steady() const { return now_ == target_; }
  bool steady(float value) const { return steady() && now_ == value; }

 private:
  float now_ = 0.0f, target_ = 0.0f, step_ = 0.0f;
};

class AudioProcessor {
 public:
  static constexpr double kWaitSeconds = 20.0;

  // Allocates. `most_delay` is the largest value that `buffers.delay` will have, samples.
  // `wait_seconds`: offline, how long no stem may come before the render has failed.
  AudioProcessor(SharedBuffers& buffers, Counters& counters, int most_delay, double wait_seconds = kWaitSeconds);

  // Host's thread, while no audio runs: forget what was heard. Call `buffers.begin` first.
  void begin(const Levels& levels);

  // Audio thread: n samples, however many. `in` may be the same memory as `out.main`. Levels are
  // reached in 10 ms, or at once with a stream's first sample. False, and an alarm in the outputs,
  // when a stream that is rendered offline cannot be completed.
  bool process(const float* const* in, const Outputs& out, std::size_t n, const Levels& levels);

  // Audio thread: the host's block is done. It may have gone through `process` in several parts.
  void end_block();

  // Any thread: whether stems were missing within the last second.
  bool late() const { return late_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t kChunk = 4096;  // samples that go up before the first comes down
  static constexpr std::size_t kPiece = 256;   // samples that are worked on at a time
  static constexpr int kBuses = 1 + kStems;    // main, then the stems

  using Buses = float* [kBuses][kMostChannels];

  bool send(const float* const* in, std::size_t from, std::size_t n);
  bool receive(const Outputs& out, std::size_t offset, Position from, std::size_t n);
  void run(const Buses& buses, Position from, std::size_t n, bool there);
  void fetch(Position from, std::size_t n, bool there);
  void separated(const Buses& buses, std::size_t n);
  void mixed(const Buses& buses, std::size_t n);
  void alarm(const Outputs& out, std::size_t from, std::size_t n);
  template <typename Ready>
  bool wait(Ready ready);

  SharedBuffers& buffers_;
  Counters& counters_;
  const double wait_seconds_;
  const float ramp_;     // samples that gains and cross-fades take
  const int glide_;      // samples that a glide takes
  PlanarRing dry_;          // the mixture of the last while
  Position start_ = 0;   // of the stream
  Position at_ = 0;      // of the next sample to go up
  int delay_ = 0;
  Ramp vocals_, instrumental_, bypass_, wet_;
  // PlanarRing of one run: the mixture, then its stems.
  float source_[1 + kStems][kMostChannels][kPiece];
  float last_[kBuses][kMostChannels] = {};    // heard last
  float jump_[kBuses][kMostChannels] = {};    // what a glide began with
  bool jumps_[kBuses] = {};                   // with the next sample
  int gliding_ = 0;                           // samples for which glides go on
  bool block_dry_ = false, failed_ = false;
  Position last_dry_ = 0;
  std::atomic<bool> late_{false};
  double phase_ = 0.0;                        // of the alarm, seconds
};

}  // namespace stemwire
