#include "audio/audio_processor.h"

#include <chrono>
#include <cmath>

namespace stemwire {
namespace {

constexpr double kRampSeconds = 0.010, kGlideSeconds = 0.005, kLateSeconds = 1.0;
constexpr int kWaitPollMs = 20;  // offline: interval of polling, should a wake-up get lost
constexpr double kAlarmHz = 1000.0, kAlarmLevel = 0.25, kAlarmPeriod = 0.5;
constexpr double kTau = 6.283185307179586;
constexpr int kMain = 0, kDry = 0, kVocals = 1, kInstrumental = 2;  // rows of buses and sources

using Clock = std::chrono::steady_clock;

// Linear; exactly `from` at 0 and exactly `to` at 1.
float interpolate(float from, float to, float position) {
  return position == 1.0f ? to : from + position * (to - from);
}

}  // namespace

AudioProcessor::AudioProcessor(SharedBuffers& buffers, Counters& counters, int max_delay,
                               double wait_seconds)
    : buffers_(buffers),
      counters_(counters),
      wait_seconds_(wait_seconds),
      ramp_length_(static_cast<float>(kRampSeconds * buffers.rate)),
      glide_length_(static_cast<int>(kGlideSeconds * buffers.rate)),
      dry_(buffers.channels, static_cast<std::size_t>(max_delay) + kChunk) {}

void AudioProcessor::begin_stream(const Gains& gains) {
  start_ = at_ = buffers_.mixture.end();
  delay_ = buffers_.delay.load();
  vocals_.jump_to(gains.vocals);
  instrumental_.jump_to(gains.instrumental);
  bypass_.jump_to(gains.bypass);
  wet_.jump_to(1.0f);  // the stream starts with the silence before it
  std::fill_n(&last_[0][0], kBuses * kMaxChannels, 0.0f);
  std::fill_n(glide_pending_, kBuses, false);
  block_dry_ = failed_ = false;
  glide_left_ = 0;
  phase_ = 0.0;
  last_dry_ = start_ - static_cast<Position>(kLateSeconds * buffers_.rate);
  late_.store(false);
}

bool AudioProcessor::process(const float* const* in, const Outputs& out, std::size_t n,
                             const Gains& gains) {
  const bool first = at_ == start_;
  const auto set = [&](GainRamp& ramp, float value) {
    first ? ramp.jump_to(value) : ramp.ramp_to(value, ramp_length_);
  };
  set(vocals_, gains.vocals);
  set(instrumental_, gains.instrumental);
  set(bypass_, gains.bypass);
  if (const int delay = buffers_.delay.load(std::memory_order_relaxed); delay != delay_) {
    delay_ = delay;
    std::fill_n(glide_pending_, kBuses, !first);
  }
  // A whole chunk is sent before any of it is written: outputs may overwrite the inputs.
  std::size_t done = 0, sent = 0;
  while (done < n && !failed_) {
    if (done == sent) {
      const std::size_t chunk = std::min(n - sent, kChunk);
      failed_ = !send_mixture(in, sent, chunk);
      sent += chunk;
    } else {
      const std::size_t piece = std::min(sent - done, kPiece);
      const Position from = at_ - static_cast<Position>(sent - done) - delay_;
      failed_ = !receive_stems(out, done, from, piece);
      if (!failed_) done += piece;
    }
  }
  if (failed_) write_alarm(out, done, n - done);
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

// Sends samples from..from + n of the host's block, and keeps them for dry output. Offline, false
// if no room becomes free in time.
bool AudioProcessor::send_mixture(const float* const* in, std::size_t from, std::size_t n) {
  const bool waits = buffers_.offline.load(std::memory_order_relaxed);
  for (std::size_t done = 0; done < n;) {
    const std::size_t piece = std::min(n - done, kPiece);
    const float* clean[kMaxChannels];
    std::size_t bad = 0;
    for (int c = 0; c < buffers_.channels; ++c) {
      float* to = source_[kDry][c];
      for (std::size_t i = 0; i < piece; ++i) {
        const float x = in[c][from + done + i];
        const bool valid = std::fabs(x) <= kMaxSample;  // false for NaN
        to[i] = valid ? x : 0.0f;
        bad += !valid;
      }
      dry_.put(c, at_, to, piece);
      clean[c] = to;
    }
    if (bad > 0) counters_.bad_samples.fetch_add(bad, std::memory_order_relaxed);
    if (waits && !wait_until([&] { return buffers_.mixture.has_room(piece); })) return false;
    if (!buffers_.mixture.write(clean, piece)) {
      counters_.lost_samples.fetch_add(piece, std::memory_order_relaxed);
    }
    at_ += static_cast<Position>(piece);
    done += piece;
  }
  buffers_.to_network.raise();
  return true;
}

// Writes the output for the mixture's n samples from `from` on, at `offset` of the outputs.
// Offline, false if stems do not arrive in time.
bool AudioProcessor::receive_stems(const Outputs& out, std::size_t offset, Position from,
                                   std::size_t n) {
  Buses buses = {};
  bool stems_used = !bypass_.steady(1.0f);
  for (int c = 0; c < buffers_.channels; ++c) {
    if (out.main[c] != nullptr) buses[kMain][c] = out.main[c] + offset;
    for (int stem = 0; stem < kStems; ++stem) {
      if (out.stems[stem][c] == nullptr) continue;
      buses[1 + stem][c] = out.stems[stem][c] + offset;
      stems_used = true;
    }
  }
  const bool waits = buffers_.offline.load(std::memory_order_relaxed);
  const Position last = from + static_cast<Position>(n) - 1;
  const auto arrived = [&] { return last < start_ || buffers_.stems.available(last, 1) == 1; };
  if (waits && stems_used && !wait_until(arrived)) return false;
  while (n > 0) {
    std::size_t run_length = n;
    bool available = true;
    if (from < start_) {  // silence before the beginning
      run_length = static_cast<std::size_t>(std::min<Position>(start_ - from, n));
    } else if (const std::size_t come_in = buffers_.stems.available(from, n); come_in > 0) {
      run_length = come_in;
    } else {
      available = false;
      block_dry_ |= stems_used || !waits;
    }
    mix(buses, from, run_length, available);
    for (auto& bus : buses) {
      for (float*& channel : bus) channel = channel == nullptr ? nullptr : channel + run_length;
    }
    from += static_cast<Position>(run_length);
    n -= run_length;
  }
  return true;
}

// Mixes n samples whose stems are either all available or all missing.
void AudioProcessor::mix(const Buses& buses, Position from, std::size_t n, bool available) {
  load_source(from, n, available);
  if (available) {
    wet_.ramp_to(1.0f, ramp_length_);
  } else {
    if (wet_.value() > 0.0f) {
      std::fill_n(glide_pending_, kBuses, true);
      if (bypass_.steady(1.0f)) glide_pending_[kMain] = false;  // dry already
    }
    wet_.jump_to(0.0f);
  }
  const bool plain = wet_.steady(1.0f) && bypass_.steady(0.0f) && vocals_.steady() &&
                     instrumental_.steady() && glide_left_ == 0 && !glide_pending_[kMain];
  if (plain) {
    mix_steady(buses, n);
  } else {
    mix_moving(buses, n);
  }
}

// Loads the mixture, and its stems where available, into `source_`.
void AudioProcessor::load_source(Position from, std::size_t n, bool available) {
  for (int c = 0; c < buffers_.channels; ++c) {
    if (from < start_) {
      for (auto& row : source_) std::fill_n(row[c], n, 0.0f);
      continue;
    }
    dry_.get(c, from, source_[kDry][c], n);
    for (int stem = 0; stem < kStems; ++stem) {
      // Where stems are missing, the instrumental is the mixture: both still sum to the mixture.
      if (available) buffers_.stems.read(stem, c, from, source_[1 + stem][c], n);
      else if (1 + stem == kInstrumental) std::copy_n(source_[kDry][c], n, source_[1 + stem][c]);
      else std::fill_n(source_[1 + stem][c], n, 0.0f);
    }
  }
}

// Constant gains, the usual case. Gains of 0 and 1 copy the server's samples bit for bit.
void AudioProcessor::mix_steady(const Buses& buses, std::size_t n) {
  const float v = vocals_.value(), i = instrumental_.value();
  for (int c = 0; c < buffers_.channels; ++c) {
    const float *vocals = source_[kVocals][c], *instrumental = source_[kInstrumental][c];
    float main[kPiece];
    if (v == 0.0f && i == 1.0f) std::copy_n(instrumental, n, main);
    else if (v == 1.0f && i == 0.0f) std::copy_n(vocals, n, main);
    else for (std::size_t k = 0; k < n; ++k) main[k] = v * vocals[k] + i * instrumental[k];
    const float* rows[kBuses] = {main, vocals, instrumental};
    for (int bus = 0; bus < kBuses; ++bus) {
      last_[bus][c] = rows[bus][n - 1];
      if (buses[bus][c] != nullptr) std::copy_n(rows[bus], n, buses[bus][c]);
    }
  }
}

// Moving gains, cross-fades and glides, sample by sample.
void AudioProcessor::mix_moving(const Buses& buses, std::size_t n) {
  for (std::size_t k = 0; k < n; ++k) {
    const float v = vocals_.next(), i = instrumental_.next();
    const float wet = wet_.next(), bypass = bypass_.next();
    const bool glide = std::any_of(glide_pending_, glide_pending_ + kBuses,
                                   [](bool pending) { return pending; });
    if (glide) glide_left_ = glide_length_;
    const float fading = static_cast<float>(glide_left_) / static_cast<float>(glide_length_);
    for (int c = 0; c < buffers_.channels; ++c) {
      const float dry = source_[kDry][c][k];
      const float vocals = source_[kVocals][c][k], instrumental = source_[kInstrumental][c][k];
      const float separated = v * vocals + i * instrumental;
      const float rows[kBuses] = {
          interpolate(interpolate(dry, separated, wet), dry, bypass),
          wet * vocals,
          interpolate(dry, instrumental, wet),
      };
      for (int bus = 0; bus < kBuses; ++bus) {
        if (glide) glide_offset_[bus][c] = glide_pending_[bus] ? last_[bus][c] - rows[bus] : 0.0f;
        last_[bus][c] = rows[bus] + (glide_left_ > 0 ? fading * glide_offset_[bus][c] : 0.0f);
        if (buses[bus][c] != nullptr) buses[bus][c][k] = last_[bus][c];
      }
    }
    if (glide) std::fill_n(glide_pending_, kBuses, false);
    if (glide_left_ > 0) --glide_left_;
  }
}

// An alarm tone that nobody mistakes for music.
void AudioProcessor::write_alarm(const Outputs& out, std::size_t from, std::size_t n) {
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

// Offline: waits until `ready`, as long as stems keep arriving.
template <typename Ready>
bool AudioProcessor::wait_until(Ready ready) {
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
    buffers_.to_audio.wait(kWaitPollMs);
  }
  return true;
}

}  // namespace stemwire
