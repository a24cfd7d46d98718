#include "net/network_thread.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "net/network_thread_impl.h"

namespace stemwire {
namespace {

constexpr char kClient[] = "stemwire plugin " STEMWIRE_VERSION;

}  // namespace

// --- the thread

NetworkThread::Impl::Impl(SharedBuffers& buffers, Counters& counters, StatusBoard& board,
                          Target target)
    : buffers_(buffers),
      counters_(counters),
      board_(board),
      target_(std::move(target)),
      transport_(buffers, kClient,
                 [this](const std::string& why) { board_.set(Status::kRenderFailed, why); }),
      connection_([this](auto... what) { return wait(what...); }, [this] { return stopping(); }),
      thread_([this] { run(); }) {}

NetworkThread::Impl::~Impl() {
  stopping_.store(true);
  stop_wake_.raise();
  thread_.join();
}

void NetworkThread::Impl::run() {
  prepare_thread();
  while (!stopping()) {
    double rest = kRefusedPause;
    try {
      welcomed_ = false;
      const Outcome outcome = attempt();
      connection_.close();
      transport_.disconnected();
      if (outcome == Outcome::kReconnectNow) continue;
      if (outcome == Outcome::kStarting) rest = kStartingPause;
      if (outcome == Outcome::kDisconnected || outcome == Outcome::kUnreachable) {
        rest = retry_pause_;
        retry_pause_ = std::min(2 * retry_pause_, kMaxRetryPause);
      }
    } catch (const std::exception& error) {  // out of memory or descriptors: never crash the host
      connection_.close();
      transport_.disconnected();
      board_.set(Status::kServerFault, std::string("the plugin cannot continue: ") + error.what());
    }
    pause(rest);
  }
}

void NetworkThread::Impl::prepare_thread() {
  // A host's signal handlers do not expect threads that it did not create.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), "stemwire");
  // Between audio and everything else, where permitted. Child processes do not inherit it.
  sched_param priority{};
  priority.sched_priority = kPriority;
  pthread_setschedparam(pthread_self(), SCHED_RR | SCHED_RESET_ON_FORK, &priority);
}

// Waits for events at a descriptor (-1 for none) while serving the audio thread. The events that
// occurred.
short NetworkThread::Impl::wait(int descriptor, short events, Clock::time_point until) {
  pollfd listen[3] = {{stop_wake_.descriptor(), POLLIN, 0},
                      {buffers_.to_network.descriptor(), POLLIN, 0},
                      {descriptor, events, 0}};
  const auto left = std::max<std::int64_t>(
      0, std::chrono::duration_cast<std::chrono::nanoseconds>(until - Clock::now()).count());
  const timespec time{static_cast<time_t>(left / 1'000'000'000),
                      static_cast<long>(left % 1'000'000'000)};
  if (ppoll(listen, descriptor < 0 ? 2 : 3, &time, nullptr) <= 0) return 0;
  if (listen[1].revents != 0) {
    buffers_.to_network.clear();
    transport_.update();
  }
  return listen[2].revents;
}

void NetworkThread::Impl::pause(double n) {
  // Jitter, so that the clients of a restarted server do not all return at once.
  std::uint8_t jitter = 0;
  system_random(&jitter, 1);
  const auto until = Clock::now() + seconds(n * (0.75 + 0.5 * jitter / 255.0));
  while (!stopping() && Clock::now() < until) {
    wait(-1, 0, until);
    update_status();
  }
}

// --- servers

auto NetworkThread::Impl::attempt() -> Outcome {
  reap_local_server();
  transport_.update();
  if (transport_.peer().has_session() && Clock::now() > resume_until_) {
    transport_.session_lost(url_ + ": the connection was lost for too long");
  }
  if (!target_.local) return try_server({"", target_.url, target_.token});
  const LocalCandidates local = local_candidates();
  Outcome outcome = Outcome::kUnreachable;
  for (const NamedServer& server : local.servers) {
    outcome = try_server(server);
    // A server that rejects our token is another user's, or has restarted.
    if (!welcomed_ && board_.status() == Status::kTokenRefused) outcome = Outcome::kWrongServer;
    const bool elsewhere = outcome == Outcome::kUnreachable || outcome == Outcome::kWrongServer;
    if (stopping() || welcomed_ || !elsewhere) return outcome;
  }
  if (local.servers.empty() && !target_.autostart) {
    board_.set(Status::kNoServer, "no server of yours is running on this computer; run 'stemwire "
                                  "plugin serve', or turn Autostart on");
  }
  return local.from_environment ? outcome : start_server(outcome);
}

auto NetworkThread::Impl::start_server(Outcome outcome) -> Outcome {
  if (!target_.autostart) return outcome;
  const StartResult start = start_local_server();
  if (start.state == StartResult::State::kStarting) {
    board_.set(Status::kConnecting, "starting the server on this computer");
    return Outcome::kStarting;
  }
  if (outcome == Outcome::kRefused) return outcome;  // the board says why
  board_.set(Status::kNoServer, "no server on this computer; " + start.problem);
  return outcome;
}

auto NetworkThread::Impl::try_server(const NamedServer& server) -> Outcome {
  Address address;
  std::string problem;
  if (!Address::parse(server.url, address, problem)) {
    board_.set(Status::kBadAddress, problem);
    return Outcome::kRefused;
  }
  url_ = address.url;
  if (board_.status() == Status::kIdle) set_status(Status::kConnecting, "connecting");
  if (connection_.open(address, problem)) return run_connection(server.token);
  // Local candidates are tried in turn; only if none is left is that reported.
  if (!stopping() && !(target_.local && target_.autostart)) set_status(Status::kNoServer, problem);
  return Outcome::kUnreachable;
}

// --- the interface

NetworkThread::NetworkThread(SharedBuffers& buffers, Counters& counters, StatusBoard& board,
                             Target target)
    : impl_(std::make_unique<Impl>(buffers, counters, board, std::move(target))) {}

NetworkThread::~NetworkThread() = default;

}  // namespace stemwire
