// Wakes a thread from another one that must not block.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <system_error>

namespace stemwire {

// A pipe whose writer never blocks: `raise` is one system call and allocates nothing. Unlike a
// condition variable it can be polled together with sockets.
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

  // Any thread, the audio thread included. If the pipe is full, the reader wakes up anyway.
  void raise() {
    const char byte = 0;
    [[maybe_unused]] const auto written = ::write(ends_[1], &byte, 1);
  }

  // Waiting thread. Descriptor to poll; readable once raised.
  int descriptor() const { return ends_[0]; }

  // Waiting thread.
  void clear() {
    char bytes[64];
    while (::read(ends_[0], bytes, sizeof bytes) > 0) {
    }
  }

  // Waiting thread. Waits until raised, for at most `milliseconds` (-1: without limit), then clears
  // the pipe. True if it was raised.
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
