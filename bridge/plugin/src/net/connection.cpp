#include "net/connection.h"

#include <poll.h>

namespace stemwire {
namespace {

constexpr auto kConnectTime = std::chrono::seconds(3);  // for TCP, and for looking up its name
constexpr auto kFarewellTime = std::chrono::milliseconds(100);
constexpr std::size_t kPiece = 64 * 1024;  // bytes that are read at a time
constexpr char kHelp[] =
    "; start a server there with 'stemwire serve', or check host, port and firewall";

}  // namespace

Connection::Connection(Wait wait, Stopping stopping)
    : wait_(std::move(wait)), stopping_(std::move(stopping)), bytes_(kPiece) {}

// A lookup that takes long goes on from attempt to attempt.
bool Connection::look_up(const Address& address, std::string& problem) {
  const std::string wanted = address.host + " " + std::to_string(address.port);
  if (!lookup_ || looked_up_ != wanted || lookup_->done()) lookup_.emplace(address);
  looked_up_ = wanted;
  const auto until = Clock::now() + kConnectTime;
  while (!lookup_->done() && Clock::now() < until && !stopping_()) {
    wait_(lookup_->descriptor(), POLLIN, until);
  }
  if (!lookup_->done()) {
    problem = address.host + " is being looked up, and no name server answers";
    return false;
  }
  problem = lookup_->problem();
  return !lookup_->endpoints().empty();
}

bool Connection::open(const Address& address, std::string& problem) {
  close();
  if (!look_up(address, problem)) return false;
  for (const Endpoint& endpoint : lookup_->endpoints()) {
    auto result = socket_.connect(endpoint);
    const auto until = Clock::now() + kConnectTime;
    while (result == Socket::Result::kLater && Clock::now() < until && !stopping_()) {
      if (wait_(socket_.descriptor(), POLLOUT, until) != 0) result = socket_.connected();
    }
    if (stopping_()) return false;
    if (result == Socket::Result::kDone) {
      mute_ = false;
      websocket_.emplace();
      websocket_->open(address.host_header, address.path, "stemwire.1");
      return true;
    }
    // Of several the first tells most: that of a name's second kind of address is often none.
    if (problem.empty()) {
      problem = "cannot be reached (" +
                (result == Socket::Result::kLater ? "no answer" : socket_.error()) + ")" + kHelp;
    }
    socket_.close();
  }
  return false;
}

bool Connection::write() {
  while (websocket_->waiting() > 0 && !mute_) {
    std::size_t n = websocket_->waiting();
    const auto result = socket_.write(websocket_->output(), n);
    websocket_->written(n);
    if (result == Socket::Result::kLater) return true;
    // What it said before it went away may still be read, and tells why.
    mute_ = result == Socket::Result::kEnded;
  }
  return false;
}

bool Connection::exchange(Clock::time_point until, std::string& problem) {
  const bool more = write();
  const short events =
      wait_(socket_.descriptor(), static_cast<short>(POLLIN | (more ? POLLOUT : 0)), until);
  if ((events & ~POLLOUT) == 0) return true;
  std::size_t n = bytes_.size();
  const auto result = socket_.read(bytes_.data(), n);
  websocket_->receive(bytes_.data(), n);
  if (result != Socket::Result::kEnded) return true;
  problem = socket_.error().empty() ? "it hung up" : socket_.error();
  return false;
}

void Connection::farewell(int code, std::string_view reason, std::string_view text) {
  if (!websocket_ || socket_.descriptor() < 0) return;
  if (!text.empty()) websocket_->send_text(text);
  websocket_->close(code, reason);
  const auto until = Clock::now() + kFarewellTime;
  bool ended = false;
  // Read until its end too: closing with unread bytes would take back what was just sent.
  while (Clock::now() < until && !mute_) {
    const bool more = write();
    if (!more && !ended) {
      socket_.end_writing();
      ended = true;
    }
    pollfd one{socket_.descriptor(), static_cast<short>(POLLIN | (more ? POLLOUT : 0)), 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    if (poll(&one, 1, static_cast<int>(left.count()) + 1) <= 0) break;
    std::size_t n = bytes_.size();
    if ((one.revents & ~POLLOUT) != 0 &&
        socket_.read(bytes_.data(), n) == Socket::Result::kEnded) {
      break;
    }
  }
  close();
}

void Connection::close() {
  socket_.close();
  websocket_.reset();
}

}  // namespace stemwire
