#include "net/failure.h"

namespace stemwire {

bool is_temporary(const std::string& code) {
  return code == "shutdown" || code == "internal" || code == "too_slow" || code == "too_many";
}

Failure failure_of_handshake(int http_status, const std::string& text) {
  if (http_status == 401 || http_status == 403) return {Status::kTokenRefused, text, false};
  if (http_status == 429 || http_status >= 500) return {Status::kNoServer, text, true};
  return {Status::kServerFault, text, false};
}

Failure failure_of_error(const ProtocolError& error) {
  const std::string& code = error.code;
  const std::string& text = error.text;
  if (code == "too_many") {
    return {Status::kRefused, "at capacity (" + text + "); trying again", true};
  }
  if (is_temporary(code)) {
    return {Status::kNoServer, "cannot serve now (" + text + "); trying again", true};
  }
  if (code == "token") {
    return {Status::kTokenRefused, text + "; give the plugin the right token", false};
  }
  if (code == "version") return failure_of_violation(error);
  if (code == "config") return {Status::kRefused, text, false};
  return {Status::kServerFault, text + " (" + code + "); is it a Stemwire server?", false};
}

Failure failure_of_violation(const ProtocolError& error) {
  if (error.code == "version") {
    return {Status::kVersion, error.text + "; install the same version of Stemwire on both sides",
            false};
  }
  return {Status::kServerFault, error.text + "; not a Stemwire server, or one of another version",
          false};
}

}  // namespace stemwire
