#include "net/websocket.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "net/digest.h"
#include "net/json.h"

namespace stemwire {
namespace {

constexpr std::size_t kMaxControl = 125, kPool = 256, kMaxHeaders = 100;
constexpr int kProtocolError = 1002, kNotUtf8 = 1007, kTooLarge = 1009;

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool equal_ignoring_case(std::string_view a, std::string_view b) {  // without regard to case
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

// Whether a comma-separated list contains the word.
bool list_contains(std::string_view list, std::string_view word) {
  while (true) {
    const std::size_t comma = std::min(list.find(','), list.size());
    if (equal_ignoring_case(trimmed(list.substr(0, comma)), word)) return true;
    if (comma == list.size()) return false;
    list.remove_prefix(comma + 1);
  }
}

// For the user: one line of printable characters, at most `max_length`.
std::string printable(std::string_view text, std::size_t max_length) {
  std::string result;
  for (const char c : text) {
    if (c == '\n' || c == '\r' || result.size() >= max_length) break;
    result += c >= 0x20 && c < 0x7F ? c : '?';
  }
  return result;
}

// Whether a code may be in a close frame (RFC 6455, 7.4).
bool is_close_code(int code) {
  return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
         (code >= 3000 && code <= 4999);
}

std::string_view as_text(const std::vector<std::uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

bool system_random(std::uint8_t* to, std::size_t n) {
  while (n > 0) {
    const ssize_t got = getrandom(to, n, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    n -= static_cast<std::size_t>(got);
  }
  return true;
}

WebSocket::WebSocket(Random random) : random_(random) {}

void WebSocket::open(std::string_view host, std::string_view path, std::string_view protocol) {
  std::uint8_t nonce[16];
  if (!random_(nonce, sizeof nonce)) {
    fail(kProtocolError, "the system provides no random numbers");
    return;
  }
  key_ = base64(nonce, sizeof nonce);
  protocol_ = protocol;
  std::string request;
  for (const std::string_view part : std::initializer_list<std::string_view>{
           "GET ", path, " HTTP/1.1\r\nHost: ", host,
           "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ", key_,
           "\r\nSec-WebSocket-Protocol: ", protocol, "\r\nSec-WebSocket-Version: 13\r\n\r\n"}) {
    request += part;
  }
  output_.insert(output_.end(), request.begin(), request.end());
  state_ = State::kOpening;
}

void WebSocket::limit_binary(std::size_t bytes) { max_binary_ = std::min(bytes, kMaxBinary); }

void WebSocket::receive(const std::uint8_t* data, std::size_t n) {
  if (state_ == State::kEnded) return;
  input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(at_));
  at_ = 0;
  input_.insert(input_.end(), data, data + n);
}

WebSocket::Event WebSocket::fail(int code, std::string problem) {
  if (state_ == State::kOpen) close(code, problem);
  state_ = State::kEnded;
  code_ = code;
  problem_ = std::move(problem);
  return Event::kFailed;
}

WebSocket::Event WebSocket::next() {
  if (delivered_) {
    message_.clear();
    delivered_ = false;
  }
  if (state_ == State::kOpening) return read_head();
  while (state_ == State::kOpen) {
    Event failure = Event::kNone;
    if (!in_frame_ && !read_frame_head(failure)) return failure;
    auto& to = opcode_ >= Opcode::kClose ? control_ : message_;
    const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(frame_left_, left()));
    const auto from = input_.begin() + static_cast<std::ptrdiff_t>(at_);
    to.insert(to.end(), from, from + static_cast<std::ptrdiff_t>(n));
    at_ += n;
    frame_left_ -= n;
    if (frame_left_ > 0) return Event::kNone;
    in_frame_ = false;
    if (const Event event = end_frame(); event != Event::kNone) return event;
  }
  return Event::kNone;
}

// --- the handshake

WebSocket::Event WebSocket::read_head() {
  const std::string_view come = as_text(input_).substr(at_);
  const std::size_t end = come.find("\r\n\r\n");
  if (std::min(end, come.size()) > kMaxHead) {
    return fail(kProtocolError, "the response to the handshake is too long for a websocket");
  }
  // A response that begins otherwise is refused at once.
  constexpr std::string_view kBegin = "HTTP/1.";
  if (come.substr(0, kBegin.size()) != kBegin.substr(0, come.size())) {
    return fail(kProtocolError, "the response is not a web server's");
  }
  if (end == std::string_view::npos) return Event::kNone;
  at_ += end + 4;
  return check_head(come.substr(0, end + 2));
}

// `head` ends with the last header's end of line.
WebSocket::Event WebSocket::check_head(std::string_view head) {
  const auto wrong = [&](const std::string& what) {
    return fail(kProtocolError,
                "the response to the handshake " + what + "; not a Stemwire websocket");
  };
  const std::string_view line = head.substr(0, head.find("\r\n"));
  head.remove_prefix(line.size() + 2);
  const auto digit = [&](std::size_t i) { return line[i] >= '0' && line[i] <= '9'; };
  if (line.size() < 12 || line[8] != ' ' || !digit(9) || !digit(10) || !digit(11) ||
      (line.size() > 12 && line[12] != ' ')) {
    return wrong("has no status");
  }
  http_status_ = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  bool upgrade = false, connection = false;
  int accepts = 0, protocols = 0;
  std::string_view accept, protocol, location;
  for (std::size_t headers = 0; !head.empty(); ++headers) {
    const std::string_view header = head.substr(0, head.find("\r\n"));
    head.remove_prefix(header.size() + 2);
    const std::size_t colon = header.find(':');
    if (colon == 0 || colon == std::string_view::npos || headers >= kMaxHeaders) {
      return wrong("has broken headers");
    }
    const std::string_view name = header.substr(0, colon);
    const std::string_view value = trimmed(header.substr(colon + 1));
    if (equal_ignoring_case(name, "upgrade")) upgrade |= list_contains(value, "websocket");
    else if (equal_ignoring_case(name, "connection")) connection |= list_contains(value, "upgrade");
    else if (equal_ignoring_case(name, "sec-websocket-accept")) accept = value, ++accepts;
    else if (equal_ignoring_case(name, "sec-websocket-protocol")) protocol = value, ++protocols;
    else if (equal_ignoring_case(name, "location")) location = value;
    else if (equal_ignoring_case(name, "sec-websocket-extensions")) {
      return wrong("has an extension that was not requested");
    }
  }
  if (http_status_ != 101) return fail_http_status(location);
  if (line.substr(0, 8) != "HTTP/1.1") return wrong("has another version of HTTP");
  if (!upgrade || !connection) return wrong("does not upgrade");
  if (accepts != 1 || accept != websocket_accept(key_)) return wrong("accepts another key");
  if (protocols > 1 || (protocols == 1 && protocol != protocol_)) {
    return wrong("names another subprotocol");
  }
  http_status_ = 0;
  state_ = State::kOpen;
  return Event::kOpen;
}

WebSocket::Event WebSocket::fail_http_status(std::string_view location) {
  const int status = http_status_;
  std::string what = "HTTP " + std::to_string(status) + ": ";
  if (status == 401 || status == 403) {
    what += "access denied; check the token, and whether there is a proxy before the server";
  } else if (status == 404) {
    what += "nothing there; check host, port and path";
  } else if (status >= 300 && status < 400) {
    what += "redirected to " + printable(location, 200) + "; if you trust it, use that address";
  } else if (status == 429 || status >= 500) {
    what += "it cannot serve now; trying again later";
  } else {
    what += "not a websocket; check host, port and path";
  }
  return fail(kProtocolError, what);
}

// --- frames

// False if it is incomplete, or invalid: then `failure` says so.
bool WebSocket::read_frame_head(Event& failure) {
  const auto wrong = [&](int code, const char* what) {
    failure = fail(code, what);
    return false;
  };
  if (left() < 2) return false;
  const std::uint8_t* head = input_.data() + at_;
  const std::size_t extra = (head[1] & 127) == 127 ? 8 : (head[1] & 127) == 126 ? 2 : 0;
  if (head[0] & 0x70) return wrong(kProtocolError, "a frame with reserved bits");
  if (head[1] & 0x80) return wrong(kProtocolError, "a masked frame");
  final_ = head[0] & 0x80;
  opcode_ = static_cast<Opcode>(head[0] & 15);
  switch (opcode_) {
    case Opcode::kContinuation:
      if (kind_ == Opcode::kContinuation) return wrong(kProtocolError, "a fragment of nothing");
      break;
    case Opcode::kText:
    case Opcode::kBinary:
      if (kind_ != Opcode::kContinuation) {
        return wrong(kProtocolError, "a message within another");
      }
      break;
    case Opcode::kClose:
    case Opcode::kPing:
    case Opcode::kPong:
      if (!final_ || extra > 0) return wrong(kProtocolError, "a control frame that is too long");
      break;
    default: return wrong(kProtocolError, "a frame of an unknown kind");
  }
  if (left() < 2 + extra) return false;
  std::uint64_t length = extra > 0 ? 0 : head[1];
  for (std::size_t i = 0; i < extra; ++i) length = length << 8 | head[2 + i];
  if (length >> 63 || (extra == 2 && length < 126) || (extra == 8 && length < 65536)) {
    return wrong(kProtocolError, "a frame whose length is encoded wrongly");
  }
  if (opcode_ == Opcode::kText || opcode_ == Opcode::kBinary) kind_ = opcode_;
  if (opcode_ < Opcode::kClose && length > max_message_bytes() - message_.size()) {
    return wrong(kTooLarge, "a message that is too long");
  }
  at_ += 2 + extra;
  frame_left_ = length;
  in_frame_ = true;
  return true;
}

WebSocket::Event WebSocket::end_frame() {
  if (opcode_ >= Opcode::kClose) {
    const Event event = end_control_frame();
    control_.clear();
    return event;
  }
  if (!final_) return Event::kNone;
  const bool is_text = kind_ == Opcode::kText;
  kind_ = Opcode::kContinuation;
  delivered_ = true;
  if (!is_text) return Event::kBinary;
  return is_utf8(text()) ? Event::kText : fail(kNotUtf8, "a text that is not UTF-8");
}

WebSocket::Event WebSocket::end_control_frame() {
  if (opcode_ == Opcode::kPing) {
    // Pings are not answered while output is backed up, so that they cannot fill the memory.
    if (output_size() < kMaxOutput / 2) frame(Opcode::kPong, control_.data(), control_.size());
    return Event::kNone;
  }
  if (opcode_ == Opcode::kPong) return Event::kNone;
  if (control_.size() == 1) return fail(kProtocolError, "a truncated close frame");
  int code = kNoCode;
  std::string reason;
  if (!control_.empty()) {
    code = control_[0] << 8 | control_[1];
    reason = std::string(as_text(control_).substr(2));
    if (!is_close_code(code)) return fail(kProtocolError, "an invalid close code");
    if (!is_utf8(reason)) return fail(kNotUtf8, "a close reason that is not UTF-8");
  }
  close(code == kNoCode ? 1000 : code, "");
  code_ = code;
  problem_ = printable(reason, kMaxControl);
  return Event::kClosed;
}

// --- what is sent

bool WebSocket::send_text(std::string_view text) {
  return frame(Opcode::kText, reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
}

bool WebSocket::send_binary(const std::uint8_t* data, std::size_t n) {
  return frame(Opcode::kBinary, data, n);
}

void WebSocket::close(int code, std::string_view reason) {
  if (state_ != State::kOpen) return;
  std::size_t fits = 0;  // whole characters only
  while (fits < reason.size()) {
    const std::size_t length = utf8_length(reason.substr(fits));
    if (length == 0 || 2 + fits + length > kMaxControl) break;
    fits += length;
  }
  std::vector<std::uint8_t> payload = {static_cast<std::uint8_t>(code >> 8),
                                       static_cast<std::uint8_t>(code & 255)};
  payload.insert(payload.end(), reason.begin(), reason.begin() + static_cast<std::ptrdiff_t>(fits));
  frame(Opcode::kClose, payload.data(), payload.size());
  state_ = State::kEnded;
}

bool WebSocket::frame(Opcode opcode, const std::uint8_t* data, std::size_t n) {
  if (state_ != State::kOpen) return false;
  if (output_size() + n + 14 > kMaxOutput) {
    state_ = State::kEnded;
    code_ = kTooLarge;
    problem_ = "the server does not read what is sent";
    return false;
  }
  if (random_pool_.size() < 4) {
    random_pool_.resize(kPool);
    if (!random_(random_pool_.data(), random_pool_.size())) {
      random_pool_.clear();
      state_ = State::kEnded;
      problem_ = "the system provides no random numbers";
      return false;
    }
  }
  std::uint8_t mask[4];
  std::copy(random_pool_.end() - 4, random_pool_.end(), mask);
  random_pool_.resize(random_pool_.size() - 4);
  output_.push_back(static_cast<std::uint8_t>(0x80 | static_cast<int>(opcode)));
  const int extra = n < 126 ? 0 : n < 65536 ? 2 : 8;
  output_.push_back(static_cast<std::uint8_t>(0x80 | (extra == 0 ? n : extra == 2 ? 126 : 127)));
  for (int i = extra - 1; i >= 0; --i) {
    output_.push_back(static_cast<std::uint8_t>(std::uint64_t{n} >> (8 * i) & 255));
  }
  output_.insert(output_.end(), mask, mask + 4);
  const std::size_t begin = output_.size();
  output_.insert(output_.end(), data, data + n);
  for (std::size_t i = 0; i < n; ++i) output_[begin + i] ^= mask[i % 4];
  return true;
}

void WebSocket::consume_output(std::size_t n) {
  written_ += n;
  if (written_ < output_.size() && written_ < kMaxOutput / 4) return;
  output_.erase(output_.begin(), output_.begin() + static_cast<std::ptrdiff_t>(written_));
  written_ = 0;
}

}  // namespace stemwire
