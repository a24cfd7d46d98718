// What NetworkThread consists of. Everything but the constructor and the destructor runs in it.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <thread>

#include "audio/wake_pipe.h"
#include "net/connection.h"
#include "net/local_server.h"
#include "net/network_thread.h"
#include "net/session_transport.h"

namespace stemwire {

class NetworkThread::Impl {
 public:
  Impl(SharedBuffers& buffers, Counters& counters, StatusBoard& board, Target target);
  ~Impl();

 private:
  using Clock = SessionTransport::Clock;

  // Seconds.
  static constexpr double kOpenSeconds = 15.0;   // up to the welcome: the server loads a network
  static constexpr double kPingSeconds = 2.0;    // between pings, at most
  static constexpr double kStallSeconds = 10.0;  // real time: that the server may return no stems
  static constexpr double kMinRetryPause = 0.1, kMaxRetryPause = 2.0;  // doubled after each attempt
  static constexpr double kRefusedPause = 5.0, kStartingPause = 0.25;
  static constexpr int kMaxSilentPings = 3;  // then the connection counts as lost
  static constexpr int kPriority = 5;        // of SCHED_RR

  // How an attempt ended, which decides when the next is made.
  enum class Outcome {
    kReconnectNow,  // at once
    kDisconnected,  // soon, with growing pauses
    kUnreachable,   // likewise, but another candidate is tried first
    kWrongServer,   // not a usable server; another candidate is tried first
    kRefused,       // after a long pause: only the user can change it
    kStarting,      // a server is being started
  };

  // All of these: network thread.
  void run();
  void prepare_thread();
  short wait(int descriptor, short events, Clock::time_point until);
  void pause(double n);
  Outcome attempt();
  Outcome start_server(Outcome outcome);
  Outcome try_server(const NamedServer& server);
  Outcome run_connection(const std::string& token);
  std::optional<Outcome> handle_incoming(WebSocket& websocket, const std::string& token);
  std::optional<Outcome> handle(const ClientPeer::Event& event);
  void on_welcome(bool resumed);
  std::optional<Outcome> check_liveness(WebSocket& websocket);
  Outcome on_handshake_refused(const WebSocket& websocket);
  Outcome on_server_error(const ProtocolError& error);
  Outcome on_violation(const ProtocolError& error);
  Outcome on_disconnect(const std::string& why);
  Outcome on_session_lost(Status status, const std::string& why, Outcome outcome);
  void update_status();
  void set_status(Status status, const std::string& text) {
    board_.set(status, url_ + ": " + text);
  }
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }  // any thread
  static Clock::duration seconds(double n) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(n));
  }

  SharedBuffers& buffers_;
  Counters& counters_;
  StatusBoard& board_;
  const Target target_;
  SessionTransport transport_;
  Connection connection_;
  WakePipe stop_wake_;
  std::atomic<bool> stopping_{false};
  std::string url_;                      // of the server being tried
  double retry_pause_ = kMinRetryPause;  // seconds
  bool welcomed_ = false;                // in this attempt
  bool reconnecting_ = false;            // a connection was lost; the next welcome repairs it
  Clock::time_point resume_until_{};     // when the server will have dropped the session
  Clock::time_point next_ping_{}, last_progress_{};
  double ping_interval_ = kPingSeconds;
  int silent_pings_ = 0;        // since the last message
  std::string preset_refusal_;  // why the server refused the preset, or empty
  std::thread thread_;          // last, because it uses all members above
};

}  // namespace stemwire
