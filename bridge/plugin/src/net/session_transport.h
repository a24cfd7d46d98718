// Moves the samples of one session: mixture from the shared buffers to the server, stems back.
//
// It knows which sample is which, what may be overwritten, and when a session must be given up. It
// has no socket. All of it belongs to the network thread.
//
// Stems at position p of the stream belong to the mixture at origin + p - latency. In real time the
// stream begins again wherever that helps, and AudioProcessor conceals what is missing. Offline
// nothing may be missing: a stream that cannot be completed to the sample has failed.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "audio/shared_buffers.h"
#include "net/client_peer.h"
#include "net/websocket.h"

namespace stemwire {

// Network thread.
class SessionTransport {
 public:
  using Clock = std::chrono::steady_clock;

  // `on_failure` receives the reason why a render failed. It is called before the audio thread can
  // learn of the failure, so that the reason is always there to be read.
  using OnFailure = std::function<void(const std::string& reason)>;
  SessionTransport(SharedBuffers& buffers, std::string client, OnFailure on_failure = nullptr);

  // Takes over what the audio thread and the host have changed: a new stream, another preset, more
  // mixture. To be called at each wake-up, connected or not.
  void update();

  // First message of a connection. token: of the server reached.
  std::string hello(const std::string& token);
  // Sends what may be sent now.
  void send(WebSocket& socket);
  // When `send` will next have work if nothing happens before; at most `latest`.
  Clock::time_point next_send(Clock::time_point latest) const;

  // Handle an incoming message. Samples of the returned event are stored already.
  ClientPeer::Event receive_text(std::string_view text);
  ClientPeer::Event receive_binary(const std::uint8_t* data, std::size_t n);

  // The connection is lost; the session can be resumed.
  void disconnected() { peer_.disconnected(); }
  // The session is lost. If that fails a render, `reason` is why.
  void session_lost(const std::string& reason);
  // Whether the session must be replaced by a new one on a new connection.
  bool needs_new_session() const { return needs_new_session_; }
  void discard_session();

  const ClientPeer& peer() const { return peer_; }
  bool offline() const { return offline_; }
  // Offline: whether this stream has failed, and why.
  bool failed() const { return failed_; }
  const std::string& failure_reason() const { return failure_reason_; }
  // Whether the separator's latency alone exceeds the delay reported to the host.
  bool latency_exceeds_delay() const;
  // Whether stems are missing for mixture that the server has.
  bool awaits_stems() const { return peer_.connected() && peer_.sent() > peer_.received(); }
  // Name of the preset chosen in the host.
  const char* selected_preset() const;

 private:
  void begin_stream(Position start, bool offline);
  void begin_session();
  void skip_to_newest();
  bool behind();
  void fail_render(const std::string& reason);
  void release();
  void store(const ClientPeer::Event& event);
  std::int64_t sendable() const;

  SharedBuffers& buffers_;
  const OnFailure on_failure_;
  SessionRequest request_;
  ClientPeer peer_;
  std::vector<std::string> outbox_;  // text messages to send
  Position mixture_end_ = 0;         // newest known end of the mixture
  Position stream_start_ = 0;
  Position origin_ = 0;  // position of the mixture that is 0 in the peer's stream
  bool offline_ = false, failed_ = false, needs_new_session_ = false;
  std::string failure_reason_;
  Clock::time_point last_send_{}, last_skip_{};
  Position last_in_time_ = 0;  // real time: newest position whose stems were in time
  std::vector<float> buffer_;  // planar mixture of a frame
};

}  // namespace stemwire
