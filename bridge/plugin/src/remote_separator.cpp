#include "remote_separator.h"

#include <chrono>
#include <cstdlib>
#include <thread>

#include "vst3/parameters.h"

namespace stemwire {
namespace {

bool same(const Target& a, const Target& b) {
  return a.local == b.local && a.url == b.url && a.token == b.token && a.autostart == b.autostart;
}

// Tests do not want to wait as long as people do.
double wait_seconds() {
  double seconds = 0.0;
  const char* named = std::getenv("STEMWIRE_PLUGIN_WAIT");
  return named != nullptr && number_of(named, &seconds) && seconds > 0 ? seconds
                                                                       : AudioProcessor::kWaitSeconds;
}

}  // namespace

RemoteSeparator::RemoteSeparator() : log_(log_path()), board_(log_) {}

void RemoteSeparator::begin(const Setup& setup, const Target& target, const Levels& levels) {
  stop();
  if (!buffers_ || buffers_->rate != setup.rate || buffers_->channels != setup.channels) {
    close();
    buffers_ = std::make_unique<SharedBuffers>(setup.rate, setup.channels);
    processor_ = std::make_unique<AudioProcessor>(*buffers_, counters_, setup.most_delay, wait_seconds());
  }
  if (!same(target, target_)) network_thread_.reset();
  target_ = target;
  buffers_->delay.store(setup.delay);
  buffers_->preset.store(setup.preset);
  restart(setup.offline, levels);
  if (!network_thread_) network_thread_ = std::make_unique<NetworkThread>(*buffers_, counters_, board_, target_);
  active_.store(true);
}

void RemoteSeparator::end() { stop(); }

void RemoteSeparator::close() {
  stop();
  network_thread_.reset();
  processor_.reset();
  buffers_.reset();
}

// No audio thread is inside from here on.
void RemoteSeparator::stop() {
  active_.store(false);
  while (inside_.load()) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

bool RemoteSeparator::enter() {
  if (inside_.exchange(true)) return false;
  if (active_.load()) return true;  // looked at last: either `stop` sees this, or this sees `stop`
  leave();
  return false;
}

void RemoteSeparator::set_target(const Target& target) {
  if (same(target, target_)) return;
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

void RemoteSeparator::restart(bool offline, const Levels& levels) {
  late_.store(false);
  failed_.store(false);
  buffers_->begin(offline);
  processor_->begin(levels);
}

bool RemoteSeparator::process(const float* const* in, const Outputs& out, std::size_t n,
                     const Levels& levels) {
  if (processor_->process(in, out, n, levels)) return true;
  // Only a render fails, and a render has the time to write.
  if (!failed_.exchange(true)) log_.write("render failed; " + board_.text());
  return false;
}

void RemoteSeparator::end_block() {
  processor_->end_block();
  late_.store(processor_->late(), std::memory_order_relaxed);
}

Code RemoteSeparator::code() const {
  if (failed_.load(std::memory_order_relaxed)) return Code::kRenderFailed;
  if (!active()) return Code::kIdle;
  const Code code = board_.code();
  return code == Code::kSeparating && late_.load(std::memory_order_relaxed) ? Code::kLate : code;
}

}  // namespace stemwire
