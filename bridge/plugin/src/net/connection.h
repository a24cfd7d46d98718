// One connection at a time: TCP and the websocket on it, driven by whoever waits.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "net/socket.h"
#include "net/websocket.h"

namespace stemwire {

class Connection {
 public:
  using Clock = std::chrono::steady_clock;
  // Waits for events (of poll) at a descriptor, or until a time; what happened, 0 for nothing. May
  // return early.
  using Wait = std::function<short(int descriptor, short events, Clock::time_point until)>;
  using Stopping = std::function<bool()>;

  Connection(Wait wait, Stopping stopping);

  // Connects, and asks for a websocket. False with `problem` if nobody is there, or when stopping.
  bool open(const Address& address, std::string& problem);
  // Sends what may be sent, and waits until something has come, or `until`, or a signal; false with
  // `problem` when the connection is gone.
  bool exchange(Clock::time_point until, std::string& problem);
  // Closes in good order, after `text` if there is one: a tenth of a second at most.
  void farewell(int code, std::string_view reason, std::string_view text = "");
  void close();

  WebSocket& websocket() { return *websocket_; }

 private:
  bool write();
  bool look_up(const Address& address, std::string& problem);

  const Wait wait_;
  const Stopping stopping_;
  Socket socket_;
  std::optional<WebSocket> websocket_;
  std::optional<Lookup> lookup_;
  std::string looked_up_;  // what for
  bool mute_ = false;      // the other side takes nothing any more
  std::vector<std::uint8_t> bytes_;
};

}  // namespace stemwire
