// Network-thread side: sends the mixture to a server and stores the stems that come back.
//
// One thread for each active plugin. It connects, says hello, sends the mixture as it arrives and
// stores stems in the timeline. If a connection drops, the session resumes at the exact sample; if
// that is impossible, a new session begins. Its state is shown on the status board. In real time
// the audio thread never waits for it.
#pragma once

#include <memory>
#include <string>

#include "audio/shared_buffers.h"
#include "net/status.h"

namespace stemwire {

// The server chosen in the plugin.
struct Target {
  bool local = true;  // this computer: server found or started; `url` and `token` unused
  std::string url;    // ws://HOST:PORT
  std::string token;
  bool autostart = true;  // with `local`: start the installed server if none answers
};

class NetworkThread {
 public:
  // Not the audio thread. Starts the thread. `buffers`, `board` and `counters` must outlive it.
  // While it runs it reads `start`, `offline`, `delay` and `preset` of the buffers.
  NetworkThread(SharedBuffers& buffers, Counters& counters, StatusBoard& board, Target target);
  // Not the audio thread. Says goodbye if it can, and ends the thread within 200 ms.
  ~NetworkThread();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stemwire
