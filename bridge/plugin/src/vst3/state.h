// The plugin's state as saved in a project: a short JSON text.
//
//   {"stemwire": 1, "vocals": -60, "instrumental": 0, "bypass": false, "preset": "standard",
//    "delay": 60, "server": {"name": "studio", "url": "ws://10.0.0.5:8765", "token": "..."},
//    "autostart": true}
//
// Without `server` it is this computer. Levels are in dB, -60 is off. Missing fields have their
// default and unknown ones are ignored, so that older and newer versions read each other's states.
#pragma once

#include <string>

#include "net/local_server.h"
#include "vst3/abi.h"

namespace stemwire {

struct State {
  double vocals = -60.0, instrumental = 0.0;  // dB
  bool bypass = false;
  int preset = 0;      // index into kPresets
  int delay_ms = 60;   // one of kDelaysMs
  NamedServer server;  // without a name: this computer
  bool autostart = true;
};

std::string write_state(const State& state);

// False for a damaged state, with the reason in `problem` and `state` unchanged.
bool read_state(const std::string& text, State& state, std::string& problem);

// Read or write a host's stream to the end, piece by piece. False if it fails or is too long.
bool read_all(vst3::Stream& stream, std::string& text);
bool write_all(vst3::Stream& stream, const std::string& text);

}  // namespace stemwire
