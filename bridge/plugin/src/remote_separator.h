// SharedBuffers, line and link of one plugin: made, kept, and ended as the host goes on.
//
// The link outlives activations: hosts deactivate and activate to reset, and to be connected anew
// each time would take them long.
#pragma once

#include <atomic>
#include <memory>

#include "audio/audio_processor.h"
#include "audio/shared_buffers.h"
#include "net/network_thread.h"
#include "net/status.h"

namespace stemwire {

// What an activation is for.
struct Setup {
  int rate = 44100, channels = 2;
  bool offline = false;
  int delay = 0, most_delay = 0;  // samples
  int preset = 0;
};

class RemoteSeparator {
 public:
  RemoteSeparator();

  // One thread at a time.
  void begin(const Setup& setup, const Target& target, const Levels& levels);
  void end();    // the link stays
  void close();  // the link ends

  // One thread at a time, audio or not. A new target is a new link.
  void set_target(const Target& target);
  void set_delay(int samples);

  // The audio thread too, between `enter` and `leave`.
  void set_preset(int preset);
  // Audio thread likewise: a new stream, offline or not; allocates nothing.
  void restart(bool offline, const Levels& levels);

  // Audio thread. False if there is nothing to be done now: the host is just activating or
  // deactivating, which some do while audio runs. After true `leave` must follow.
  bool enter();
  void leave() { inside_.store(false, std::memory_order_release); }
  // In between, as `AudioProcessor`'s.
  bool process(const float* const* in, const Outputs& out, std::size_t n, const Levels& levels);
  void end_block();

  // Any thread.
  bool active() const { return active_.load(std::memory_order_acquire); }
  bool offline() const { return buffers_->offline.load(std::memory_order_relaxed); }
  Code code() const;
  const Counters& counters() const { return counters_; }
  void log(const std::string& text) { log_.write(text); }

 private:
  Log log_;
  StatusBoard board_;
  Counters counters_;
  std::unique_ptr<SharedBuffers> buffers_;
  std::unique_ptr<AudioProcessor> processor_;
  std::unique_ptr<NetworkThread> network_thread_;
  Target target_;
  void stop();

  std::atomic<bool> active_{false}, inside_{false}, late_{false}, failed_{false};
};

}  // namespace stemwire
