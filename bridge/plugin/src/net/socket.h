// Addresses, names and TCP: nothing here waits, so that the thread that uses it can be ended at
// any moment.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace stemwire {

// Where a server is: ws://HOST:PORT, with /stream behind it if there is no other path.
struct Address {
  std::string url;   // as people should see it
  std::string host;  // a name, or numbers without brackets
  std::uint16_t port = 0;
  std::string path;
  std::string host_header;

  // False with `problem`, in words for people, for what is no address that can be used.
  static bool parse(std::string_view text, Address& address, std::string& problem);
};

struct Endpoint {
  sockaddr_storage address{};
  socklen_t length = 0;
};

// Looks up a name. Numbers and localhost are done at once; others in a thread of their own, which
// nobody ever waits for: a name server may need half a minute to say nothing.
class Lookup {
 public:
  explicit Lookup(const Address& address);

  bool done() const;
  int descriptor() const;  // readable once done
  // Once done. Empty with a `problem`.
  const std::vector<Endpoint>& endpoints() const;
  const std::string& problem() const;

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

// A TCP connection that never blocks, and never raises SIGPIPE in a host.
class Socket {
 public:
  enum class Result { kDone, kLater, kEnded };  // `error` says why it ended

  Socket() = default;
  ~Socket() { close(); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  // kLater: wait until it can be written to, then ask `connected`.
  Result connect(const Endpoint& endpoint);
  Result connected();
  // At most n bytes; `n` becomes how many. kEnded without an error is the other side's end.
  Result read(std::uint8_t* to, std::size_t& n);
  Result write(const std::uint8_t* from, std::size_t& n);
  void end_writing();  // the other side sees the end, and can still be read
  void close();

  int descriptor() const { return descriptor_; }
  const std::string& error() const { return error_; }

 private:
  Result failed(int number);

  int descriptor_ = -1;
  std::string error_;
};

// Text of an errno, whatever threads do.
std::string error_text(int number);

}  // namespace stemwire
