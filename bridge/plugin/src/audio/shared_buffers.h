// What the audio thread and the network thread share. Neither ever waits for the other here.
//
// Positions count samples that came in since the plugin was made ready for a rate; they grow for
// ever, also from one activation to the next, so that nothing old can be taken for something new.
//
//   host ──► AudioProcessor (audio thread) ──► MixtureRing ──► NetworkThread (network thread) ──► server
//   host ◄── AudioProcessor ◄── StemTimeline ◄── NetworkThread ◄── server
//
// Who may call what:
//   audio thread    MixtureRing::write, StemTimeline::available/read, the counters, WakePipe::raise
//   network thread  MixtureRing::read/release, StemTimeline::restart/write, WakePipe::wait
//   host's thread that activates (never while audio runs)   SharedBuffers::begin
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "audio/wake_pipe.h"

namespace stemwire {

using Position = std::int64_t;
constexpr int kMostChannels = 2;
constexpr int kStems = 2;  // vocals, instrumental: in this order everywhere
constexpr double kRingSeconds = 4.0;
constexpr float kLargest = 1e6f;  // sample that the protocol takes

// Planar samples in a ring, addressed by position.
class PlanarRing {
 public:
  PlanarRing(int planes, std::size_t size) : size_(size), planes_(planes, std::vector<float>(size)) {}

  std::size_t size() const { return size_; }

  void put(int plane, Position at, const float* from, std::size_t n) {
    const std::size_t first = index(at), head = std::min(n, size_ - first);
    std::copy_n(from, head, planes_[plane].data() + first);
    std::copy_n(from + head, n - head, planes_[plane].data());
  }

  void get(int plane, Position at, float* to, std::size_t n) const {
    const std::size_t first = index(at), head = std::min(n, size_ - first);
    std::copy_n(planes_[plane].data() + first, head, to);
    std::copy_n(planes_[plane].data(), n - head, to + head);
  }

 private:
  std::size_t index(Position at) const { return static_cast<std::size_t>(at) % size_; }

  std::size_t size_;
  std::vector<std::vector<float>> planes_;
};

// Mixture on its way up. Written by the audio thread, read by the network thread, which keeps what
// it might have to send again until it releases it.
class MixtureRing {
 public:
  MixtureRing(int channels, std::size_t size) : channels_(channels), samples_(channels, size) {}

  // Audio thread. Takes n samples of each channel, or none if the network thread keeps too much.
  // Either way `end` grows by n: the network thread sees samples that were not taken as a gap.
  bool write(const float* const* from, std::size_t n) {
    const Position end = end_.load(std::memory_order_relaxed);
    const bool room = has_room(n);
    if (room) {
      for (int c = 0; c < channels_; ++c) samples_.put(c, end, from[c], n);
    } else {
      // One gap at a time is remembered; until the network thread has passed it, it grows.
      lost_.store(end + static_cast<Position>(n), std::memory_order_relaxed);
    }
    end_.store(end + static_cast<Position>(n), std::memory_order_release);
    return room;
  }

  // Audio thread.
  bool has_room(std::size_t n) const {
    return end() + static_cast<Position>(n) - kept() <= static_cast<Position>(samples_.size());
  }

  // Any thread. Position after the newest sample.
  Position end() const { return end_.load(std::memory_order_acquire); }

  // Network thread. PlanarRing before this position may have been lost: no stream may reach over it.
  // Read it after `end`.
  Position whole_from() const { return lost_.load(std::memory_order_relaxed); }

  // Network thread. n samples from `at` on, which must lie between what was released and `end`.
  void read(int channel, Position at, float* to, std::size_t n) const {
    samples_.get(channel, at, to, n);
  }

  // Network thread. Everything before `at` may be overwritten.
  void release(Position at) {
    if (at > kept_.load(std::memory_order_relaxed)) kept_.store(at, std::memory_order_release);
  }

  Position kept() const { return kept_.load(std::memory_order_acquire); }
  std::size_t size() const { return samples_.size(); }

 private:
  const int channels_;
  PlanarRing samples_;
  std::atomic<Position> end_{0}, kept_{0}, lost_{0};
};

// Stems on their way down, at the positions of the mixture that they belong to (the separator's
// latency is already taken off). One unbroken stretch is available at a time.
//
// A slot is written again only `size` samples later. The network thread writes up to the newest
// mixture at most, and the audio thread reads at most delay + block behind it, so they never meet
// as long as that is less than `size`: `SharedBuffers` sees to it.
class StemTimeline {
 public:
  StemTimeline(int channels, std::size_t size)
      : channels_(channels), samples_(kStems * channels, size) {}

  // Network thread. What was there is void; the next stretch begins at `at`.
  void restart(Position at) {
    begin_.store(kNever, std::memory_order_release);
    end_.store(at, std::memory_order_release);
    begin_.store(at, std::memory_order_release);
  }

  // Network thread. The next n samples of every stem; `planes` holds stems times channels pointers.
  void write(const float* const* planes, std::size_t n) {
    const Position end = end_.load(std::memory_order_relaxed);
    for (int p = 0; p < kStems * channels_; ++p) samples_.put(p, end, planes[p], n);
    end_.store(end + static_cast<Position>(n), std::memory_order_release);
  }

  Position end() const { return end_.load(std::memory_order_acquire); }

  // Audio thread. How many samples from `at` on are there, at most n.
  std::size_t available(Position at, std::size_t n) const {
    // In this order: a stretch that begins between the two reads makes the result 0, never wrong.
    const Position end = end_.load(std::memory_order_acquire);
    const Position begin = begin_.load(std::memory_order_acquire);
    if (at < begin || at >= end) return 0;
    return static_cast<std::size_t>(std::min<Position>(end - at, static_cast<Position>(n)));
  }

  // Audio thread. n samples that are available.
  void read(int stem, int channel, Position at, float* to, std::size_t n) const {
    samples_.get(stem * channels_ + channel, at, to, n);
  }

 private:
  static constexpr Position kNever = std::numeric_limits<Position>::max();
  const int channels_;
  PlanarRing samples_;
  std::atomic<Position> begin_{kNever}, end_{0};
};

// Counts since the plugin was loaded; any thread reads.
struct Counters {
  std::atomic<std::uint64_t> blocks{0};        // the host has asked for
  std::atomic<std::uint64_t> dry_blocks{0};    // in which some sample was not separated in time
  std::atomic<std::uint64_t> lost_samples{0};  // that did not even go up, for want of room
  std::atomic<std::uint64_t> bad_samples{0};   // NaN, infinite or absurdly large: taken as silence
  std::atomic<std::uint64_t> reconnects{0};    // connections after the first
  std::atomic<std::uint64_t> resumes{0};       // of them, those that went on at the right sample
};

constexpr std::size_t ring_size(int rate) { return static_cast<std::size_t>(kRingSeconds * rate); }

// All of it, for one rate and number of channels.
struct SharedBuffers {
  // Allocates. Rate in Hz; 1 or 2 channels.
  SharedBuffers(int sample_rate, int channel_count)
      : rate(sample_rate),
        channels(channel_count),
        mixture(channel_count, ring_size(sample_rate)),
        stems(channel_count, ring_size(sample_rate)) {}

  // Host's thread, while no audio runs: a new stream begins with the next sample.
  void begin(bool waits) {
    offline.store(waits, std::memory_order_relaxed);
    start.store(mixture.end(), std::memory_order_release);
    to_network.raise();
  }

  const int rate, channels;
  MixtureRing mixture;
  StemTimeline stems;
  WakePipe to_network;  // something to send, or another stream, or other settings
  WakePipe to_audio;    // offline alone: stems have come, or never will
  // Where the present stream begins. The network thread reads it after `mixture.end()`: then it
  // never takes samples of a new stream for the old one's.
  std::atomic<Position> start{0};
  std::atomic<bool> offline{false};        // the host renders: the audio thread waits for stems
  std::atomic<Position> failed_start{-1};  // offline: `start` of a stream that cannot be completed
  std::atomic<int> preset{0};              // index into kPresets
  std::atomic<int> delay{0};               // samples from in to out: what the host has been told
};

constexpr const char* kPresets[] = {"standard", "low"};

}  // namespace stemwire
