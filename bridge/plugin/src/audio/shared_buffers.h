// What the audio thread and the network thread share. Here neither ever waits for the other.
//
// Positions count input samples since the buffers were made for a sample rate. They only grow, also
// from one activation to the next, so that old samples are never taken for new ones.
//
//   host ──► AudioProcessor (audio thread) ──► MixtureRing ──► NetworkThread ──► server
//   host ◄── AudioProcessor ◄── StemTimeline ◄── NetworkThread ◄── server
//
// Which thread may call what:
//   audio thread    MixtureRing::write, StemTimeline::available/read, the counters,
//                   WakePipe::raise
//   network thread  MixtureRing::read/release, StemTimeline::restart/write, WakePipe::wait
//   host's thread that activates (never while audio runs)   SharedBuffers::begin_stream
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
constexpr int kMaxChannels = 2;
constexpr int kStems = 2;  // vocals, instrumental: in this order everywhere
constexpr double kRingSeconds = 4.0;
constexpr float kMaxSample = 1e6f;  // largest absolute value that the protocol accepts

// Ring of planar samples, addressed by position. Not synchronised.
class PlanarRing {
 public:
  PlanarRing(int planes, std::size_t size)
      : size_(size), planes_(planes, std::vector<float>(size)) {}

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

// Mixture on its way to the server. The audio thread writes it; the network thread reads it, and
// keeps what it may have to send again until it releases it.
class MixtureRing {
 public:
  MixtureRing(int channels, std::size_t size) : channels_(channels), samples_(channels, size) {}

  // Audio thread. Stores n samples of each channel, or none if the network thread keeps too much.
  // Either way `end` grows by n: to the network thread, samples that were not stored are a gap.
  bool write(const float* const* from, std::size_t n) {
    const Position end = end_.load(std::memory_order_relaxed);
    const bool room = has_room(n);
    if (room) {
      for (int c = 0; c < channels_; ++c) samples_.put(c, end, from[c], n);
    } else {
      // Only one gap is remembered; it grows until the network thread has passed it.
      lost_.store(end + static_cast<Position>(n), std::memory_order_relaxed);
    }
    end_.store(end + static_cast<Position>(n), std::memory_order_release);
    return room;
  }

  // Audio thread. Whether `write` would store n samples now.
  bool has_room(std::size_t n) const {
    return end() + static_cast<Position>(n) - kept() <= static_cast<Position>(samples_.size());
  }

  // Any thread. Position after the newest sample.
  Position end() const { return end_.load(std::memory_order_acquire); }

  // Network thread. Samples before this position may have been lost, so no stream may extend
  // across it. Read it after `end`.
  Position intact_from() const { return lost_.load(std::memory_order_relaxed); }

  // Network thread. n samples of a channel from `at` on, all between `kept` and `end`.
  void read(int channel, Position at, float* to, std::size_t n) const {
    samples_.get(channel, at, to, n);
  }

  // Network thread. Lets the audio thread overwrite everything before `at`.
  void release(Position at) {
    if (at > kept_.load(std::memory_order_relaxed)) kept_.store(at, std::memory_order_release);
  }

  // Any thread. Position of the oldest sample that is kept.
  Position kept() const { return kept_.load(std::memory_order_acquire); }
  std::size_t size() const { return samples_.size(); }

 private:
  const int channels_;
  PlanarRing samples_;
  std::atomic<Position> end_{0}, kept_{0}, lost_{0};
};

// Stems from the server, at the positions of the mixture they belong to (the separator's latency is
// already subtracted). One contiguous stretch is available at a time.
//
// A slot is overwritten only `size` samples later. The network thread writes up to the newest
// mixture at most, and the audio thread reads at most delay + block behind it, so they never touch
// the same slot as long as that is less than `size`; `SharedBuffers` makes sure of it.
class StemTimeline {
 public:
  StemTimeline(int channels, std::size_t size)
      : channels_(channels), samples_(kStems * channels, size) {}

  // Network thread. Discards all stems; the next stretch begins at `at`.
  void restart(Position at) {
    begin_.store(kNever, std::memory_order_release);
    end_.store(at, std::memory_order_release);
    begin_.store(at, std::memory_order_release);
  }

  // Network thread. Appends n samples of every stem; `planes` has kStems * channels pointers, stem
  // by stem.
  void write(const float* const* planes, std::size_t n) {
    const Position end = end_.load(std::memory_order_relaxed);
    for (int p = 0; p < kStems * channels_; ++p) samples_.put(p, end, planes[p], n);
    end_.store(end + static_cast<Position>(n), std::memory_order_release);
  }

  // Any thread. Position after the newest stems.
  Position end() const { return end_.load(std::memory_order_acquire); }

  // Audio thread. Number of contiguous samples available from `at` on, at most n.
  std::size_t available(Position at, std::size_t n) const {
    // In this order, a restart between the two loads makes the result 0, never wrong.
    const Position end = end_.load(std::memory_order_acquire);
    const Position begin = begin_.load(std::memory_order_acquire);
    if (at < begin || at >= end) return 0;
    return static_cast<std::size_t>(std::min<Position>(end - at, static_cast<Position>(n)));
  }

  // Audio thread. n samples of a stem's channel; all must be available.
  void read(int stem, int channel, Position at, float* to, std::size_t n) const {
    samples_.get(stem * channels_ + channel, at, to, n);
  }

 private:
  static constexpr Position kNever = std::numeric_limits<Position>::max();
  const int channels_;
  PlanarRing samples_;
  std::atomic<Position> begin_{kNever}, end_{0};
};

// Counts since the plugin was loaded. Any thread reads them.
struct Counters {
  std::atomic<std::uint64_t> blocks{0};        // blocks that the host processed
  std::atomic<std::uint64_t> dry_blocks{0};    // those with a sample that was not separated in time
  std::atomic<std::uint64_t> lost_samples{0};  // input samples dropped because the ring was full
  std::atomic<std::uint64_t> bad_samples{0};   // NaN, infinite or beyond kMaxSample: replaced by 0
  std::atomic<std::uint64_t> reconnects{0};    // connections after the first
  std::atomic<std::uint64_t> resumes{0};       // of them, those that resumed at the exact sample
};

constexpr std::size_t ring_size(int rate) { return static_cast<std::size_t>(kRingSeconds * rate); }

// All shared state, for one sample rate and channel count.
struct SharedBuffers {
  // Not the audio thread: allocates. Rate in Hz; 1 or 2 channels.
  SharedBuffers(int sample_rate, int channel_count)
      : rate(sample_rate),
        channels(channel_count),
        mixture(channel_count, ring_size(sample_rate)),
        stems(channel_count, ring_size(sample_rate)) {}

  // Host's thread, while no audio runs. Begins a new stream with the next sample.
  void begin_stream(bool is_offline) {
    offline.store(is_offline, std::memory_order_relaxed);
    start.store(mixture.end(), std::memory_order_release);
    to_network.raise();
  }

  const int rate, channels;
  MixtureRing mixture;
  StemTimeline stems;
  WakePipe to_network;  // mixture to send, a new stream, or changed settings
  WakePipe to_audio;    // offline only: stems have arrived, or never will
  // Position where the current stream begins. The network thread reads it after `mixture.end()`, so
  // that it never takes samples of a new stream for samples of the old one.
  std::atomic<Position> start{0};
  std::atomic<bool> offline{false};        // rendering: the audio thread waits for stems
  std::atomic<Position> failed_start{-1};  // offline: `start` of a stream that failed
  std::atomic<int> preset{0};              // index into kPresets
  std::atomic<int> delay{0};               // samples from input to output, as reported to the host
};

constexpr const char* kPresets[] = {"standard", "low"};

}  // namespace stemwire
