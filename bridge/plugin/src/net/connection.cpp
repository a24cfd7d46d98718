#include "net/connection.h"

#include <poll.h>

namespace stemwire {
namespace {

constexpr auto kConnectTime = std::chrono::seconds(3);  // for TCP, and for the name lookup
constexpr auto kCloseTime = std::chrono::milliseconds(100);
constexpr std::size_t kPiece = 64 * 1024;  // bytes read at a time
constexpr char kHelp[] =
    "; start a server there with 'stemwire serve', or check host, port and firewall";

}  // namespace

Connection::Connection(Wait wait, Stopping stopping)
    : wait_(std::move(wait)), stopping_(std::move(stopping)), bytes_(kPiece) {}

// A slow lookup continues across attempts.
bool Connection::resolve(const Address& address, std::string& problem) {
  const std::string key = address.host + " " + std::to_string(address.port);
  if (!lookup_ || lookup_key_ != key || lookup_->done()) lookup_.emplace(address);
  lookup_key_ = key;
  const auto until = Clock::now() + kConnectTime;
  while (!lookup_->done() && Clock::now() < until && !stopping_()) {
    wait_(lookup_->descriptor(), POLLIN, until);
  }
  if (!lookup_->done()) {
    problem = address.host + ": no name server has answered yet";
    return false;
  }
  problem = lookup_->problem();
  return !lookup_->endpoints().empty();
}

bool Connection::open(const Address& address, std::string& problem) {
  close();
  if (!resolve(address, problem)) return false;
  for (const Endpoint& endpoint : lookup_->endpoints()) {
    auto result = socket_.connect(endpoint);
    const auto until = Clock::now() + kConnectTime;
    while (result == Socket::Result::kWouldBlock && Clock::now() < until && !stopping_()) {
      if (wait_(socket_.descriptor(), POLLOUT, until) != 0) result = socket_.connected();
    }
    if (stopping_()) return false;
    if (result == Socket::Result::kDone) {
      write_closed_ = false;
      websocket_.emplace();
      websocket_->open(address.host_header, address.path, "stemwire.1");
      return true;
    }
    // The first error says most: a name's second kind of address is often unused.
    if (problem.empty()) {
      problem = "cannot be reached (" +
                (result == Socket::Result::kWouldBlock ? "no answer" : socket_.error()) + ")" +
                kHelp;
    }
    socket_.close();
  }
  return false;
}

bool Connection::write() {
  while (websocket_->output_size() > 0 && !write_closed_) {
    std::size_t n = websocket_->output_size();
    const auto result = socket_.write(websocket_->output(), n);
    websocket_->consume_output(n);
    if (result == Socket::Result::kWouldBlock) return true;
    // What the server sent before it closed can still be read, and says why.
    write_closed_ = result == Socket::Result::kEnded;
  }
  return false;
}

bool Connection::send_and_wait(Clock::time_point until, std::string& problem) {
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

void Connection::close_gracefully(int code, std::string_view reason, std::string_view text) {
  if (!websocket_ || socket_.descriptor() < 0) return;
  if (!text.empty()) websocket_->send_text(text);
  websocket_->close(code, reason);
  const auto until = Clock::now() + kCloseTime;
  bool ended = false;
  // Read to the end too: closing with unread bytes would discard what was just sent.
  while (Clock::now() < until && !write_closed_) {
    const bool more = write();
    if (!more && !ended) {
      socket_.shut_down_writing();
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
