#include "engine.h"

#include <chrono>
#include <cstdlib>
#include <thread>

#include "parameters.h"

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
                                                                       : Line::kWaitSeconds;
}

}  // namespace

Engine::Engine() : log_(log_path()), board_(log_) {}

void Engine::begin(const Setup& setup, const Target& target, const Levels& levels) {
  stop();
  if (!exchange_ || exchange_->rate != setup.rate || exchange_->channels != setup.channels) {
    close();
    exchange_ = std::make_unique<Exchange>(setup.rate, setup.channels);
    line_ = std::make_unique<Line>(*exchange_, counters_, setup.most_delay, wait_seconds());
  }
  if (!same(target, target_)) link_.reset();
  target_ = target;
  exchange_->delay.store(setup.delay);
  exchange_->preset.store(setup.preset);
  restart(setup.offline, levels);
  if (!link_) link_ = std::make_unique<Link>(*exchange_, counters_, board_, target_);
  active_.store(true);
}

void Engine::end() { stop(); }

void Engine::close() {
  stop();
  link_.reset();
  line_.reset();
  exchange_.reset();
}

// No audio thread is inside from here on.
void Engine::stop() {
  active_.store(false);
  while (inside_.load()) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

bool Engine::enter() {
  if (inside_.exchange(true)) return false;
  if (active_.load()) return true;  // looked at last: either `stop` sees this, or this sees `stop`
  leave();
  return false;
}

void Engine::set_target(const Target& target) {
  if (same(target, target_)) return;
  target_ = target;
  if (!link_) return;
  link_.reset();
  link_ = std::make_unique<Link>(*exchange_, counters_, board_, target_);
}

void Engine::set_delay(int samples) {
  if (!exchange_ || exchange_->delay.load() == samples) return;
  exchange_->delay.store(samples);
  exchange_->to_network.raise();
}

void Engine::set_preset(int preset) {
  if (exchange_->preset.load(std::memory_order_relaxed) == preset) return;
  exchange_->preset.store(preset, std::memory_order_relaxed);
  exchange_->to_network.raise();
}

void Engine::restart(bool offline, const Levels& levels) {
  late_.store(false);
  failed_.store(false);
  exchange_->begin(offline);
  line_->begin(levels);
}

bool Engine::process(const float* const* in, const Outputs& out, std::size_t n,
                     const Levels& levels) {
  if (line_->process(in, out, n, levels)) return true;
  // Only a render fails, and a render has the time to write.
  if (!failed_.exchange(true)) log_.line("render failed; " + board_.text());
  return false;
}

void Engine::end_block() {
  line_->end_block();
  late_.store(line_->late(), std::memory_order_relaxed);
}

Code Engine::code() const {
  if (failed_.load(std::memory_order_relaxed)) return Code::kRenderFailed;
  if (!active()) return Code::kIdle;
  const Code code = board_.code();
  return code == Code::kSeparating && late_.load(std::memory_order_relaxed) ? Code::kLate : code;
}

}  // namespace stemwire
