// What a server's refusals mean: to people, and for when to try again.
#pragma once

#include <string>

#include "net/messages.h"
#include "net/status.h"

namespace stemwire {

struct Failure {
  Code code;
  std::string text;  // without the address
  bool passes;       // by itself: worth trying again soon
};

// Of an answer to the websocket's handshake that was none; the text is the websocket's.
Failure failure_of_handshake(int http_status, const std::string& text);

// Of an `error` in answer to `hello`.
Failure failure_of_error(const Fault& error);

// Of a server that does not keep to the protocol.
Failure failure_of_violation(const Fault& fault);

// Whether a session that an error has ended may be followed by another at once.
bool passes(const std::string& code);

}  // namespace stemwire
