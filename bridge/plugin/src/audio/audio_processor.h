// Audio-thread side: hands the mixture over, mixes the stems that come back, keeps the delay fixed.
//
// In real time nothing here waits, allocates or locks. The output at input position i belongs to
// the mixture at i - delay. Where stems are late, the output is the mixture itself at the same
// position ("dry"): entered by a glide from the last sample, left by a cross-fade. Offline,
// `process` waits for the stems instead.
#pragma once

#include <cstddef>

#include "audio/shared_buffers.h"

namespace stemwire {

// Linear gains of the output mix. `bypass` is 1 for dry and 0 for separated.
struct Gains {
  float vocals = 0.0f, instrumental = 1.0f, bypass = 0.0f;
};

// Output channels: `main` and the unprocessed stems; null where the host has no such bus.
struct Outputs {
  float* main[kMaxChannels] = {};
  float* stems[kStems][kMaxChannels] = {};
};

// A gain that moves linearly to a target. Audio thread.
class GainRamp {
 public:
  void jump_to(float value) {
    now_ = target_ = value;
    step_ = 0.0f;
  }
  void ramp_to(float value, float samples) {
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
  float value() const { return now_; }
  bool steady() const { return now_ == target_; }
  bool steady(float value) const { return steady() && now_ == value; }

 private:
  float now_ = 0.0f, target_ = 0.0f, step_ = 0.0f;
};

class AudioProcessor {
 public:
  static constexpr double kWaitSeconds = 20.0;

  // Not the audio thread: allocates.
  // max_delay: the largest value that `buffers.delay` will have, in samples.
  // wait_seconds: offline, time without new stems after which the render has failed.
  AudioProcessor(SharedBuffers& buffers, Counters& counters, int max_delay,
                 double wait_seconds = kWaitSeconds);

  // Host's thread, while no audio runs. Forgets the previous stream; call `buffers.begin_stream`
  // first.
  void begin_stream(const Gains& gains);

  // Audio thread. Processes n samples, any number of them. `in` may be the same memory as
  // `out.main`. Gains reach their new values in 10 ms, or at once at a stream's first sample.
  // False, with an alarm tone in the outputs, if an offline stream cannot be completed.
  bool process(const float* const* in, const Outputs& out, std::size_t n, const Gains& gains);

  // Audio thread. Ends the host's block, which may have gone through `process` in several parts.
  void end_block();

  // Any thread. Whether a block was late within the last second.
  bool late() const { return late_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t kChunk = 4096;  // samples sent before the first are received
  static constexpr std::size_t kPiece = 256;   // samples processed at a time
  static constexpr int kBuses = 1 + kStems;    // main, then the stems

  using Buses = float* [kBuses][kMaxChannels];

  // All of these: audio thread.
  bool send_mixture(const float* const* in, std::size_t from, std::size_t n);
  bool receive_stems(const Outputs& out, std::size_t offset, Position from, std::size_t n);
  void mix(const Buses& buses, Position from, std::size_t n, bool available);
  void load_source(Position from, std::size_t n, bool available);
  void mix_steady(const Buses& buses, std::size_t n);
  void mix_moving(const Buses& buses, std::size_t n);
  void write_alarm(const Outputs& out, std::size_t from, std::size_t n);
  template <typename Ready>
  bool wait_until(Ready ready);

  SharedBuffers& buffers_;
  Counters& counters_;
  const double wait_seconds_;
  const float ramp_length_;  // samples of a gain ramp or cross-fade
  const int glide_length_;   // samples of a glide
  PlanarRing dry_;           // the recent mixture, for dry output
  Position start_ = 0;       // of the stream
  Position at_ = 0;          // of the next input sample
  int delay_ = 0;            // samples
  GainRamp vocals_, instrumental_, bypass_, wet_;
  float source_[1 + kStems][kMaxChannels][kPiece];  // the mixture, then its stems
  float last_[kBuses][kMaxChannels] = {};           // newest output sample
  float glide_offset_[kBuses][kMaxChannels] = {};   // distance that the glide began with
  bool glide_pending_[kBuses] = {};                 // a glide begins with the next sample
  int glide_left_ = 0;                              // samples until the glide ends
  bool block_dry_ = false, failed_ = false;
  Position last_dry_ = 0;
  std::atomic<bool> late_{false};
  double phase_ = 0.0;  // of the alarm tone, seconds
};

}  // namespace stemwire
