// The client's end of a websocket (RFC 6455) without sockets: bytes in, events and bytes out.
//
//   WebSocket socket;
//   socket.open("10.0.0.5:8765", "/stream", "stemwire.1");
//   … send socket.output(), then socket.written(n); give what comes to socket.receive() …
//   while ((event = socket.next()) != WebSocket::Event::kNone) …
//
// What comes is not trusted: everything is bounded, and nothing throws but for want of memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stemwire {

// n bytes that nobody can predict; false if the system gives none.
bool system_random(std::uint8_t* to, std::size_t n);

class WebSocket {
 public:
  using Random = bool (*)(std::uint8_t* to, std::size_t n);

  enum class Event {
    kNone,    // nothing more until more bytes come
    kOpen,    // the handshake is done
    kText,    // `message` is valid UTF-8
    kBinary,  // `message`
    kClosed,  // the other side has closed in good order: `code`, `problem` (its reason)
    kFailed,  // the other side is at fault, or no websocket: `code`, `problem`
  };

  static constexpr std::size_t kMostHead = 16384;       // bytes of the answer to the handshake
  static constexpr std::size_t kMostText = 16384;       // bytes of a text message
  static constexpr std::size_t kMostBinary = 16 << 20;  // of a binary one, whatever the server says
  static constexpr std::size_t kMostOutput = 1 << 20;   // bytes that may wait to be sent
  static constexpr int kNoCode = 1005;                  // of a close without one

  explicit WebSocket(Random random = system_random);

  // Asks for a websocket. `host` with the port, as it goes into the header; both without blanks.
  void open(std::string_view host, std::string_view path, std::string_view protocol);
  // Binary messages may be so long; before that is said, as long as text.
  void limit_binary(std::size_t bytes);

  // Bytes have come. Ask `next` for events until there are none.
  void receive(const std::uint8_t* data, std::size_t n);
  Event next();
  // Of the event. Valid until `next` or `receive`.
  const std::vector<std::uint8_t>& message() const { return message_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(message_.data()), message_.size()};
  }
  int code() const { return code_; }
  const std::string& problem() const { return problem_; }
  int http_status() const { return http_status_; }  // of a handshake that was refused, else 0

  // False if it is not open, or too much waits to be sent; then it has failed too.
  bool send_text(std::string_view text);
  bool send_binary(const std::uint8_t* data, std::size_t n);
  // Nothing is sent after it. The reason is cut to what fits.
  void close(int code, std::string_view reason);

  bool is_open() const { return state_ == State::kOpen; }

  // What waits to be sent.
  const std::uint8_t* output() const { return output_.data() + written_; }
  std::size_t waiting() const { return output_.size() - written_; }
  void written(std::size_t n);

 private:
  enum class State { kNew, kOpening, kOpen, kEnded };
  enum class Opcode : std::uint8_t {
    kContinuation = 0, kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10
  };

  Event fail(int code, std::string problem);
  Event read_head();
  Event check_head(std::string_view head);
  Event refused(std::string_view rest);
  bool read_frame_head(Event& failure);
  Event end_frame();
  Event control();
  bool frame(Opcode opcode, const std::uint8_t* data, std::size_t n);
  std::size_t most() const { return kind_ == Opcode::kText ? kMostText : most_binary_; }
  std::size_t left() const { return input_.size() - at_; }

  const Random random_;
  State state_ = State::kNew;
  std::string key_, protocol_;
  std::size_t most_binary_ = kMostText;
  std::vector<std::uint8_t> pool_;  // random bytes for masks

  std::vector<std::uint8_t> input_;  // what has come and was not looked at, from at_ on
  std::size_t at_ = 0;
  bool in_frame_ = false, final_ = false;
  Opcode opcode_ = Opcode::kContinuation;  // of the frame
  Opcode kind_ = Opcode::kContinuation;    // of the message that its fragments make; this: none
  std::uint64_t frame_left_ = 0;
  std::vector<std::uint8_t> message_, control_;
  bool given_ = false;  // `message_` was handed out and is to be forgotten

  std::vector<std::uint8_t> output_;
  std::size_t written_ = 0;
  int code_ = 0, http_status_ = 0;
  std::string problem_;
};

}  // namespace stemwire
