// Checks that hold for every block whatever the weights, with both faders at 0 dB: the stems sum to
// the mixture, `delay` later, and the main output equals it, separated or dry. A block is dry where
// the vocals are exactly 0; the plugin must have counted it.
#pragma once

#include <cmath>

#include "host_check.h"

namespace host {

class Sums {
 public:
  Sums(const Source& source, int channels, double rate)
      : source_(source), channels_(channels), rate_(rate) {
    for (Position at = 1; at < source.frames(); ++at) {
      for (int c = 0; c < channels; ++c) {
        step_ = std::max(step_, std::fabs(source.at(at, c) - source.at(at - 1, c)));
      }
    }
  }

  void begin(Position at) {
    start_ = at;
    fading_until_ = at;
  }

  // As `Check::block`; `out` holds main, vocals and instrumental, channel by channel.
  void block(Position at, int n, int delay, const float* const (*out)[2], bool counted) {
    bool dry = false, separated = false;
    for (int i = 0; i < n; ++i) {
      const Position position = at + i - delay;
      bool silent = true, sounding = false;
      float off = 0.0f;
      for (int c = 0; c < channels_; ++c) {
        const float mixture = position < start_ ? 0.0f : source_.at(position, c);
        const float vocals = out[1][c][i], instrumental = out[2][c][i];
        off = std::max({off, std::fabs(vocals + instrumental - mixture),
                        std::fabs(out[0][c][i] - mixture)});
        silent = silent && vocals == 0.0f && instrumental == mixture;
        sounding = sounding || std::fabs(mixture) > kQuiet;
      }
      dry |= silent && sounding;
      separated |= !silent;
      const bool fading = counted || at + i < fading_until_;
      // A glide begins with the music's own step there.
      if (off > kClose + (fading ? step_ : 0.0f)) fail("stems do not sum to the mixture", at);
      worst_ = std::max(worst_, fading ? 0.0f : off);
    }
    if (counted) fading_until_ = at + n + static_cast<Position>(kFadeSeconds * rate_) + 1;
    ++blocks;
    counted_blocks += counted;
    separated_blocks += separated && !counted;
    if (!counted && dry) fail("dry, but not counted", at);
  }

  float worst() const { return worst_; }
  long blocks = 0, counted_blocks = 0, separated_blocks = 0, violations = 0;

 private:
  static constexpr float kClose = 1e-5f, kQuiet = 1e-3f;
  static constexpr double kFadeSeconds = 0.015;

  void fail(const char* what, Position at) {
    if (++violations <= 20) {
      std::fprintf(stderr, "block at %lld: %s\n", static_cast<long long>(at), what);
    }
  }

  const Source& source_;
  const int channels_;
  const double rate_;
  float step_ = 0.0f, worst_ = 0.0f;
  Position start_ = 0, fading_until_ = 0;
};

}  // namespace host
