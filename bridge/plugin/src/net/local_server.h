// "This computer": where its server is, and how one is started if there is none.
//
// The plugin shares two files with `stemwire plugin`: server.json in the runtime folder says where
// this user's server is while it runs; plugin.json in the configuration folder names other servers
// and the command that starts one here. Both must belong to the user alone, or they are ignored.
#pragma once

#include <string>
#include <vector>

namespace stemwire {

struct NamedServer {
  std::string name, url, token;
};

// Any thread but the audio thread in real time. Servers of plugin.json in its order; none if the
// file is missing or damaged.
std::vector<NamedServer> load_named_servers();

// Network thread. Whether a program of this user listens at a port of this computer. A server
// without a token may be anybody's, and music must not go to another user's.
bool own_server_listens(int port);

// Network thread. Where this computer's server may be, the most likely first.
struct LocalCandidates {
  std::vector<NamedServer> servers;  // without names
  bool from_environment = false;     // set by the environment: no server is started
};
LocalCandidates local_candidates();

// Network thread. Starts the installed server, at most once in 30 seconds however many plugins ask.
struct StartResult {
  enum class State {
    kStarting,    // just now, or a moment ago: try to connect again soon
    kFailed,      // `problem`
    kNotAllowed,  // the settings forbid it, or do not say how: `problem`
  };
  State state = State::kNotAllowed;
  std::string problem;  // for the user, with what to do
};
StartResult start_local_server();

// Network thread. Reaps a started server that has ended, so that no zombie stays; never the host's
// children.
void reap_local_server();

}  // namespace stemwire
