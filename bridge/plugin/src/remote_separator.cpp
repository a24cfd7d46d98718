#include "remote_separator.h"

#include <chrono>
#include <cstdlib>
#include <thread>

#include "vst3/parameters.h"

namespace stemwire {
namespace {

bool same_target(const Target& a, const Target& b) {
  return a.local == b.local && a.url == b.url && a.token == b.token && a.autostart == b.autostart;
}

// The environment can shorten the wait, for tests.
double wait_seconds() {
  double seconds = 0.0;
  const char* text = std::getenv("STEMWIRE_PLUGIN_WAIT");
  const bool valid = text != nullptr && number_of(text, &seconds) && seconds > 0;
  return valid ? seconds : AudioProcessor::kWaitSeconds;
}

}  // namespace

RemoteSeparator::RemoteSeparator() : log_(log_path()), board_(log_) {}

void RemoteSeparator::activate(const StreamSettings& settings, const Target& target,
                               const Gains& gains) {
  stop();
  if (!buffers_ || buffers_->rate != settings.rate || buffers_->channels != settings.channels) {
    shut_down();
    buffers_ = std::make_unique<SharedBuffers>(settings.rate, settings.channels);
    processor_ = std::make_unique<AudioProcessor>(*buffers_, counters_, settings.max_delay,
                                                  wait_seconds());
  }
  if (!same_target(target, target_)) network_thread_.reset();
  target_ = target;
  buffers_->delay.store(settings.delay);
  buffers_->preset.store(settings.preset);
  begin_stream(settings.offline, gains);
  if (!network_thread_) {
    network_thread_ = std::make_unique<NetworkThread>(*buffers_, counters_, board_, target_);
  }
  active_.store(true);
}

void RemoteSeparator::deactivate() { stop(); }

void RemoteSeparator::shut_down() {
  stop();
  network_thread_.reset();
  processor_.reset();
  buffers_.reset();
}

// After it, no audio thread is between `enter` and `leave`.
void RemoteSeparator::stop() {
  active_.store(false);
  while (inside_.load()) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

bool RemoteSeparator::enter() {
  if (inside_.exchange(true)) return false;
  if (active_.load()) return true;  // read last: either `stop` sees `inside_`, or this sees `stop`
  leave();
  return false;
}

void RemoteSeparator::set_target(const Target& target) {
  if (same_target(target, target_)) return;
  target_ = target;
  if (!network_thread_) return;
  network_thread_.reset();
  network_thread_ = std::make_unique<NetworkThread>(*buffers_, counters_, board_, target_);
}

void RemoteSeparator::set_delay(int samples) {
  if (!buffers_ || buffers_->delay.load() == samples) return;
  buffers_->delay.store(samples);
  buffers_->to_network.raise();
}

void RemoteSeparator::set_preset(int preset) {
  if (buffers_->preset.load(std::memory_order_relaxed) == preset) return;
  buffers_->preset.store(preset, std::memory_order_relaxed);
  buffers_->to_network.raise();
}

void RemoteSeparator::begin_stream(bool offline, const Gains& gains) {
  late_.store(false);
  failed_.store(false);
  buffers_->begin_stream(offline);
  processor_->begin_stream(gains);
}

bool RemoteSeparator::process(const float* const* in, const Outputs& out, std::size_t n,
                              const Gains& gains) {
  if (processor_->process(in, out, n, gains)) return true;
  // Only renders fail, and a render may block on a file.
  if (!failed_.exchange(true)) log_.write("render failed; " + board_.text());
  return false;
}

void RemoteSeparator::end_block() {
  processor_->end_block();
  late_.store(processor_->late(), std::memory_order_relaxed);
}

Status RemoteSeparator::status() const {
  if (failed_.load(std::memory_order_relaxed)) return Status::kRenderFailed;
  if (!active()) return Status::kIdle;
  const Status status = board_.status();
  const bool late = late_.load(std::memory_order_relaxed);
  return status == Status::kSeparating && late ? Status::kLate : status;
}

}  // namespace stemwire
