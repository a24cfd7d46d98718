// Client side of a websocket (RFC 6455) without sockets: bytes in, events and bytes out.
//
//   WebSocket socket;
//   socket.open("10.0.0.5:8765", "/stream", "stemwire.1");
//   … send socket.output(), then call socket.consume_output(n); pass input to socket.receive() …
//   while ((event = socket.next()) != WebSocket::Event::kNone) …
//
// Input is not trusted: everything is bounded, and only a lack of memory throws.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stemwire {

// Any thread. n unpredictable bytes; false if the system provides none.
bool system_random(std::uint8_t* to, std::size_t n);

// Network thread.
class WebSocket {
 public:
  using Random = bool (*)(std::uint8_t* to, std::size_t n);

  enum class Event {
    kNone,    // nothing until more bytes are received
    kOpen,    // the handshake is complete
    kText,    // `message`, valid UTF-8
    kBinary,  // `message`
    kClosed,  // the server has closed in order: `code`, `problem` (its reason)
    kFailed,  // a violation, or not a websocket: `code`, `problem`
  };

  static constexpr std::size_t kMaxHead = 16384;       // bytes of the handshake's response
  static constexpr std::size_t kMaxText = 16384;       // bytes of a text message
  static constexpr std::size_t kMaxBinary = 16 << 20;  // of a binary one, at most
  static constexpr std::size_t kMaxOutput = 1 << 20;   // bytes that may be waiting to be sent
  static constexpr int kNoCode = 1005;                 // of a close without one

  explicit WebSocket(Random random = system_random);

  // Requests a websocket. `host`: with the port, for the header; host and path without blanks.
  void open(std::string_view host, std::string_view path, std::string_view protocol);
  // Sets the limit on binary messages, in bytes; until then that on text applies.
  void limit_binary(std::size_t bytes);

  // Takes received bytes. Call `next` for events until there are none.
  void receive(const std::uint8_t* data, std::size_t n);
  Event next();
  // Details of the event. Valid until `next` or `receive`.
  const std::vector<std::uint8_t>& message() const { return message_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(message_.data()), message_.size()};
  }
  int code() const { return code_; }
  const std::string& problem() const { return problem_; }
  int http_status() const { return http_status_; }  // of a refused handshake, else 0

  // False if it is not open, or if too much is waiting to be sent, after which it has failed.
  bool send_text(std::string_view text);
  bool send_binary(const std::uint8_t* data, std::size_t n);
  // Nothing is sent afterwards. The reason is cut to what fits.
  void close(int code, std::string_view reason);

  bool is_open() const { return state_ == State::kOpen; }

  // Bytes waiting to be sent.
  const std::uint8_t* output() const { return output_.data() + written_; }
  std::size_t output_size() const { return output_.size() - written_; }
  void consume_output(std::size_t n);

 private:
  enum class State { kNew, kOpening, kOpen, kEnded };
  enum class Opcode : std::uint8_t {
    kContinuation = 0, kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10
  };

  Event fail(int code, std::string problem);
  Event read_head();
  Event check_head(std::string_view head);
  Event fail_http_status(std::string_view rest);
  bool read_frame_head(Event& failure);
  Event end_frame();
  Event end_control_frame();
  bool frame(Opcode opcode, const std::uint8_t* data, std::size_t n);
  std::size_t max_message_bytes() const { return kind_ == Opcode::kText ? kMaxText : max_binary_; }
  std::size_t left() const { return input_.size() - at_; }

  const Random random_;
  State state_ = State::kNew;
  std::string key_, protocol_;
  std::size_t max_binary_ = kMaxText;
  std::vector<std::uint8_t> random_pool_;  // random bytes for masks

  std::vector<std::uint8_t> input_;  // received and not yet processed, from at_ on
  std::size_t at_ = 0;
  bool in_frame_ = false, final_ = false;
  Opcode opcode_ = Opcode::kContinuation;  // of the frame
  Opcode kind_ = Opcode::kContinuation;    // of the fragmented message; kContinuation: none
  std::uint64_t frame_left_ = 0;
  std::vector<std::uint8_t> message_, control_;
  bool delivered_ = false;  // `message_` was handed out and is to be cleared

  std::vector<std::uint8_t> output_;
  std::size_t written_ = 0;
  int code_ = 0, http_status_ = 0;
  std::string problem_;
};

}  // namespace stemwire
