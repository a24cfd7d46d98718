#include "audio/audio_processor.h"

#include <chrono>
#include <cmath>

namespace stemwire {
namespace {

constexpr double kRampSeconds = 0.010, kGlideSeconds = 0.005, kLateSeconds = 1.0;
constexpr int kLookMs = 20;  // between two looks, should a signal get lost
constexpr double kAlarmHz = 1000.0, kAlarmLevel = 0.25, kAlarmPeriod = 0.5;
constexpr double kTau = 6.283185307179586;
constexpr int kMain = 0, kDry = 0, kVocals = 1, kInstrumental = 2;  // rows of buses and sources

using Clock = std::chrono::steady_clock;

// Exactly `from` at 0 and exactly `to` at 1.
float between(float from, float to, float where) {
  return where == 1.0f ? to : from + where * (to - from);
}

}  // namespace

AudioProcessor::AudioProcessor(SharedBuffers& buffers, Counters& counters, int most_delay, double wait_seconds)
    : buffers_(buffers),
      counters_(counters),
      wait_seconds_(wait_seconds),
      ramp_(static_cast<float>(kRampSeconds * buffers.rate)),
      glide_(static_cast<int>(kGlideSeconds * buffers.rate)),
      dry_(buffers.channels, static_cast<std::size_t>(most_delay) + kChunk) {}

void AudioProcessor::begin(const Levels& levels) {
  start_ = at_ = buffers_.mixture.end();
  delay_ = buffers_.delay.load();
  vocals_.snap(levels.vocals);
  instrumental_.snap(levels.instrumental);
  bypass_.snap(levels.bypass);
  wet_.snap(1.0f);  // what comes first is the silence before the beginning
  std::fill_n(&last_[0][0], kBuses * kMostChannels, 0.0f);
  std::fill_n(jumps_, kBuses, false);
  block_dry_ = failed_ = false;
  gliding_ = 0;
  phase_ = 0.0;
  last_dry_ = start_ - static_cast<Position>(kLateSeconds * buffers_.rate);
  late_.store(false);
}

bool AudioProcessor::process(const float* const* in, const Outputs& out, std::size_t n,
                   const Levels& levels) {
  const bool first = at_ == start_;
  const auto set = [&](Ramp& ramp, float value) {
    first ? ramp.snap(value) : ramp.aim(value, ramp_);
  };
  set(vocals_, levels.vocals);
  set(instrumental_, levels.instrumental);
  set(bypass_, levels.bypass);
  if (const int delay = buffers_.delay.load(std::memory_order_relaxed); delay != delay_) {
    delay_ = delay;
    std::fill_n(jumps_, kBuses, !first);
  }
  // All of a chunk goes up before any of it comes down: outputs may lie where inputs lay.
  std::size_t done = 0, sent = 0;
  while (done < n && !failed_) {
    if (done == sent) {
      const std::size_t chunk = std::min(n - sent, kChunk);
      failed_ = !send(in, sent, chunk);
      sent += chunk;
    } else {
      const std::size_t piece = std::min(sent - done, kPiece);
      const Position from = at_ - static_cast<Position>(sent - done) - delay_;
      failed_ = !receive(out, done, from, piece);
      if (!failed_) done += piece;
    }
  }
  if (failed_) alarm(out, done, n - done);
  return !failed_;
}

void AudioProcessor::end_block() {
  counters_.blocks.fetch_add(1, std::memory_order_relaxed);
  if (block_dry_) {
    counters_.dry_blocks.fetch_add(1, std::memory_order_relaxed);
    last_dry_ = at_;
    block_dry_ = false;
  }
  late_.store(at_ - last_dry_ < static_cast<Position>(kLateSeconds * buffers_.rate),
              std::memory_order_relaxed);
}

// PlanarRing from..from + n of the host's block go up, and are kept to be heard dry. False offline, if
// there is no room for them in time.
bool AudioProcessor::send(const float* const* in, std::size_t from, std::size_t n) {
  const bool waits = buffers_.offline.load(std::memory_order_relaxed);
  for (std::size_t done = 0; done < n;) {
    const std::size_t piece = std::min(n - done, kPiece);
    const float* clean[kMostChannels];
    std::size_t bad = 0;
    for (int c = 0; c < buffers_.channels; ++c) {
      float* to = source_[kDry][c];
      for (std::size_t i = 0; i < piece; ++i) {
        const float x = in[c][from + done + i];
        const bool fine = std::fabs(x) <= kLargest;  // no NaN is
        to[i] = fine ? x : 0.0f;
        bad += !fine;
      }
      dry_.put(c, at_, to, piece);
      clean[c] = to;
    }
    if (bad > 0) counters_.bad_samples.fetch_add(bad, std::memory_order_relaxed);
    if (waits && !wait([&] { return buffers_.mixture.has_room(piece); })) return false;
    if (!buffers_.mixture.write(clean, piece)) {
      counters_.lost_samples.fetch_add(piece, std::memory_order_relaxed);
    }
    at_ += static_cast<Position>(piece);
    done += piece;
  }
  buffers_.to_network.raise();
  return true;
}

// What is to be heard of the mixture's n samples from `from` on goes to `offset` of the outputs.
// False offline, if it does not come in time.
bool AudioProcessor::receive(const Outputs& out, std::size_t offset, Position from, std::size_t n) {
  Buses buses = {};
  bool wanted = !bypass_.steady(1.0f);
  for (int c = 0; c < buffers_.channels; ++c) {
    if (out.main[c] != nullptr) buses[kMain][c] = out.main[c] + offset;
    for (int stem = 0; stem < kStems; ++stem) {
      if (out.stems[stem][c] == nullptr) continue;
      buses[1 + stem][c] = out.stems[stem][c] + offset;
      wanted = true;
    }
  }
  const bool waits = buffers_.offline.load(std::memory_order_relaxed);
  const Position last = from + static_cast<Position>(n) - 1;
  const auto come = [&] { return last < start_ || buffers_.stems.available(last, 1) == 1; };
  if (waits && wanted && !wait(come)) return false;
  while (n > 0) {
    std::size_t run_length = n;
    bool there = true;
    if (from < start_) {  // silence before the beginning
      run_length = static_cast<std::size_t>(std::min<Position>(start_ - from, n));
    } else if (const std::size_t come_in = buffers_.stems.available(from, n); come_in > 0) {
      run_length = come_in;
    } else {
      there = false;
      block_dry_ |= wanted || !waits;
    }
    run(buses, from, run_length, there);
    for (auto& bus : buses) {
      for (float*& channel : bus) channel = channel == nullptr ? nullptr : channel + run_length;
    }
    from += static_cast<Position>(run_length);
    n -= run_length;
  }
  return true;
}

// n samples, of all of which the stems are there, or of none.
void AudioProcessor::run(const Buses& buses, Position from, std::size_t n, bool there) {
  fetch(from, n, there);
  if (there) {
    wet_.aim(1.0f, ramp_);
  } else {
    if (wet_.now() > 0.0f) {
      std::fill_n(jumps_, kBuses, true);
      if (bypass_.steady(1.0f)) jumps_[kMain] = false;  // dry already
    }
    wet_.snap(0.0f);
  }
  const bool plain = wet_.steady(1.0f) && bypass_.steady(0.0f) && vocals_.steady() &&
                     instrumental_.steady() && gliding_ == 0 && !jumps_[kMain];
  if (plain) {
    separated(buses, n);
  } else {
    mixed(buses, n);
  }
}

// Brings the mixture, and its stems where they are there, into `source_`.
void AudioProcessor::fetch(Position from, std::size_t n, bool there) {
  for (int c = 0; c < buffers_.channels; ++c) {
    if (from < start_) {
      for (auto& row : source_) std::fill_n(row[c], n, 0.0f);
      continue;
    }
    dry_.get(c, from, source_[kDry][c], n);
    for (int stem = 0; stem < kStems; ++stem) {
      // Where they are not there, all of the mixture counts as instrumental: both still sum to it.
      if (there) buffers_.stems.read(stem, c, from, source_[1 + stem][c], n);
      else if (1 + stem == kInstrumental) std::copy_n(source_[kDry][c], n, source_[1 + stem][c]);
      else std::fill_n(source_[1 + stem][c], n, 0.0f);
    }
  }
}

// The usual case, without arithmetic where gains are 0 or 1: then the samples are the server's.
void AudioProcessor::separated(const Buses& buses, std::size_t n) {
  const float v = vocals_.now(), i = instrumental_.now();
  for (int c = 0; c < buffers_.channels; ++c) {
    const float *vocals = source_[kVocals][c], *instrumental = source_[kInstrumental][c];
    float heard[kPiece];
    if (v == 0.0f && i == 1.0f) std::copy_n(instrumental, n, heard);
    else if (v == 1.0f && i == 0.0f) std::copy_n(vocals, n, heard);
    else for (std::size_t k = 0; k < n; ++k) heard[k] = v * vocals[k] + i * instrumental[k];
    const float* rows[kBuses] = {heard, vocals, instrumental};
    for (int bus = 0; bus < kBuses; ++bus) {
      last_[bus][c] = rows[bus][n - 1];
      if (buses[bus][c] != nullptr) std::copy_n(rows[bus], n, buses[bus][c]);
    }
  }
}

// Gains that move, cross-fades and glides: sample by sample.
void AudioProcessor::mixed(const Buses& buses, std::size_t n) {
  for (std::size_t k = 0; k < n; ++k) {
    const float v = vocals_.next(), i = instrumental_.next();
    const float wet = wet_.next(), bypass = bypass_.next();
    const bool jump = std::find(jumps_, jumps_ + kBuses, true) != jumps_ + kBuses;
    if (jump) gliding_ = glide_;
    const float fading = static_cast<float>(gliding_) / static_cast<float>(glide_);
    for (int c = 0; c < buffers_.channels; ++c) {
      const float dry = source_[kDry][c][k];
      const float vocals = source_[kVocals][c][k], instrumental = source_[kInstrumental][c][k];
      const float separated = v * vocals + i * instrumental;
      const float rows[kBuses] = {
          between(between(dry, separated, wet), dry, bypass),
          wet * vocals,
          between(dry, instrumental, wet),
      };
      for (int bus = 0; bus < kBuses; ++bus) {
        if (jump) jump_[bus][c] = jumps_[bus] ? last_[bus][c] - rows[bus] : 0.0f;
        last_[bus][c] = rows[bus] + (gliding_ > 0 ? fading * jump_[bus][c] : 0.0f);
        if (buses[bus][c] != nullptr) buses[bus][c][k] = last_[bus][c];
      }
    }
    if (jump) std::fill_n(jumps_, kBuses, false);
    if (gliding_ > 0) --gliding_;
  }
}

// What nobody takes for music.
void AudioProcessor::alarm(const Outputs& out, std::size_t from, std::size_t n) {
  for (std::size_t k = from; k < from + n; ++k) {
    phase_ = std::fmod(phase_ + 1.0 / buffers_.rate, kAlarmPeriod);
    const double level = phase_ < kAlarmPeriod / 2 ? kAlarmLevel : 0.0;
    const float x = static_cast<float>(level * std::sin(kTau * kAlarmHz * phase_));
    for (int c = 0; c < buffers_.channels; ++c) {
      if (out.main[c] != nullptr) out.main[c][k] = x;
      for (const auto& stem : out.stems) {
        if (stem[c] != nullptr) stem[c][k] = x;
      }
    }
  }
}

// Offline: until `ready`, as long as stems come now and then.
template <typename Ready>
bool AudioProcessor::wait(Ready ready) {
  auto began = Clock::now();
  Position newest = buffers_.stems.end();
  while (!ready()) {
    if (buffers_.failed_start.load(std::memory_order_acquire) == start_) return false;
    const auto now = Clock::now();
    if (const Position end = buffers_.stems.end(); end != newest) {
      newest = end;
      began = now;
    }
    if (std::chrono::duration<double>(now - began).count() > wait_seconds_) return false;
    buffers_.to_network.raise();
    buffers_.to_audio.wait(kLookMs);
  }
  return true;
}

}  // namespace stemwire
