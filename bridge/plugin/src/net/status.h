// How the plugin fares, for people: a code that hosts show as a parameter, and a line of text.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace stemwire {

enum class Code : int {
  kIdle,           // not active
  kConnecting,     // looking for a server, or waiting for one that has been started
  kSeparating,     // stems come, in time
  kLate,           // stems come, but not in time: the delay is too small, or the server too slow
  kNoServer,       // nobody answers; tried again
  kTokenRefused,   // no token, or a wrong one
  kVersion,        // the server does not speak this version
  kRefused,        // the server cannot: rate, preset, no room
  kServerFault,    // what came is not the protocol
  kDelayTooSmall,  // the separator alone is later than the delay
  kBadAddress,     // what is no ws:// address
  kRenderFailed,   // offline: stems did not come, and what was written is no music
};
constexpr int kCodes = 12;

// What a host shows, at most 24 characters.
const char* name_of(Code code);

// A log file that people can be asked for. Lines from several instances and hosts go into one
// file, each appended whole; at a megabyte it begins anew. That it cannot be written is no error.
// Never from the audio thread.
class Log {
 public:
  explicit Log(std::string path) : path_(std::move(path)) {}
  void write(const std::string& text);

 private:
  std::mutex mutex_;
  std::string path_;
};

// The platform's place for it: $XDG_STATE_HOME/stemwire/plugin.log, or ~/.local/state/….
std::string log_path();

// Set by the network thread, read by any but the audio thread (which may read `code` alone).
class StatusBoard {
 public:
  explicit StatusBoard(Log& log) : log_(log) {}

  // Another code or text goes into the log too.
  void set(Code code, const std::string& text);
  Code code() const { return code_.load(std::memory_order_relaxed); }
  std::string text() const;

 private:
  Log& log_;
  std::atomic<Code> code_{Code::kIdle};
  mutable std::mutex mutex_;
  std::string text_;
};

}  // namespace stemwire
