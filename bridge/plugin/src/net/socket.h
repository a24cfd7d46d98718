// Addresses, name lookup and TCP. Nothing here waits, so the thread using it can end at any moment.
// Everything: network thread.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace stemwire {

// A server's address: ws://HOST:PORT, with the path /stream unless another is given.
struct Address {
  std::string url;   // as shown to the user
  std::string host;  // a name, or a numeric address without brackets
  std::uint16_t port = 0;
  std::string path;
  std::string host_header;

  // False with `problem`, for the user, if the address is invalid.
  static bool parse(std::string_view text, Address& address, std::string& problem);
};

struct Endpoint {
  sockaddr_storage address{};
  socklen_t length = 0;
};

// Looks up a name. Numeric addresses and localhost are resolved at once; other names in a thread of
// their own that is never joined: a name server may take half a minute to time out.
class Lookup {
 public:
  explicit Lookup(const Address& address);

  bool done() const;
  int descriptor() const;  // readable once done
  // Once done: the endpoints, or none and a `problem`.
  const std::vector<Endpoint>& endpoints() const;
  const std::string& problem() const;

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

// A TCP connection that never blocks and never raises SIGPIPE in the host.
class Socket {
 public:
  enum class Result { kDone, kWouldBlock, kEnded };  // `error` says why it ended

  Socket() = default;
  ~Socket() { close(); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  // kWouldBlock: poll until writable, then call `connected`.
  Result connect(const Endpoint& endpoint);
  Result connected();
  // Transfers at most n bytes and sets `n` to their number. kEnded without an error: the server has
  // closed.
  Result read(std::uint8_t* to, std::size_t& n);
  Result write(const std::uint8_t* from, std::size_t& n);
  void shut_down_writing();  // the server sees the end, and can still be read
  void close();

  int descriptor() const { return descriptor_; }
  const std::string& error() const { return error_; }

 private:
  Result fail(int number);

  int descriptor_ = -1;
  std::string error_;
};

// Text of an errno; thread-safe.
std::string error_text(int number);

}  // namespace stemwire
