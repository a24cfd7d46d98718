// The network thread while it is connected, and how connections end.
#include <algorithm>

#include "net/failure.h"
#include "net/network_thread_impl.h"

namespace stemwire {

using Kind = ClientPeer::Event::Kind;

// --- a connection

auto NetworkThread::Impl::run_connection(const std::string& token) -> Outcome {
  WebSocket& websocket = connection_.websocket();
  const auto open_by = Clock::now() + seconds(kOpenSeconds);
  while (true) {
    if (const auto outcome = handle_incoming(websocket, token)) return *outcome;
    transport_.update();
    if (stopping() || transport_.needs_new_session()) {
      connection_.close_gracefully(1000, "", encode_plain("goodbye"));
      transport_.discard_session();
      return Outcome::kReconnectNow;
    }
    transport_.send(websocket);
    if (welcomed_ && !websocket.is_open()) return on_disconnect(websocket.problem());
    update_status();
    std::string problem;
    const auto until = welcomed_ ? transport_.next_send(next_ping_) : open_by;
    if (!connection_.send_and_wait(until, problem)) {
      if (welcomed_) return on_disconnect(problem);
      set_status(Status::kNoServer,
                 "reached, but it ended the connection (" + problem + "); check host and port");
      return Outcome::kUnreachable;
    }
    if (welcomed_) {
      if (const auto outcome = check_liveness(websocket)) return *outcome;
    } else if (Clock::now() > open_by) {
      set_status(Status::kServerFault,
                 "reached, but it does not answer; restart it, or check host and port");
      return Outcome::kWrongServer;
    }
  }
}

// Handles everything received; an outcome if the connection is over.
auto NetworkThread::Impl::handle_incoming(WebSocket& websocket, const std::string& token)
    -> std::optional<Outcome> {
  while (true) {
    std::optional<Outcome> outcome;
    const WebSocket::Event event = websocket.next();
    if (event != WebSocket::Event::kNone) silent_pings_ = 0;
    switch (event) {
      case WebSocket::Event::kNone: return {};
      case WebSocket::Event::kOpen: websocket.send_text(transport_.hello(token)); break;
      case WebSocket::Event::kText:
        outcome = handle(transport_.receive_text(websocket.text()));
        break;
      case WebSocket::Event::kBinary:
        outcome = handle(
            transport_.receive_binary(websocket.message().data(), websocket.message().size()));
        break;
      case WebSocket::Event::kClosed: {
        const int code = websocket.code();
        const std::string why =
            "it closed the connection (" + std::to_string(code) + ' ' + websocket.problem() + ')';
        connection_.close_gracefully(code, "");
        if (welcomed_ && code != 1000 && code != 1001) return on_disconnect(why);
        return on_session_lost(Status::kConnecting, why,
                               welcomed_ ? Outcome::kDisconnected : Outcome::kRefused);
      }
      case WebSocket::Event::kFailed:
        if (!welcomed_) return on_handshake_refused(websocket);
        return on_violation({"", websocket.problem(), false});
    }
    if (outcome) return outcome;
  }
}

auto NetworkThread::Impl::handle(const ClientPeer::Event& event)
    -> std::optional<Outcome> {
  switch (event.kind) {
    case Kind::kWelcome: on_welcome(event.resumed); return {};
    case Kind::kAudio:
      last_progress_ = Clock::now();
      retry_pause_ = kMinRetryPause;
      return {};
    case Kind::kState: preset_refusal_.clear(); return {};
    case Kind::kRefusal: preset_refusal_ = event.error.text; return {};
    case Kind::kGoodbye:
      return on_session_lost(Status::kConnecting, "it said goodbye (" + event.error.text + ")",
                             Outcome::kDisconnected);
    case Kind::kError:
      return event.error.from_server ? on_server_error(event.error) : on_violation(event.error);
    case Kind::kNothing: return {};
  }
  return {};
}

void NetworkThread::Impl::on_welcome(bool resumed) {
  welcomed_ = true;
  preset_refusal_.clear();
  if (reconnecting_) ++counters_.reconnects;
  if (reconnecting_ && resumed) ++counters_.resumes;
  reconnecting_ = false;
  const Limits& limits = transport_.peer().limits();
  ping_interval_ = kPingSeconds;
  if (limits.idle > 0) ping_interval_ = std::min(ping_interval_, limits.idle / 3);
  if (limits.grace > 0) ping_interval_ = std::min(ping_interval_, limits.grace / 6);
  ping_interval_ = std::max(ping_interval_, 0.05);
  last_progress_ = Clock::now();
  next_ping_ = last_progress_ + seconds(ping_interval_);
  connection_.websocket().limit_binary(static_cast<std::size_t>(limits.message));
}

// Pings now and then; ends the connection if nothing comes back.
auto NetworkThread::Impl::check_liveness(WebSocket& websocket)
    -> std::optional<Outcome> {
  const auto now = Clock::now();
  if (!transport_.awaits_stems()) last_progress_ = now;
  if (now < next_ping_) return {};
  next_ping_ = now + seconds(ping_interval_);
  if (++silent_pings_ > kMaxSilentPings) return on_disconnect("no sign of life");
  if (!transport_.offline() && now - last_progress_ > seconds(kStallSeconds)) {
    connection_.close_gracefully(1008, "too_slow");
    return on_session_lost(Status::kServerFault,
                           "accepts audio but returns no stems; it is stuck or overloaded",
                           Outcome::kRefused);
  }
  websocket.send_text(encode_ping(1));
  return {};
}

// --- how connections end

auto NetworkThread::Impl::on_handshake_refused(const WebSocket& websocket) -> Outcome {
  const Failure failure = failure_of_handshake(websocket.http_status(), websocket.problem());
  set_status(failure.status, failure.text);
  if (failure.temporary) return Outcome::kDisconnected;
  return failure.status == Status::kTokenRefused ? Outcome::kRefused : Outcome::kWrongServer;
}

// The server has reported an error.
auto NetworkThread::Impl::on_server_error(const ProtocolError& error) -> Outcome {
  if (welcomed_ && error.code == "too_slow") return on_disconnect(error.text);
  if (welcomed_) {
    const Status status = is_temporary(error.code) ? Status::kNoServer : Status::kServerFault;
    return on_session_lost(status, error.text + " (" + error.code + ")", Outcome::kDisconnected);
  }
  if (error.code == "resume") {
    return on_session_lost(Status::kConnecting, error.text, Outcome::kReconnectNow);
  }
  const Failure failure = failure_of_error(error);
  set_status(failure.status, failure.text);
  return failure.temporary ? Outcome::kDisconnected : Outcome::kRefused;
}

// The server has violated the protocol.
auto NetworkThread::Impl::on_violation(const ProtocolError& error) -> Outcome {
  connection_.close_gracefully(1008, error.code);  // unless the websocket has closed already
  const Failure failure = failure_of_violation(error);
  return on_session_lost(failure.status, failure.text, Outcome::kRefused);
}

// The connection is lost; the session can be resumed.
auto NetworkThread::Impl::on_disconnect(const std::string& why) -> Outcome {
  reconnecting_ = true;
  resume_until_ = Clock::now() + seconds(std::min(transport_.peer().limits().grace, 3600.0));
  set_status(Status::kConnecting, "connection lost (" + why + "); trying again");
  return Outcome::kDisconnected;
}

auto NetworkThread::Impl::on_session_lost(Status status, const std::string& why, Outcome outcome)
    -> Outcome {
  reconnecting_ = reconnecting_ || welcomed_;
  set_status(status, why);
  transport_.session_lost(url_ + ": " + why);
  return outcome;
}

// Shows a failed render, or the state of an established session.
void NetworkThread::Impl::update_status() {
  if (transport_.failed()) {
    return board_.set(Status::kRenderFailed, transport_.failure_reason());
  }
  if (!welcomed_ || !transport_.peer().connected()) return;
  const ClientPeer& peer = transport_.peer();
  const auto ms = [&](std::int64_t samples) {
    return std::to_string(samples * 1000 / buffers_.rate) + " ms";
  };
  const int delay = buffers_.delay.load(std::memory_order_relaxed);
  if (transport_.latency_exceeds_delay()) {
    set_status(Status::kDelayTooSmall,
               "the separator's latency is " + ms(peer.latency()) + " (" +
                   std::to_string(peer.latency()) + " samples), but the plugin's delay is " +
                   ms(delay) + " (" + std::to_string(delay) + "); choose a longer delay");
  } else if (!preset_refusal_.empty()) {
    set_status(Status::kRefused, preset_refusal_);
  } else {
    set_status(Status::kSeparating, std::string(transport_.selected_preset()) + ", latency " +
                                        ms(peer.latency()) + " of " + ms(delay) + ", " +
                                        peer.server());
  }
}

}  // namespace stemwire
