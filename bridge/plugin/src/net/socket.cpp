#include "net/socket.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "audio/wake_pipe.h"

namespace stemwire {
namespace {

constexpr std::size_t kMaxUrl = 1024;
constexpr std::uint16_t kWebPort = 80;
constexpr char kExample[] = "; expected ws://HOST:PORT";

bool is_localhost(const std::string& host) {
  constexpr std::string_view kName = "localhost", kEnd = ".localhost";
  return host == kName || (host.size() > kEnd.size() &&
                           host.compare(host.size() - kEnd.size(), kEnd.size(), kEnd) == 0);
}

// Endpoints of a host, numeric only if `numbers`, else from name servers; 0 or a getaddrinfo error.
int look_up(const std::string& host, std::uint16_t port, bool numbers, std::vector<Endpoint>& to) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (numbers ? AI_NUMERICHOST : 0);
  addrinfo* found = nullptr;
  const int problem = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (problem != 0) return problem;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    if (one->ai_addrlen > sizeof(sockaddr_storage)) continue;
    std::memcpy(&to.emplace_back().address, one->ai_addr, one->ai_addrlen);
    to.back().length = one->ai_addrlen;
  }
  freeaddrinfo(found);
  return 0;
}

// Keeps the code loaded: a host may unload the plugin while a name is still being looked up.
void pin_library() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&pin_library), &info) != 0 && info.dli_fname != nullptr) {
    dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
  }
}

}  // namespace

std::string error_text(int number) { return std::system_category().message(number); }

bool Address::parse(std::string_view text, Address& address, std::string& problem) {
  const std::string shown(text.substr(0, 200));
  const auto wrong = [&](const std::string& what) {
    problem = shown + ": " + what + kExample;
    return false;
  };
  const auto begins = [&](std::string_view with) { return text.substr(0, with.size()) == with; };
  if (text.empty()) return wrong("no address");
  if (text.size() > kMaxUrl) return wrong("too long for an address");
  for (const char c : text) {
    if (c <= 0x20 || c >= 0x7F)
      return wrong("contains blanks or characters beyond ASCII");
  }
  if (begins("wss://") || begins("https://")) {
    return wrong("the plugin has no TLS; it connects only to this computer or the local network");
  }
  if (!begins("ws://")) return wrong("does not begin with ws://");
  address = Address();
  address.url = text;
  std::string_view rest = text.substr(5);
  const std::size_t slash = std::min(rest.find_first_of("/?"), rest.size());
  if (rest.find('#') != std::string_view::npos) return wrong("contains a '#'");
  std::string_view place = rest.substr(0, slash), path = rest.substr(slash);
  if (place.find('@') != std::string_view::npos) {
    problem = "secrets do not belong in an address; give the token separately";
    return false;
  }
  address.host_header = place;
  if (!place.empty() && place[0] == '[') {
    const std::size_t end = place.find(']');
    if (end == std::string_view::npos) return wrong("a bracket is missing");
    address.host = place.substr(1, end - 1);
    place.remove_prefix(end + 1);
  } else {
    const std::size_t colon = std::min(place.find(':'), place.size());
    address.host = place.substr(0, colon);
    place.remove_prefix(colon);
  }
  if (address.host.empty()) return wrong("names no host");
  address.port = kWebPort;
  if (!place.empty()) {
    std::uint32_t port = 0;
    if (place[0] != ':' || place.size() < 2 || place.size() > 6) return wrong("names no port");
    for (const char c : place.substr(1)) {
      if (c < '0' || c > '9') return wrong("names no port");
      port = port * 10 + static_cast<std::uint32_t>(c - '0');
    }
    if (port == 0 || port > 65535) return wrong("names an invalid port");
    address.port = static_cast<std::uint16_t>(port);
  }
  const std::size_t query = std::min(path.find('?'), path.size());
  std::string_view folder = path.substr(0, query);
  while (!folder.empty() && folder.back() == '/') folder.remove_suffix(1);
  address.path = folder.empty() ? "/stream" : std::string(folder);
  address.path += path.substr(query);
  return true;
}

// --- names

struct Lookup::Shared {
  WakePipe finished;
  std::atomic<bool> done{false};
  std::vector<Endpoint> endpoints;
  std::string problem;
};

Lookup::Lookup(const Address& address) : shared_(std::make_shared<Shared>()) {
  Shared& shared = *shared_;
  const auto finish = [](Shared& of) {
    of.done.store(true, std::memory_order_release);
    of.finished.raise();
  };
  if (is_localhost(address.host)) {
    look_up("127.0.0.1", address.port, true, shared.endpoints);
    look_up("::1", address.port, true, shared.endpoints);
    finish(shared);
    return;
  }
  if (look_up(address.host, address.port, true, shared.endpoints) == 0) {
    finish(shared);
    return;
  }
  pin_library();
  try {
    std::thread([state = shared_, host = address.host, port = address.port, finish] {
      const int problem = look_up(host, port, false, state->endpoints);
      if (problem != 0) state->problem = host + " is not known (" + gai_strerror(problem) + ")";
      finish(*state);
    }).detach();
  } catch (const std::system_error& error) {
    shared.problem = error.what();
    finish(shared);
  }
}

bool Lookup::done() const { return shared_->done.load(std::memory_order_acquire); }
int Lookup::descriptor() const { return shared_->finished.descriptor(); }
const std::vector<Endpoint>& Lookup::endpoints() const { return shared_->endpoints; }
const std::string& Lookup::problem() const { return shared_->problem; }

// --- TCP

Socket::Result Socket::fail(int number) {
  error_ = error_text(number);
  return Result::kEnded;
}

Socket::Result Socket::connect(const Endpoint& endpoint) {
  close();
  error_.clear();
  descriptor_ = socket(endpoint.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor_ < 0) return fail(errno);
  const int on = 1;
  setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const auto* address = reinterpret_cast<const sockaddr*>(&endpoint.address);
  if (::connect(descriptor_, address, endpoint.length) == 0) return Result::kDone;
  return errno == EINPROGRESS || errno == EINTR ? Result::kWouldBlock : fail(errno);
}

Socket::Result Socket::connected() {
  int number = 0;
  socklen_t size = sizeof number;
  if (getsockopt(descriptor_, SOL_SOCKET, SO_ERROR, &number, &size) != 0) number = errno;
  return number == 0 ? Result::kDone : fail(number);
}

Socket::Result Socket::read(std::uint8_t* to, std::size_t& n) {
  const ssize_t got = recv(descriptor_, to, n, 0);
  n = got > 0 ? static_cast<std::size_t>(got) : 0;
  if (got > 0) return Result::kDone;
  if (got == 0) return Result::kEnded;
  return errno == EAGAIN || errno == EINTR ? Result::kWouldBlock : fail(errno);
}

Socket::Result Socket::write(const std::uint8_t* from, std::size_t& n) {
  const ssize_t put = send(descriptor_, from, n, MSG_NOSIGNAL);
  n = put > 0 ? static_cast<std::size_t>(put) : 0;
  if (put >= 0) return Result::kDone;
  return errno == EAGAIN || errno == EINTR ? Result::kWouldBlock : fail(errno);
}

void Socket::shut_down_writing() { shutdown(descriptor_, SHUT_WR); }

void Socket::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

}  // namespace stemwire
