// The plugin's settings: what its parameters, its saved state and the host's files make of a server,
// a delay and the rest.
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "net/local_server.h"
#include "vst3/plugin.h"

namespace stemwire {

// Makes what parameters say so, and tells the host if its delay is another now; with `state` that
// all of them may be, for not all hosts look when they have set it. An inactive host is not told
// of the delay: it asks when it activates, and some would activate to ask.
void Plugin::settle(bool state) {
  vst3::Handler* told = nullptr;
  std::int32_t flags = state ? vst3::Handler::kValuesChanged : 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    unsettled_.store(false);
    separator_.set_target(target());
    if (separator_.active()) separator_.set_preset(parameters_.choice(kPreset));
    const int delay = parameters_.choice(kDelay);
    if (delay_.exchange(delay) != delay) {
      separator_.set_delay(samples_of(delay));
      if (separator_.active()) flags |= vst3::Handler::kLatencyChanged;
    }
    if (flags != 0 && handler_ != nullptr) {
      told = handler_;
      told->retain();
    }
  }
  if (told == nullptr) return;
  told->restart(flags);
  told->release();
}

void Plugin::settle_when_asked() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);  // they are the host's
  while (!ending_.load()) {
    to_settler_.wait(-1);
    if (ending_.load() || !unsettled_.load()) continue;
    guarded([&] {
      settle();
      return vst3::kOk;
    });
  }
}

int Plugin::samples_of(int delay_index) const {
  return static_cast<int>(std::lround(rate_.load() * kDelaysMs[delay_index] / 1000.0));
}

// Servers that this computer knows fill the slots.
void Plugin::learn_servers() {
  for (const NamedServer& known : named_servers()) {
    if (servers_.size() + 1 == kServerSlots) break;
    servers_.push_back(known);
  }
  name_servers();
}

void Plugin::name_servers() {
  std::vector<std::string> names;
  for (const auto& server : servers_) names.push_back(server.name);
  parameters_.name_servers(std::move(names));
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
  return target;  // an unused slot has no address, and the link will say so
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

// A server that this computer knows by that name is the one meant, whatever its address was when
// the project was saved; another gets a slot of its own.
void Plugin::apply(const State& state) {
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
      name_servers();
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
