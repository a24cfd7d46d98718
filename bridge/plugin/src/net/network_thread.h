// The network thread's part: brings the mixture to a server and its stems back.
//
// One thread for each plugin that is active. It connects, says hello, sends the mixture as it comes
// and puts stems into the timeline; when a connection breaks it goes on at the right sample, and
// when that cannot be it begins anew. It says how it fares on the board. It is never waited for by
// the audio thread in real time.
#pragma once

#include <memory>
#include <string>

#include "audio/shared_buffers.h"
#include "net/status.h"

namespace stemwire {

// A server, as chosen in the plugin.
struct Target {
  bool local = true;     // this computer: found, and started if need be (`url` and `token` unused)
  std::string url;       // ws://HOST:PORT
  std::string token;
  bool autostart = true; // with `local`: start the installed server if none answers
};

class NetworkThread {
 public:
  // Starts the thread. `buffers`, `board`, `counters` outlive it. `kPresets[buffers.preset]` is
  // looked at while it runs, and so are `buffers.start`, `offline` and `delay`.
  NetworkThread(SharedBuffers& buffers, Counters& counters, StatusBoard& board, Target target);
  // Says goodbye if it can, ends the thread: within 200 ms.
  ~NetworkThread();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stemwire
