// What a project keeps of the plugin: a short JSON text.
//
//   {"stemwire": 1, "vocals": -60, "instrumental": 0, "bypass": false, "preset": "standard",
//    "delay": 60, "server": {"name": "studio", "url": "ws://10.0.0.5:8765", "token": "..."},
//    "autostart": true}
//
// Without `server` it is this computer. Levels are dB, -60 is off. What is not there has its
// default, what is not known is ignored: older and newer versions read each other's.
#pragma once

#include <string>

#include "net/local_server.h"
#include "vst3/abi.h"

namespace stemwire {

struct State {
  double vocals = -60.0, instrumental = 0.0;  // dB
  bool bypass = false;
  int preset = 0;     // index into kPresets
  int delay_ms = 60;  // one of kDelaysMs
  NamedServer server;  // without a name: this computer
  bool autostart = true;
};

std::string write_state(const State& state);

// False, with the reason in `problem` and `state` as it was, for what is damaged.
bool read_state(const std::string& text, State& state, std::string& problem);

// All of a host's stream, which may give it in pieces; false if it fails or does not end in time.
bool read_all(vst3::Stream& stream, std::string& text);
bool write_all(vst3::Stream& stream, const std::string& text);

}  // namespace stemwire
