// What a server's refusals mean: to the user, and for when to try again.
#pragma once

#include <string>

#include "net/messages.h"
#include "net/status.h"

namespace stemwire {

struct Failure {
  Status status;
  std::string text;  // without the address
  bool temporary;    // may pass by itself: try again soon
};

// Failure of the websocket handshake. `text`: the websocket's description.
Failure failure_of_handshake(int http_status, const std::string& text);

// Failure of `hello`, answered by an `error` message.
Failure failure_of_error(const ProtocolError& error);

// Failure of a server that violates the protocol.
Failure failure_of_violation(const ProtocolError& error);

// Whether a new session may be tried at once after an error with this code.
bool is_temporary(const std::string& code);

}  // namespace stemwire
