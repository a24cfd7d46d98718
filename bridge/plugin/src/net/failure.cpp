#include "net/failure.h"

namespace stemwire {

bool passes(const std::string& code) {
  return code == "shutdown" || code == "internal" || code == "too_slow" || code == "too_many";
}

Failure failure_of_handshake(int http_status, const std::string& text) {
  if (http_status == 401 || http_status == 403) return {Code::kTokenRefused, text, false};
  if (http_status == 429 || http_status >= 500) return {Code::kNoServer, text, true};
  return {Code::kServerFault, text, false};
}

Failure failure_of_error(const Fault& error) {
  const std::string& code = error.code;
  const std::string& text = error.text;
  if (code == "too_many") return {Code::kRefused, "no room now (" + text + "); tried again", true};
  if (passes(code)) return {Code::kNoServer, "cannot serve now (" + text + "); tried again", true};
  if (code == "token") {
    return {Code::kTokenRefused, text + "; give the plugin the right token", false};
  }
  if (code == "version") return failure_of_violation(error);
  if (code == "config") return {Code::kRefused, text, false};
  return {Code::kServerFault, text + " (" + code + "); is it a Stemwire server?", false};
}

Failure failure_of_violation(const Fault& fault) {
  if (fault.code == "version") {
    return {Code::kVersion, fault.text + "; install the same version of Stemwire on both sides",
            false};
  }
  return {Code::kServerFault, fault.text + "; it is no Stemwire server, or another version's",
          false};
}

}  // namespace stemwire
