// Client side of a session, across all of its connections, without sockets.
//
// Messages in, events and messages out. It checks positions, sequence numbers and streams against
// docs/protocol.md, and keeps no audio: the sender continues from `sent`, which moves back after a
// resume, and must keep the mixture from `received` on. No input makes it throw.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/messages.h"

namespace stemwire {

// Network thread.
class ClientPeer {
 public:
  struct Event {
    enum class Kind {
      kNothing,  // nothing to do
      kWelcome,  // the session is established; `resumed` if it continues
      kAudio,    // `count` samples of each plane from `position` on; `gap` before them are lost
      kState,    // latency or preset have changed, or will
      kRefusal,  // the server rejected the control `id`: `error`; the connection stays open
      kGoodbye,  // the server has ended the session: `error.text` is its reason
      kError,    // the connection is over: `error`
    };
    Kind kind = Kind::kNothing;
    ProtocolError error;
    bool resumed = false;
    std::int64_t position = 0, gap = 0, id = 0;
    std::size_t count = 0;
  };

  explicit ClientPeer(SessionRequest request) : request_(std::move(request)) {}

  // Starts a connection; its first message.
  std::string connect();
  void disconnected() { connected_ = false; }

  // Handle an incoming message.
  Event receive_text(std::string_view text);
  Event receive_binary(const std::uint8_t* data, std::size_t n);
  // Replies to what was received, each handed out once.
  std::vector<std::string> take_replies() { return std::exchange(replies_, {}); }

  // `count` samples of a plane of kAudio. Planes: vocals left, right, instrumental left, right.
  const float* plane(int number, std::size_t count) const {
    return samples_.data() + static_cast<std::size_t>(number) * count;
  }
  int planes() const { return 2 * request_.channels; }

  // Samples that may be sent now, in frames of at most `max_frame_samples`.
  std::int64_t sendable() const;
  std::int64_t max_frame_samples() const;
  // Frame of the next n samples, n <= sendable() and max_frame_samples(). `channels`: pointers to
  // each channel.
  std::vector<std::uint8_t> encode_mixture(const float* const* channels, std::size_t n);
  // Frame that leaves a gap of n samples, n <= sendable().
  std::vector<std::uint8_t> encode_gap(std::int64_t n);
  // Ends the stream and begins the next. The message to send, or empty without a connection.
  std::string reset();
  // Switches the preset, also on later connections. The message to send, or empty without a
  // connection.
  std::string set_preset(const std::string& preset);

  void set_token(std::string token) { request_.token = std::move(token); }
  bool connected() const { return connected_; }
  bool has_session() const { return !session_.empty(); }
  const SessionRequest& request() const { return request_; }
  // Preset set by `set_preset`, or empty.
  const std::string& control_preset() const { return control_preset_; }
  const Limits& limits() const { return limits_; }
  const std::string& server() const { return server_; }
  int stream() const { return stream_; }
  std::int64_t sent() const { return sent_; }          // position after the newest mixture
  std::int64_t received() const { return received_; }  // position after the newest stems

  // Latency of stems at a position, in samples; and how many from there on, at most n, share it.
  std::int64_t latency_at(std::int64_t position) const;
  std::size_t same_latency_run(std::int64_t position, std::size_t n) const;
  std::int64_t latency() const { return latencies_.back().second; }  // of the newest stems

 private:
  static constexpr int kStreams = 65536;
  static constexpr std::size_t kMaxChanges = 16;  // of latency that are kept

  Event violation(std::string code, std::string text);
  Event on_welcome(const ServerMessage& message);
  bool resume_session(const ServerMessage& message, ProtocolError& error);
  Event on_state(const ServerMessage& message);
  void change_latency(std::int64_t position, std::int64_t latency);
  void begin_stream(int stream);
  FrameHeader next_header(std::size_t count);

  SessionRequest request_;
  std::string control_preset_;
  std::int64_t control_id_ = 0;  // of the last control
  bool connected_ = false, resetting_ = false;
  std::string session_, key_, server_;
  Limits limits_;
  int stream_ = 0, hello_stream_ = 0;  // current; and named in hello
  std::int64_t sent_ = 0, received_ = 0;
  std::uint32_t frames_sent_ = 0, frames_received_ = 0;
  // Positions, ascending, and the latency from there on, in samples; never empty.
  std::vector<std::pair<std::int64_t, std::int64_t>> latencies_{{0, 0}};
  std::vector<float> samples_;
  std::vector<std::string> replies_;
};

}  // namespace stemwire
