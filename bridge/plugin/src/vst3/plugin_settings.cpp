// The plugin's settings: server, delay and the rest, from parameters, saved state and plugin.json.
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "net/local_server.h"
#include "vst3/plugin.h"

namespace stemwire {

// Applies the parameters and notifies the host if the delay changed. With `state` it also notifies
// the host that all values may have changed, because not every host looks after setting the state.
// An inactive host is not notified of the delay: it asks when it activates, and some would activate
// the plugin only to ask.
void Plugin::apply_settings(bool state) {
  vst3::Handler* handler = nullptr;
  std::int32_t flags = state ? vst3::Handler::kValuesChanged : 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    settings_changed_.store(false);
    separator_.set_target(target());
    if (separator_.active()) separator_.set_preset(parameters_.choice(kPreset));
    const int delay = parameters_.choice(kDelay);
    if (delay_.exchange(delay) != delay) {
      separator_.set_delay(samples_of(delay));
      if (separator_.active()) flags |= vst3::Handler::kLatencyChanged;
    }
    if (flags != 0 && handler_ != nullptr) {
      handler = handler_;
      handler->retain();
    }
  }
  if (handler == nullptr) return;
  handler->restart(flags);
  handler->release();
}

void Plugin::run_settings_thread() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals are the host's
  while (!stopping_.load()) {
    settings_wake_.wait(-1);
    if (stopping_.load() || !settings_changed_.load()) continue;
    guarded([&] {
      apply_settings();
      return vst3::kOk;
    });
  }
}

int Plugin::samples_of(int delay_index) const {
  return static_cast<int>(std::lround(rate_.load() * kDelaysMs[delay_index] / 1000.0));
}

// Fills the slots with the servers of plugin.json.
void Plugin::load_servers() {
  for (const NamedServer& known : load_named_servers()) {
    if (servers_.size() + 1 == kServerSlots) break;
    servers_.push_back(known);
  }
  update_server_names();
}

void Plugin::update_server_names() {
  std::vector<std::string> names;
  for (const auto& server : servers_) names.push_back(server.name);
  parameters_.set_server_names(std::move(names));
}

Target Plugin::target() const {
  Target target;
  target.autostart = parameters_.choice(kAutostart) != 0;
  const auto slot = static_cast<std::size_t>(parameters_.choice(kServer));
  if (slot == 0) return target;
  target.local = false;
  if (slot <= servers_.size()) {
    target.url = servers_[slot - 1].url;
    target.token = servers_[slot - 1].token;
  }
  return target;  // an unused slot has no address, which the network thread reports
}

State Plugin::state() const {
  State state;
  state.vocals = parameters_.plain(kVocals);
  state.instrumental = parameters_.plain(kInstrumental);
  state.bypass = parameters_.choice(kBypass) != 0;
  state.preset = parameters_.choice(kPreset);
  state.delay_ms = kDelaysMs[parameters_.choice(kDelay)];
  state.autostart = parameters_.choice(kAutostart) != 0;
  const auto slot = static_cast<std::size_t>(parameters_.choice(kServer));
  if (slot > 0) {
    state.server = slot <= servers_.size() ? servers_[slot - 1]
                                           : NamedServer{parameters_.text(kServer, 1.0), "", ""};
  }
  return state;
}

// A server known by the same name is used, whatever its address was when the project was saved; an
// unknown one gets a slot of its own.
void Plugin::apply_state(const State& state) {
  std::size_t slot = 0;
  if (!state.server.name.empty()) {
    const auto known = std::find_if(servers_.begin(), servers_.end(), [&](const auto& server) {
      return server.name == state.server.name;
    });
    slot = static_cast<std::size_t>(known - servers_.begin()) + 1;
    if (known == servers_.end()) {
      if (slot == kServerSlots) servers_.pop_back();
      servers_.push_back(state.server);
      slot = servers_.size();
      update_server_names();
    }
  }
  parameters_.set_plain(kVocals, state.vocals);
  parameters_.set_plain(kInstrumental, state.instrumental);
  parameters_.set_plain(kBypass, state.bypass ? 1 : 0);
  parameters_.set_plain(kPreset, state.preset);
  parameters_.set_plain(kServer, static_cast<double>(slot));
  parameters_.set_plain(kAutostart, state.autostart ? 1 : 0);
  const auto* delay = std::find(std::begin(kDelaysMs), std::end(kDelaysMs), state.delay_ms);
  parameters_.set_plain(kDelay, static_cast<double>(delay - std::begin(kDelaysMs)));
}

}  // namespace stemwire
