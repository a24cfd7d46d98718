// "This computer": where its server is, and how it is started if there is none.
//
// What the plugin shares with `stemwire plugin`: server.json in the runtime folder says where the
// server is that runs for this user; plugin.json in the folder of settings names other servers and
// the command that starts one here. Both belong to the user alone, and are not taken from others.
#pragma once

#include <string>
#include <vector>

namespace stemwire {

struct NamedServer {
  std::string name, url, token;
};

// Of plugin.json, in its order; none if there is no such file, or it is damaged. Any thread; not
// the audio thread.
std::vector<NamedServer> named_servers();

// Whether a program of this user listens at a port of this computer. A server there without a token
// may be anybody's, and music must not go to another user's.
bool listens_here(int port);

// Where this computer's server may be, the likeliest first.
struct LocalPlaces {
  std::vector<NamedServer> places;  // without names
  bool fixed = false;               // told by the environment: nothing is to be started
};
LocalPlaces local_places();

// Starts the installed server, at most once in half a minute however many plugins ask.
struct Start {
  enum class Result {
    kStarting,  // just now, or a moment ago: look for it again soon
    kFailed,    // `problem`
    kNot,       // settings say that it is not to be started: `problem`
  };
  Result result = Result::kNot;
  std::string problem;  // for people, with what to do
};
Start start_local_server();

// Collects a started server that has ended, so that no zombie stays. Nobody else's children.
void collect_local_server();

}  // namespace stemwire
