// Remote separation for one plugin: its shared buffers, audio processor and network thread.
//
// The network thread outlives activations: hosts deactivate and activate to reset, and connecting
// again each time would take long.
#pragma once

#include <atomic>
#include <memory>

#include "audio/audio_processor.h"
#include "audio/shared_buffers.h"
#include "net/network_thread.h"
#include "net/status.h"

namespace stemwire {

// What the host sets before it activates the plugin.
struct StreamSettings {
  int rate = 44100, channels = 2;  // Hz; 1 or 2
  bool offline = false;
  int delay = 0, max_delay = 0;  // samples
  int preset = 0;                // index into kPresets
};

class RemoteSeparator {
 public:
  RemoteSeparator();

  // Not the audio thread; one thread at a time. `deactivate` keeps the network thread, `shut_down`
  // ends it.
  void activate(const StreamSettings& settings, const Target& target, const Gains& gains);
  void deactivate();
  void shut_down();

  // Not the audio thread in real time; one thread at a time. A new target restarts the network
  // thread.
  void set_target(const Target& target);
  void set_delay(int samples);

  // Any thread; the audio thread between `enter` and `leave`.
  void set_preset(int preset);

  // Audio thread, between `enter` and `leave`. Begins a new stream; allocates nothing.
  void begin_stream(bool offline, const Gains& gains);

  // Audio thread. False if the host is just activating or deactivating, which some hosts do while
  // audio runs; nothing may be processed then. After true, `leave` must follow.
  bool enter();
  void leave() { inside_.store(false, std::memory_order_release); }

  // Audio thread, between `enter` and `leave`: see `AudioProcessor`.
  bool process(const float* const* in, const Outputs& out, std::size_t n, const Gains& gains);
  void end_block();

  // Any thread.
  bool active() const { return active_.load(std::memory_order_acquire); }
  Status status() const;
  const Counters& counters() const { return counters_; }

  // Audio thread, between `enter` and `leave`.
  bool offline() const { return buffers_->offline.load(std::memory_order_relaxed); }

  // Not the audio thread in real time.
  void log(const std::string& text) { log_.write(text); }

 private:
  void stop();

  Log log_;
  StatusBoard board_;
  Counters counters_;
  std::unique_ptr<SharedBuffers> buffers_;
  std::unique_ptr<AudioProcessor> processor_;
  std::unique_ptr<NetworkThread> network_thread_;
  Target target_;
  std::atomic<bool> active_{false}, inside_{false}, late_{false}, failed_{false};
};

}  // namespace stemwire
