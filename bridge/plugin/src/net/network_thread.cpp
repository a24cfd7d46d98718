#include "net/network_thread.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <system_error>
#include <thread>

#include "net/connection.h"
#include "net/failure.h"
#include "net/local_server.h"
#include "net/session_transport.h"

namespace stemwire {
namespace {

using Clock = SessionTransport::Clock;
using Kind = ClientPeer::Event::Kind;

// Seconds.
constexpr double kOpening = 15.0;   // for the websocket and the welcome: networks are loaded first
constexpr double kBeat = 2.0;       // between pings, at most
constexpr double kPatience = 10.0;  // real time: for stems of mixture that the server has
constexpr double kFirstPause = 0.1, kLastPause = 2.0, kRefusedPause = 5.0, kStartingPause = 0.25;
constexpr int kMissedBeats = 3;     // without a sign of life, and the connection is given up
constexpr int kPriority = 5;
constexpr char kClient[] = "stemwire plugin " STEMWIRE_VERSION;

Clock::duration seconds(double n) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(n));
}

}  // namespace

class NetworkThread::Impl {
 public:
  Impl(SharedBuffers& buffers, Counters& counters, StatusBoard& board, Target target)
      : buffers_(buffers),
        counters_(counters),
        board_(board),
        target_(std::move(target)),
        transport_(buffers, kClient,
                 [this](const std::string& why) { board_.set(Code::kRenderFailed, why); }),
        connection_([this](auto... what) { return wait(what...); }, [this] { return stopping(); }),
        thread_([this] { run(); }) {}

  ~Impl() {
    stopping_.store(true);
    stop_.raise();
    thread_.join();
  }

 private:
  // How an attempt ended, and so when the next is made.
  enum class Outcome {
    kAgain,     // at once
    kBroken,    // soon, with pauses that grow
    kNobody,    // likewise; another place may be better
    kForeign,   // somebody else is there; another place may be better
    kRefused,   // only what people do will change it
    kStarting,  // a server is being started
  };

  void run();
  void prepare_thread();
  short wait(int descriptor, short events, Clock::time_point until);
  void pause(double n);
  Outcome attempt();
  Outcome start_server(Outcome outcome);
  Outcome visit(const NamedServer& place);
  Outcome converse(const std::string& token);
  std::optional<Outcome> take(WebSocket& websocket, const std::string& token);
  std::optional<Outcome> hear(const ClientPeer::Event& event);
  void welcomed(bool resumed);
  std::optional<Outcome> beat(WebSocket& websocket);
  Outcome not_open(const WebSocket& websocket);
  Outcome refused(const Fault& fault);
  Outcome at_fault(const Fault& fault);
  Outcome broken(const std::string& why);
  Outcome lost(Code code, const std::string& why, Outcome outcome);
  void show();
  void tell(Code code, const std::string& text) { board_.set(code, url_ + ": " + text); }
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }

  SharedBuffers& buffers_;
  Counters& counters_;
  StatusBoard& board_;
  const Target target_;
  SessionTransport transport_;
  Connection connection_;
  WakePipe stop_;
  std::atomic<bool> stopping_{false};
  std::string url_;        // of the place that is tried
  double pause_ = kFirstPause;
  bool opened_ = false;    // whether this attempt was welcomed
  bool mending_ = false;   // whether the next welcome mends something
  Clock::time_point mend_until_{};  // then the server has forgotten the session
  Clock::time_point beat_at_{}, progress_{};
  double beat_ = kBeat;
  int silent_ = 0;         // beats since the last message
  std::string refusal_;    // of a preset
  std::thread thread_;     // the last, for it uses all of these
};

// --- the thread

void NetworkThread::Impl::run() {
  prepare_thread();
  while (!stopping()) {
    double rest = kRefusedPause;
    try {
      opened_ = false;
      const Outcome outcome = attempt();
      connection_.close();
      transport_.disconnected();
      if (outcome == Outcome::kAgain) continue;
      if (outcome == Outcome::kStarting) rest = kStartingPause;
      if (outcome == Outcome::kBroken || outcome == Outcome::kNobody) {
        rest = pause_;
        pause_ = std::min(2 * pause_, kLastPause);
      }
    } catch (const std::exception& error) {  // no memory, no descriptors: the host must live on
      connection_.close();
      transport_.disconnected();
      board_.set(Code::kServerFault, std::string("the plugin cannot go on: ") + error.what());
    }
    pause(rest);
  }
}

void NetworkThread::Impl::prepare_thread() {
  // A host's signal handlers were not written for threads that it does not know.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), "stemwire");
  // Between audio and all else, where that is allowed. Nothing that is started inherits it.
  sched_param priority{};
  priority.sched_priority = kPriority;
  pthread_setschedparam(pthread_self(), SCHED_RR | SCHED_RESET_ON_FORK, &priority);
}

// Waits for a descriptor (or none), and minds the audio thread meanwhile. What happened to it.
short NetworkThread::Impl::wait(int descriptor, short events, Clock::time_point until) {
  pollfd listen[3] = {{stop_.descriptor(), POLLIN, 0},
                      {buffers_.to_network.descriptor(), POLLIN, 0},
                      {descriptor, events, 0}};
  const auto left = std::max<std::int64_t>(
      0, std::chrono::duration_cast<std::chrono::nanoseconds>(until - Clock::now()).count());
  const timespec time{static_cast<time_t>(left / 1'000'000'000),
                      static_cast<long>(left % 1'000'000'000)};
  if (ppoll(listen, descriptor < 0 ? 2 : 3, &time, nullptr) <= 0) return 0;
  if (listen[1].revents != 0) {
    buffers_.to_network.clear();
    transport_.look();
  }
  return listen[2].revents;
}

void NetworkThread::Impl::pause(double n) {
  // Not all clients of a server that was restarted come at the same moment.
  std::uint8_t chance = 0;
  system_random(&chance, 1);
  const auto until = Clock::now() + seconds(n * (0.75 + 0.5 * chance / 255.0));
  while (!stopping() && Clock::now() < until) {
    wait(-1, 0, until);
    show();
  }
}

// --- places

NetworkThread::Impl::Outcome NetworkThread::Impl::attempt() {
  collect_local_server();
  transport_.look();
  if (transport_.peer().has_session() && Clock::now() > mend_until_) {
    transport_.lost(url_ + ": the connection was broken for too long");
  }
  if (!target_.local) return visit({"", target_.url, target_.token});
  const LocalPlaces here = local_places();
  Outcome outcome = Outcome::kNobody;
  for (const NamedServer& place : here.places) {
    outcome = visit(place);
    // One that does not know our token is another user's, or has begun anew.
    if (!opened_ && board_.code() == Code::kTokenRefused) outcome = Outcome::kForeign;
    const bool elsewhere = outcome == Outcome::kNobody || outcome == Outcome::kForeign;
    if (stopping() || opened_ || !elsewhere) return outcome;
  }
  if (here.places.empty() && !target_.autostart) {
    board_.set(Code::kNoServer, "no server of yours runs on this computer; run 'stemwire plugin "
                                "serve', or turn Autostart on");
  }
  return here.fixed ? outcome : start_server(outcome);
}

NetworkThread::Impl::Outcome NetworkThread::Impl::start_server(Outcome outcome) {
  if (!target_.autostart) return outcome;
  const Start start = start_local_server();
  if (start.result == Start::Result::kStarting) {
    board_.set(Code::kConnecting, "starting the server on this computer");
    return Outcome::kStarting;
  }
  if (outcome == Outcome::kRefused) return outcome;  // the board says why
  board_.set(Code::kNoServer, "no server on this computer; " + start.problem);
  return outcome;
}

NetworkThread::Impl::Outcome NetworkThread::Impl::visit(const NamedServer& place) {
  Address address;
  std::string problem;
  if (!Address::parse(place.url, address, problem)) {
    board_.set(Code::kBadAddress, problem);
    return Outcome::kRefused;
  }
  url_ = address.url;
  if (board_.code() == Code::kIdle) tell(Code::kConnecting, "connecting");
  if (connection_.open(address, problem)) return converse(place.token);
  // The places of this computer are tried in turn, and tell of it when none is left.
  if (!stopping() && !(target_.local && target_.autostart)) tell(Code::kNoServer, problem);
  return Outcome::kNobody;
}

// --- a connection

NetworkThread::Impl::Outcome NetworkThread::Impl::converse(const std::string& token) {
  WebSocket& websocket = connection_.websocket();
  const auto open_by = Clock::now() + seconds(kOpening);
  while (true) {
    if (const auto outcome = take(websocket, token)) return *outcome;
    transport_.look();
    if (stopping() || transport_.wants_anew()) {
      connection_.farewell(1000, "", encode_plain("goodbye"));
      transport_.begin_anew();
      return Outcome::kAgain;
    }
    transport_.send(websocket);
    if (opened_ && !websocket.is_open()) return broken(websocket.problem());
    show();
    std::string problem;
    const auto until = opened_ ? transport_.next_send(beat_at_) : open_by;
    if (!connection_.exchange(until, problem)) {
      if (opened_) return broken(problem);
      tell(Code::kNoServer, "there, but not willing (" + problem + "); check host and port");
      return Outcome::kNobody;
    }
    if (opened_) {
      if (const auto outcome = beat(websocket)) return *outcome;
    } else if (Clock::now() > open_by) {
      tell(Code::kServerFault, "there, but says nothing; restart it, or check host and port");
      return Outcome::kForeign;
    }
  }
}

// Deals with all that has come; an outcome if the connection is over.
std::optional<NetworkThread::Impl::Outcome> NetworkThread::Impl::take(WebSocket& websocket,
                                                    const std::string& token) {
  while (true) {
    std::optional<Outcome> outcome;
    const WebSocket::Event event = websocket.next();
    if (event != WebSocket::Event::kNone) silent_ = 0;
    switch (event) {
      case WebSocket::Event::kNone: return {};
      case WebSocket::Event::kOpen: websocket.send_text(transport_.hello(token)); break;
      case WebSocket::Event::kText:
        outcome = hear(transport_.receive_text(websocket.text()));
        break;
      case WebSocket::Event::kBinary:
        outcome =
            hear(transport_.receive_binary(websocket.message().data(), websocket.message().size()));
        break;
      case WebSocket::Event::kClosed: {
        const int code = websocket.code();
        const std::string why =
            "it closed (" + std::to_string(code) + ' ' + websocket.problem() + ')';
        connection_.farewell(code, "");
        if (opened_ && code != 1000 && code != 1001) return broken(why);
        return lost(Code::kConnecting, why, opened_ ? Outcome::kBroken : Outcome::kRefused);
      }
      case WebSocket::Event::kFailed:
        if (!opened_) return not_open(websocket);
        return at_fault({"", websocket.problem(), false});
    }
    if (outcome) return outcome;
  }
}

std::optional<NetworkThread::Impl::Outcome> NetworkThread::Impl::hear(const ClientPeer::Event& event) {
  switch (event.kind) {
    case Kind::kWelcome: welcomed(event.resumed); return {};
    case Kind::kAudio:
      progress_ = Clock::now();
      pause_ = kFirstPause;
      return {};
    case Kind::kState: refusal_.clear(); return {};
    case Kind::kRefusal: refusal_ = event.fault.text; return {};
    case Kind::kGoodbye:
      return lost(Code::kConnecting, "it said goodbye (" + event.fault.text + ")",
                  Outcome::kBroken);
    case Kind::kFault:
      return event.fault.from_server ? refused(event.fault) : at_fault(event.fault);
    case Kind::kNothing: return {};
  }
  return {};
}

void NetworkThread::Impl::welcomed(bool resumed) {
  opened_ = true;
  refusal_.clear();
  if (mending_) ++counters_.reconnects;
  if (mending_ && resumed) ++counters_.resumes;
  mending_ = false;
  const Limits& limits = transport_.peer().limits();
  beat_ = kBeat;
  if (limits.idle > 0) beat_ = std::min(beat_, limits.idle / 3);
  if (limits.grace > 0) beat_ = std::min(beat_, limits.grace / 6);
  beat_ = std::max(beat_, 0.05);
  progress_ = Clock::now();
  beat_at_ = progress_ + seconds(beat_);
  connection_.websocket().limit_binary(static_cast<std::size_t>(limits.message));
}

// Asks for a sign of life now and then, and gives up if none comes.
std::optional<NetworkThread::Impl::Outcome> NetworkThread::Impl::beat(WebSocket& websocket) {
  const auto now = Clock::now();
  if (!transport_.waits()) progress_ = now;
  if (now < beat_at_) return {};
  beat_at_ = now + seconds(beat_);
  if (++silent_ > kMissedBeats) return broken("no sign of life");
  if (!transport_.offline() && now - progress_ > seconds(kPatience)) {
    connection_.farewell(1008, "too_slow");
    return lost(Code::kServerFault, "takes the music and gives no stems; it is stuck or overloaded",
                Outcome::kRefused);
  }
  websocket.send_text(encode_ping(1));
  return {};
}

// --- how connections end

NetworkThread::Impl::Outcome NetworkThread::Impl::not_open(const WebSocket& websocket) {
  const Failure failure = failure_of_handshake(websocket.http_status(), websocket.problem());
  tell(failure.code, failure.text);
  if (failure.passes) return Outcome::kBroken;
  return failure.code == Code::kTokenRefused ? Outcome::kRefused : Outcome::kForeign;
}

// The server has told an error.
NetworkThread::Impl::Outcome NetworkThread::Impl::refused(const Fault& fault) {
  if (opened_ && fault.code == "too_slow") return broken(fault.text);
  if (opened_) {
    const Code code = passes(fault.code) ? Code::kNoServer : Code::kServerFault;
    return lost(code, fault.text + " (" + fault.code + ")", Outcome::kBroken);
  }
  if (fault.code == "resume") return lost(Code::kConnecting, fault.text, Outcome::kAgain);
  const Failure failure = failure_of_error(fault);
  tell(failure.code, failure.text);
  return failure.passes ? Outcome::kBroken : Outcome::kRefused;
}

// The server does not keep to the protocol.
NetworkThread::Impl::Outcome NetworkThread::Impl::at_fault(const Fault& fault) {
  connection_.farewell(1008, fault.code);  // if the websocket has not said why already
  const Failure failure = failure_of_violation(fault);
  return lost(failure.code, failure.text, Outcome::kRefused);
}

// The session can go on with another connection.
NetworkThread::Impl::Outcome NetworkThread::Impl::broken(const std::string& why) {
  mending_ = true;
  mend_until_ = Clock::now() + seconds(std::min(transport_.peer().limits().grace, 3600.0));
  tell(Code::kConnecting, "the connection is lost (" + why + "); trying again");
  return Outcome::kBroken;
}

NetworkThread::Impl::Outcome NetworkThread::Impl::lost(Code code, const std::string& why, Outcome outcome) {
  mending_ = mending_ || opened_;
  tell(code, why);
  transport_.lost(url_ + ": " + why);
  return outcome;
}

// What lasts: a render that has failed, or how a session that stands fares.
void NetworkThread::Impl::show() {
  if (transport_.failed()) {
    return board_.set(Code::kRenderFailed, transport_.reason());
  }
  if (!opened_ || !transport_.peer().connected()) return;
  const ClientPeer& peer = transport_.peer();
  const auto ms = [&](std::int64_t samples) {
    return std::to_string(samples * 1000 / buffers_.rate) + " ms";
  };
  const int delay = buffers_.delay.load(std::memory_order_relaxed);
  if (transport_.too_late()) {
    tell(Code::kDelayTooSmall,
         "the separator alone is " + ms(peer.latency()) + " late (" +
             std::to_string(peer.latency()) + " samples), and the plugin's delay is " + ms(delay) +
             " (" + std::to_string(delay) + "); choose a longer delay");
  } else if (!refusal_.empty()) {
    tell(Code::kRefused, refusal_);
  } else {
    tell(Code::kSeparating, std::string(transport_.preset()) + ", " + ms(peer.latency()) +
                                " late of " + ms(delay) + ", " + peer.server());
  }
}

// --- the interface

NetworkThread::NetworkThread(SharedBuffers& buffers, Counters& counters, StatusBoard& board, Target target)
    : impl_(std::make_unique<Impl>(buffers, counters, board, std::move(target))) {}

NetworkThread::~NetworkThread() = default;

}  // namespace stemwire
