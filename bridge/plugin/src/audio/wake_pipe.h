// Wakes a thread from another that must not wait itself.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <system_error>

namespace stemwire {

// A pipe that never blocks whoever writes: `raise` is one system call and allocates nothing. It can
// be waited for together with sockets, as a condition variable cannot.
class WakePipe {
 public:
  WakePipe() {
    if (pipe(ends_) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
    for (const int end : ends_) {
      fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK);
      fcntl(end, F_SETFD, FD_CLOEXEC);
    }
  }
  ~WakePipe() {
    close(ends_[0]);
    close(ends_[1]);
  }
  WakePipe(const WakePipe&) = delete;
  WakePipe& operator=(const WakePipe&) = delete;

  // Any thread. A full pipe is as good as one more byte in it.
  void raise() {
    const char byte = 0;
    [[maybe_unused]] const auto written = ::write(ends_[1], &byte, 1);
  }

  // The one thread that listens.
  int descriptor() const { return ends_[0]; }

  void clear() {
    char bytes[64];
    while (::read(ends_[0], bytes, sizeof bytes) > 0) {
    }
  }

  // Waits until raised, or so many milliseconds; then all is cleared. True if it was raised.
  bool wait(int milliseconds) {
    pollfd listen{ends_[0], POLLIN, 0};
    const bool raised = poll(&listen, 1, milliseconds) > 0;
    clear();
    return raised;
  }

 private:
  int ends_[2];
};

}  // namespace stemwire
