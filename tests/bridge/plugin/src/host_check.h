// The test host's input, and a check of its output: each sample must be separated, or the aligned
// mixture, or in transition between them, and late blocks must be counted by the plugin.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace host {

using Position = std::int64_t;

// Interleaved raw float32, repeated endlessly; noise without a file.
class Source {
 public:
  Source(const std::string& path, int channels) : channels_(channels) {
    if (path.empty()) return;
    std::FILE* file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) throw std::runtime_error("cannot read " + path);
    std::fseek(file, 0, SEEK_END);
    samples_.resize(static_cast<std::size_t>(std::ftell(file)) / sizeof(float));
    std::rewind(file);
    const std::size_t read = std::fread(samples_.data(), sizeof(float), samples_.size(), file);
    std::fclose(file);
    frames_ = static_cast<Position>(samples_.size()) / channels_;
    if (read != samples_.size() || frames_ == 0) throw std::runtime_error("nothing in " + path);
  }

  Position frames() const { return frames_; }

  float at(Position position, int channel) const {
    if (frames_ > 0) {
      return samples_[static_cast<std::size_t>((position % frames_) * channels_ + channel)];
    }
    // A stateless hash of the position: random enough.
    auto x = static_cast<std::uint64_t>(position * channels_ + channel) + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return static_cast<float>(static_cast<std::int32_t>(x >> 32)) * 0x1p-33f;
  }

 private:
  const int channels_;
  std::vector<float> samples_;
  Position frames_ = 0;
};

// Checks the main output of an instance with constant faders.
class Check {
 public:
  // The separated output is either `reference`, or `gain` times the source.
  Check(const Source& source, const Source* reference, float gain, int channels, double rate)
      : source_(source), reference_(reference), gain_(gain), channels_(channels), rate_(rate) {}

  // A stream begins with the next sample.
  void begin(Position at) {
    start_ = at;
    fading_until_ = at;
    transition_ = 0;
  }

  // Checks n output samples from input position `at` on, with a latency of `delay`. `counted`:
  // whether the plugin counted the block as late.
  void block(Position at, int n, int delay, const float* const* out, bool counted) {
    bool dry = false, moving = false, unexpected = false;
    for (int i = 0; i < n; ++i) {
      const Position position = at + i - delay;
      const Kind kind = classify(position, out, i);
      dry |= kind == kDry;
      moving |= kind == kMoving;
      transition_ = kind == kMoving ? transition_ + 1 : 0;
      longest_ = std::max(longest_, transition_);
      unexpected |= kind == kMoving && !counted && at + i >= fading_until_;
    }
    if (counted) fading_until_ = at + n + static_cast<Position>(kFadeSeconds * rate_) + 1;
    ++blocks;
    counted_blocks += counted;
    dry_blocks += dry;
    moving_blocks += moving && !dry;
    if (counted && !dry && !moving) fail("counted, but separated", at);
    if (!counted && dry) fail("dry, but not counted", at);
    if (unexpected) fail("neither separated nor dry", at);
    if (transition_ == static_cast<Position>(kMaxSeconds * rate_)) fail("no end of fading", at);
  }

  double longest_ms() const { return 1e3 * static_cast<double>(longest_) / rate_; }

  long blocks = 0, counted_blocks = 0, dry_blocks = 0, moving_blocks = 0, violations = 0;

 private:
  enum Kind { kSeparated, kDry, kMoving };
  // A glide of 5 ms and a cross-fade of 10 ms.
  static constexpr double kFadeSeconds = 0.015, kMaxSeconds = 0.100;

  Kind classify(Position position, const float* const* out, int i) const {
    bool separated = true, dry = true;
    for (int c = 0; c < channels_; ++c) {
      const float mixture = position < start_ ? 0.0f : source_.at(position, c);
      const float wanted = position < start_      ? 0.0f
                           : reference_ != nullptr ? reference_->at(position, c)
                                                   : gain_ * mixture;
      separated = separated && out[c][i] == wanted;
      dry = dry && out[c][i] == mixture;
    }
    return separated ? kSeparated : dry ? kDry : kMoving;
  }

  void fail(const char* what, Position at) {
    if (++violations <= 20) {
      std::fprintf(stderr, "block at %lld: %s\n", static_cast<long long>(at), what);
    }
  }

  const Source& source_;
  const Source* reference_;
  const float gain_;
  const int channels_;
  const double rate_;
  Position start_ = 0, fading_until_ = 0, transition_ = 0, longest_ = 0;
};

}  // namespace host
