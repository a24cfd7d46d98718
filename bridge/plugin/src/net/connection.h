// One connection at a time: a websocket over TCP. It never waits but by the callback it is given.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "net/socket.h"
#include "net/websocket.h"

namespace stemwire {

// Network thread.
class Connection {
 public:
  using Clock = std::chrono::steady_clock;
  // Waits for events of `poll` at a descriptor, at most until a time; may return early. The events
  // that occurred, or 0.
  using Wait = std::function<short(int descriptor, short events, Clock::time_point until)>;
  using Stopping = std::function<bool()>;

  Connection(Wait wait, Stopping stopping);

  // Connects and requests a websocket. False with `problem` if no server answers, or when stopping.
  bool open(const Address& address, std::string& problem);
  // Sends pending output and waits for input, a wake-up, or `until`. False with `problem` if the
  // connection is lost.
  bool send_and_wait(Clock::time_point until, std::string& problem);
  // Sends `text`, if any, and closes in order, within 100 ms.
  void close_gracefully(int code, std::string_view reason, std::string_view text = "");
  void close();

  WebSocket& websocket() { return *websocket_; }

 private:
  bool write();
  bool resolve(const Address& address, std::string& problem);

  const Wait wait_;
  const Stopping stopping_;
  Socket socket_;
  std::optional<WebSocket> websocket_;
  std::optional<Lookup> lookup_;
  std::string lookup_key_;     // host and port of the lookup
  bool write_closed_ = false;  // the server accepts no more data
  std::vector<std::uint8_t> bytes_;
};

}  // namespace stemwire
