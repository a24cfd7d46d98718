// Carries the mixture of an buffers to a session's peer and its stems back: which sample is which,
// what may be forgotten, and when a session must be given up. No sockets; the network thread's.
//
// Stems at position p of the stream belong to the mixture at base + p - latency. In real time a
// stream begins anew wherever it is useful, and AudioProcessor conceals what is missing. Offline nothing may
// be missing: what cannot be completed to the sample has failed.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "audio/shared_buffers.h"
#include "net/client_peer.h"
#include "net/websocket.h"

namespace stemwire {

class SessionTransport {
 public:
  using Clock = std::chrono::steady_clock;

  // `failing` is told why a render cannot be completed, before the audio thread learns that it
  // cannot: whoever is told of the failure finds the reason.
  using Failing = std::function<void(const std::string& reason)>;
  SessionTransport(SharedBuffers& buffers, std::string client, Failing failing = nullptr);

  // Looks at what the audio thread and the host want by now: another stream, another preset, more
  // mixture. Whenever something was signalled, with a connection or without.
  void look();

  // The first message on a connection. The token is the server's that was reached.
  std::string hello(const std::string& token);
  // Sends what may be sent.
  void send(WebSocket& socket);
  // When there will be something to send, if nothing comes in between; at most `latest`.
  Clock::time_point next_send(Clock::time_point latest) const;

  // A message has come; the event is dealt with as far as samples go.
  ClientPeer::Event receive_text(std::string_view text);
  ClientPeer::Event receive_binary(const std::uint8_t* data, std::size_t n);

  // The connection is gone, but the session can go on.
  void disconnected() { peer_.disconnected(); }
  // The session is gone, for a reason that is told if a render fails by it.
  void lost(const std::string& reason);
  // Whether the session is to be replaced by another, which begins with the next connection.
  bool wants_anew() const { return wants_anew_; }
  void begin_anew();

  const ClientPeer& peer() const { return peer_; }
  bool offline() const { return offline_; }
  // Offline: this stream cannot be completed, and why.
  bool failed() const { return failed_; }
  const std::string& reason() const { return reason_; }
  // Whether the separator alone is later than what the host was told.
  bool too_late() const;
  // Whether stems are missing for mixture that the server has.
  bool waits() const { return peer_.connected() && peer_.sent() > peer_.received(); }
  const char* preset() const;  // that the host wants

 private:
  void begin_stream(Position start, bool offline);
  void begin_session();
  void begin_now();
  bool behind();
  void fail(const std::string& reason);
  void release();
  void place(const ClientPeer::Event& event);
  std::int64_t room() const;

  SharedBuffers& buffers_;
  const Failing failing_;
  Wish wish_;
  ClientPeer peer_;
  std::vector<std::string> sayings_;  // texts that are to be sent
  Position end_ = 0, start_ = 0;      // of the mixture; of the stream
  Position base_ = 0;                 // of the mixture that is position 0 of the peer's stream
  bool offline_ = false, failed_ = false, wants_anew_ = false;
  std::string reason_;
  Clock::time_point sent_{}, jumped_{};
  Position in_time_ = 0;  // real time: what had its stems in time last
  std::vector<float> buffer_;
};

}  // namespace stemwire
